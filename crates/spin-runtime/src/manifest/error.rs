//! What is wrong with a manifest, said in full: every problem with its line and key.

use std::{fmt, path::PathBuf};

/// A manifest that cannot be used, with everything found wrong in it.
///
/// Its display has one line for each problem: `spin.toml:12: component.orders.sources: unknown key; …`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestError {
    /// The manifest's file, as it was given.
    pub path: PathBuf,
    /// What is wrong, in the order of the file; never empty.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The line, from 1; `None` when it is not about a place in the text.
    pub line: Option<usize>,
    /// The dotted path of the key, empty when it is about the whole file.
    pub key: String,
    /// What is wrong and what to do about it.
    pub message: String,
}

impl ManifestError {
    /// A manifest with a single problem that has no place in the text.
    pub(super) fn whole(path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        let problem = Problem {
            line: None,
            key: String::new(),
            message: message.into(),
        };
        Self {
            path: path.into(),
            problems: vec![problem],
        }
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}", self.path.display())?;
            if let Some(line) = problem.line {
                write!(f, ":{line}")?;
            }
            if !problem.key.is_empty() {
                write!(f, ": {}", problem.key)?;
            }
            write!(f, ": {}", problem.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for ManifestError {}
