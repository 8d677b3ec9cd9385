//! Errors of manifests.

use std::{fmt, path::PathBuf};

/// A manifest that cannot be used, with all of its problems.
///
/// `Display` prints one line for each problem: `spin.toml:12: component.orders.sources: unknown key; …`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestError {
    /// The path of the manifest, as given by the caller.
    pub path: PathBuf,
    /// The problems, in the order of the file. Never empty.
    pub problems: Vec<Problem>,
}

/// A problem of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The line, starting at 1. `None` if the problem has no position in the text.
    pub line: Option<usize>,
    /// The dotted path of the key. Empty if the problem is about the whole file.
    pub key: String,
    /// What is wrong and how to fix it.
    pub message: String,
}

impl ManifestError {
    /// Creates an error about the whole file.
    pub(super) fn file(path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
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
