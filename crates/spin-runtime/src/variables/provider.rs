//! Providers of a runtime configuration, and files of environment variables.

use std::{collections::HashMap, fs, io, path::Path};

use anyhow::anyhow;

use crate::runtime_config::VariableProvider;

/// A provider of a runtime configuration and the contents of its file.
pub(super) struct Provider<'a> {
    config: &'a VariableProvider,
    dot_env: HashMap<String, String>,
}

impl<'a> Provider<'a> {
    /// Reads the file of a provider, if it has one.
    pub(super) fn open(config: &'a VariableProvider) -> anyhow::Result<Self> {
        let dot_env = match config {
            VariableProvider::Environment {
                dot_env: Some(file),
                ..
            } => read_dot_env(file)?,
            _ => HashMap::new(),
        };
        Ok(Self { config, dot_env })
    }

    /// Returns the value of a variable. `environment` looks up an environment variable.
    pub(super) fn get(
        &self,
        name: &str,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Option<String> {
        match self.config {
            VariableProvider::Static(values) => values.get(name).cloned(),
            VariableProvider::Environment { prefix, .. } => {
                let key = prefixed_key(prefix, name);
                environment(&key).or_else(|| self.dot_env.get(&key).cloned())
            }
        }
    }
}

/// Returns the name of an environment variable with the value of a variable.
pub(super) fn prefixed_key(prefix: &str, name: &str) -> String {
    format!("{prefix}_{}", name.to_ascii_uppercase())
}

/// Reads a file of environment variables. One that does not exist has none.
pub(super) fn read_dot_env(path: &Path) -> anyhow::Result<HashMap<String, String>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashMap::new()),
        Err(error) => {
            return Err(anyhow!(error).context(format!("cannot read {}", path.display())));
        }
    };
    // Some editors begin UTF-8 with a byte order mark, which is not part of the first name.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let pairs = dotenvy::from_read_iter(text.as_bytes()).collect::<Result<_, _>>();
    pairs.map_err(|error| {
        // The line may contain a secret, so the error only contains its number.
        let line = match &error {
            // The error contains the rest of the line, from the position of the problem.
            dotenvy::Error::LineParse(rest, _) if !rest.trim().is_empty() => text
                .lines()
                .position(|line| line.trim_end().ends_with(rest.trim())),
            _ => None,
        };
        let line = line
            .map(|index| format!(":{}", index + 1))
            .unwrap_or_default();
        anyhow!(
            "{}{line}: expected NAME=VALUE or a comment that starts with #",
            path.display()
        )
    })
}
