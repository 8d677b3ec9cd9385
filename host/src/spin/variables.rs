//! The variables of an application that runs in Spin.

use std::{collections::BTreeMap, io::Write as _};

use anyhow::{Context as _, Result};
use spin_runtime::{Manifest, VariableSource, Variables};
use tempfile::NamedTempFile;

/// The names of the variables that the host provides.
const GRIP_NAMES: [&str; 2] = ["grip_url", "grip_key"];

/// The variables that the host determines. Spin determines the others.
pub(super) struct SpinVariables {
    /// The key that the host signs with. The components verify signatures with it.
    pub(super) grip_key: String,
    /// The values of `--variable`, and those of `grip_url` and `grip_key` if the manifest declares
    /// them.
    values: BTreeMap<String, String>,
}

impl SpinVariables {
    /// Resolves the variables.
    ///
    /// `options` are the values of `--variable`. `url` and `key` are the host's own, which apply if
    /// no other source has a value. `environment` looks up an environment variable.
    ///
    /// # Errors
    /// Fails if an option is not declared by the manifest, or if `.env` cannot be read.
    pub(super) fn resolve(
        manifest: &Manifest,
        options: &[(String, String)],
        url: String,
        key: String,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let mut manifest = manifest.clone();
        manifest.components.clear();
        for variable in manifest.variables.values_mut() {
            // Spin may have a provider for a required variable, and checks that.
            variable.default.get_or_insert_default();
        }
        let [url_name, key_name] = GRIP_NAMES.map(str::to_owned);
        let own = BTreeMap::from([(url_name, url), (key_name, key.clone())]);
        let variables = Variables::new(&manifest, options, own, environment)?;
        let is_passed_on = |name: &str| {
            GRIP_NAMES.contains(&name) || variables.source(name) == Some(VariableSource::Option)
        };
        let values = manifest
            .variables
            .keys()
            .filter(|name| is_passed_on(name))
            .filter_map(|name| Some((name.clone(), variables.get(name)?.to_owned())));
        Ok(Self {
            grip_key: variables.get("grip_key").map_or(key, str::to_owned),
            values: values.collect(),
        })
    }

    /// Writes the values to a temporary file for Spin's `--variable @FILE.json`, which only this
    /// user can read. Returns `None` if there are none.
    ///
    /// Spin's `--variable` takes precedence over its providers, while its environment does not. On
    /// the command line, every user of the machine could read the values.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub(super) fn write(&self) -> Result<Option<NamedTempFile>> {
        if self.values.is_empty() {
            return Ok(None);
        }
        let write = || {
            let mut file = tempfile::Builder::new()
                .prefix("socket-host-")
                .suffix(".json")
                .tempfile()?;
            file.write_all(&serde_json::to_vec(&self.values)?)?;
            anyhow::Ok(file)
        };
        write()
            .map(Some)
            .context("cannot write the variables to a temporary file")
    }
}

#[cfg(test)]
mod tests {
    use spin_runtime::ManifestUse;

    use super::*;

    const BOTH: &str = "grip_url = { required = true }\ngrip_key = { default = \"\" }\n\
        other = { required = true }\n";

    /// Resolves the variables of a manifest with these `[variables]`, and returns the key and the
    /// values, or the error, as one line.
    fn resolve(
        variables: &str,
        options: &[(&str, &str)],
        environment: &[(&str, &str)],
        dot_env: &str,
    ) -> String {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(".env"), dot_env).unwrap();
        let text = format!(
            "spin_manifest_version = 2\napplication.name = \"test\"\n[variables]\n{variables}"
        );
        let path = folder.path().join("spin.toml");
        let manifest = Manifest::parse(&text, path, ManifestUse::Upstream).unwrap();
        let options: Vec<_> = options
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        let lookup = |name: &str| {
            let mut found = environment.iter().filter(|(other, _)| *other == name);
            found.next().map(|(_, value)| value.to_string())
        };
        let resolved =
            SpinVariables::resolve(&manifest, &options, "url".into(), "key".into(), lookup);
        match resolved {
            Ok(resolved) => {
                let values = resolved.values.iter();
                let pairs = values.map(|(name, value)| format!(" {name}={value}"));
                format!("{}{}", resolved.grip_key, pairs.collect::<String>())
            }
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn options_and_the_declared_variables_of_the_host_are_passed_on() {
        assert_eq!(resolve(BOTH, &[], &[], ""), "key grip_key=key grip_url=url");
        assert_eq!(
            resolve(BOTH, &[("other", "x"), ("other", "y")], &[], ""),
            "key grip_key=key grip_url=url other=y"
        );
        assert_eq!(resolve("", &[], &[], ""), "key");
        assert_eq!(
            resolve("grip_url.required = true", &[], &[], ""),
            "key grip_url=url"
        );
    }

    #[test]
    fn other_sources_take_precedence_over_the_host() {
        let inherited = [("SPIN_VARIABLE_GRIP_KEY", "inherited")];
        assert_eq!(
            resolve(BOTH, &[("grip_key", "option")], &inherited, ""),
            "option grip_key=option grip_url=url"
        );
        assert_eq!(
            resolve(BOTH, &[], &inherited, "SPIN_VARIABLE_GRIP_KEY=file"),
            "inherited grip_key=inherited grip_url=url"
        );
        assert_eq!(
            resolve(BOTH, &[], &[], "SPIN_VARIABLE_GRIP_KEY=file"),
            "file grip_key=file grip_url=url"
        );
    }

    #[test]
    fn undeclared_options_are_errors() {
        let error = resolve(BOTH, &[("grip_kee", "x")], &[], "");
        assert!(error.contains("unknown variable \"grip_kee\""), "{error}");
    }

    #[test]
    fn only_this_user_can_read_the_file() {
        use std::os::unix::fs::PermissionsExt as _;

        let values = BTreeMap::from([("a".to_owned(), "1 = \"ü\"".to_owned())]);
        let mut variables = SpinVariables {
            grip_key: "key".into(),
            values,
        };
        let file = variables.write().unwrap().unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert_eq!(text, r#"{"a":"1 = \"ü\""}"#);
        let mode = file.as_file().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(file.path().extension(), Some("json".as_ref()));
        let path = file.path().to_owned();
        drop(file);
        assert!(!path.exists());
        variables.values.clear();
        assert!(variables.write().unwrap().is_none());
    }
}
