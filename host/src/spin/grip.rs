//! The variables `grip_url` and `grip_key` of an application that runs in Spin.

use std::collections::BTreeMap;

use anyhow::Result;
use spin_runtime::{Manifest, VariableSource, Variables, environment_key};

/// The names of the variables that the host provides.
const NAMES: [&str; 2] = ["grip_url", "grip_key"];

/// What host and components must agree on.
#[derive(Debug)]
pub(super) struct GripVariables {
    /// The key that the host signs with.
    pub(super) key: String,
    /// Environment variables for Spin. On its command line, every user of the machine could read
    /// them.
    pub(super) environment: Vec<(String, String)>,
}

impl GripVariables {
    /// Resolves the variables, which have the same sources as in a host that runs the components.
    ///
    /// `url` and `key` are the host's own. They apply if the manifest declares the variable and no
    /// other source sets it. `environment` looks up an environment variable.
    ///
    /// # Errors
    /// Fails if `.env` cannot be read.
    pub(super) fn resolve(
        manifest: &Manifest,
        options: &[(String, String)],
        url: String,
        key: String,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        // Spin resolves the other variables.
        let mut manifest = manifest.clone();
        manifest
            .variables
            .retain(|name, _| NAMES.contains(&name.as_str()));
        manifest.components.clear();
        let declared = |name: &String| manifest.variables.contains_key(name);
        let options = options.iter().filter(|(name, _)| declared(name));
        let options: Vec<_> = options.cloned().collect();
        let [url_name, key_name] = NAMES.map(str::to_owned);
        let own = BTreeMap::from([(url_name, url), (key_name, key.clone())]);
        let variables = Variables::new(&manifest, &options, own, environment)?;

        let mut resolved = Self {
            key,
            environment: Vec::new(),
        };
        for name in NAMES {
            let Some(value) = variables.get(name) else {
                continue;
            };
            if name == "grip_key" {
                value.clone_into(&mut resolved.key);
            }
            // Spin looks for `.env` in the current folder, which may be another one.
            if matches!(
                variables.source(name),
                Some(VariableSource::Host | VariableSource::DotEnv)
            ) {
                let variable = environment_key(name);
                resolved.environment.push((variable, value.to_owned()));
            }
        }
        Ok(resolved)
    }
}

#[cfg(test)]
mod tests {
    use spin_runtime::ManifestUse;

    use super::*;

    const BOTH: &str = "grip_url = { required = true }\ngrip_key = { default = \"\" }\n\
        other = { required = true }\n";

    /// Resolves the variables of a manifest with these `[variables]`, and returns the key and the
    /// environment, as one line.
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
            GripVariables::resolve(&manifest, &options, "url".into(), "key".into(), lookup);
        let resolved = resolved.unwrap();
        let environment = resolved.environment.iter();
        let pairs = environment.map(|(name, value)| format!(" {name}={value}"));
        format!("{}{}", resolved.key, pairs.collect::<String>())
    }

    #[test]
    fn declared_variables_are_set_unless_another_source_has_them() {
        let both = "key SPIN_VARIABLE_GRIP_URL=url SPIN_VARIABLE_GRIP_KEY=key";
        assert_eq!(resolve(BOTH, &[], &[], ""), both);
        assert_eq!(resolve(BOTH, &[("other", "x")], &[], ""), both);
        assert_eq!(resolve("", &[], &[], ""), "key");
        assert_eq!(resolve("", &[("grip_key", "undeclared")], &[], ""), "key");
        assert_eq!(
            resolve("grip_url.required = true", &[], &[], ""),
            "key SPIN_VARIABLE_GRIP_URL=url"
        );
        assert_eq!(
            resolve(BOTH, &[("grip_key", "option")], &[], ""),
            "option SPIN_VARIABLE_GRIP_URL=url"
        );
        assert_eq!(
            resolve(BOTH, &[], &[("SPIN_VARIABLE_GRIP_KEY", "inherited")], ""),
            "inherited SPIN_VARIABLE_GRIP_URL=url"
        );
        assert_eq!(
            resolve(BOTH, &[], &[], "SPIN_VARIABLE_GRIP_KEY=file"),
            "file SPIN_VARIABLE_GRIP_URL=url SPIN_VARIABLE_GRIP_KEY=file"
        );
    }
}
