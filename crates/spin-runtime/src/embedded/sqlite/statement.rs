//! Statements that the user runs before the application starts.

use std::{fmt, path::PathBuf, str::FromStr};

use crate::embedded::storage::DEFAULT_LABEL;

/// A statement of the user: `STATEMENT`, `@FILE` or `@FILE:LABEL`, as for `spin up --sqlite`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteStatement {
    /// The label of the database.
    pub label: String,
    /// Where the statements are.
    pub source: StatementSource,
}

/// Where statements come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatementSource {
    /// The command line.
    Text(String),
    /// A file.
    File(PathBuf),
}

/// A [`SqliteStatement`] that cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}: expected a statement, @FILE or @FILE:LABEL")]
pub struct InvalidStatement(&'static str);

impl FromStr for SqliteStatement {
    type Err = InvalidStatement;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some(file) = text.strip_prefix('@') else {
            return Ok(Self {
                label: DEFAULT_LABEL.to_owned(),
                source: StatementSource::Text(text.to_owned()),
            });
        };
        let (file, label) = file.split_once(':').unwrap_or((file, DEFAULT_LABEL));
        let (file, label) = (file.trim(), label.trim());
        if file.is_empty() {
            return Err(InvalidStatement("the name of the file is missing"));
        }
        if label.is_empty() {
            return Err(InvalidStatement("the label of the database is missing"));
        }
        Ok(Self {
            label: label.to_owned(),
            source: StatementSource::File(file.into()),
        })
    }
}

/// Writes the statement as it is parsed.
impl fmt::Display for SqliteStatement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            StatementSource::Text(text) => f.write_str(text),
            StatementSource::File(file) if self.label == DEFAULT_LABEL => {
                write!(f, "@{}", file.display())
            }
            StatementSource::File(file) => write!(f, "@{}:{}", file.display(), self.label),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_may_have_a_label() {
        let parse = |text: &str| text.parse::<SqliteStatement>();
        let file = |file: &str, label: &str| SqliteStatement {
            label: label.into(),
            source: StatementSource::File(file.into()),
        };
        assert_eq!(parse("@init.sql"), Ok(file("init.sql", "default")));
        assert_eq!(parse("@ a/b.sql : other "), Ok(file("a/b.sql", "other")));
        let text = parse("SELECT 1").unwrap();
        assert_eq!(text.label, "default");
        assert_eq!(text.source, StatementSource::Text("SELECT 1".into()));
        for invalid in ["@", "@:label", "@file:", "@file: "] {
            assert!(parse(invalid).is_err(), "{invalid}");
        }
    }
}
