//! `--variable`: values of variables on the command line and in files.

use std::{collections::BTreeMap, path::Path, str::FromStr};

/// The variables of one `--variable`: a name and its value, a name and the file with its value, or
/// a JSON or TOML file with names and values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct VariableOption {
    pub(super) values: Vec<(String, String)>,
    /// Whether the names come from a file, which several applications may share.
    pub(super) is_shared: bool,
}

impl FromStr for VariableOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(file) = text.strip_prefix('@') {
            return Ok(Self {
                values: read_file(Path::new(file))?,
                is_shared: true,
            });
        }
        let (name, value) = text
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or("expected NAME=VALUE, NAME=@FILE, @FILE.json or @FILE.toml")?;
        let value = match value.strip_prefix('@') {
            Some(file) => read(Path::new(file))?,
            None => value.to_owned(),
        };
        Ok(Self {
            values: vec![(name.to_owned(), value)],
            is_shared: false,
        })
    }
}

fn read(file: &Path) -> Result<String, String> {
    std::fs::read_to_string(file)
        .map_err(|error| format!("cannot read {}: {error}", file.display()))
}

/// Reads a file with the names and values of variables.
fn read_file(file: &Path) -> Result<Vec<(String, String)>, String> {
    let extension = file.extension().and_then(|extension| extension.to_str());
    // A message of the parser may contain a value, which may be secret.
    let expected = |what: &str| {
        format!(
            "{} is not {what} whose values are all strings: expected names and their values",
            file.display()
        )
    };
    let values: BTreeMap<String, String> = match extension {
        Some("json") => {
            serde_json::from_str(&read(file)?).map_err(|_| expected("a JSON object"))?
        }
        Some("toml") => toml::from_str(&read(file)?).map_err(|_| expected("a TOML file"))?,
        _ => {
            return Err(format!(
                "a file of variables is JSON or TOML: expected a name that ends in .json or .toml, \
                 or NAME=@{} for the value of one variable",
                file.display()
            ));
        }
    };
    Ok(values.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn values_come_from_the_command_line_or_from_files() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let file = folder.path().join(name);
            std::fs::write(&file, text).unwrap();
            file.display().to_string()
        };
        let text = write("text.txt", "one\ntwo\n");
        let json = write("all.json", r#"{ "b": "2", "a": "1" }"#);
        let toml = write("all.toml", "a = \"1\"\nb = '2'\n");
        for (option, expected, is_shared) in [
            ("a=1".to_owned(), pairs(&[("a", "1")]), false),
            ("a=".to_owned(), pairs(&[("a", "")]), false),
            ("a=b=c".to_owned(), pairs(&[("a", "b=c")]), false),
            (format!("a=@{text}"), pairs(&[("a", "one\ntwo\n")]), false),
            (format!("@{json}"), pairs(&[("a", "1"), ("b", "2")]), true),
            (format!("@{toml}"), pairs(&[("a", "1"), ("b", "2")]), true),
        ] {
            let parsed: VariableOption = option.parse().unwrap();
            assert_eq!(
                (parsed.values, parsed.is_shared),
                (expected, is_shared),
                "{option}"
            );
        }
        let number = write("number.json", r#"{ "a": "s3cret", "b": 2 }"#);
        let broken = write("broken.toml", "a = s3cret");
        for (option, expected) in [
            ("a".to_owned(), "NAME=VALUE"),
            ("=1".to_owned(), "NAME=VALUE"),
            (String::new(), "NAME=VALUE"),
            (format!("@{text}"), ".json or .toml"),
            ("@missing.json".to_owned(), "cannot read missing.json"),
            ("a=@missing".to_owned(), "cannot read missing"),
            (format!("@{number}"), "number.json is not a JSON object"),
            (format!("@{broken}"), "broken.toml is not a TOML file"),
        ] {
            let error = option.parse::<VariableOption>().unwrap_err();
            assert!(error.contains(expected), "{option}: {error}");
            assert!(!error.contains("s3cret"), "{option}: {error}");
        }
    }
}
