//! The values of an application's variables, and the templates that use them.

mod provider;

use std::{collections::BTreeMap, fmt};

use anyhow::{Context as _, anyhow, bail};

use self::provider::{Provider, prefixed_key, read_dot_env};
use crate::{
    allowed_hosts::AllowedHosts,
    manifest::{Component, Manifest, suggest, template::Template},
    runtime_config::VariableProvider,
};

/// The values of an application's variables.
///
/// `Debug` prints the source of each value, but not the value, which may be secret.
#[derive(Clone)]
pub struct Variables {
    values: BTreeMap<String, Value>,
    /// The variables of each component, by its id.
    components: BTreeMap<String, BTreeMap<String, String>>,
}

#[derive(Clone)]
struct Value {
    text: String,
    source: VariableSource,
}

/// The source of a variable's value. Earlier sources take precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum VariableSource {
    /// `--variable NAME=VALUE`.
    Option,
    /// A provider of the runtime configuration.
    Provider,
    /// `SPIN_VARIABLE_NAME` in the environment.
    Environment,
    /// `SPIN_VARIABLE_NAME` in the file `.env` in the manifest's folder.
    DotEnv,
    /// The host itself.
    Host,
    /// `default` in the manifest.
    Default,
}

impl Variables {
    /// Determines the value of every variable of a manifest.
    ///
    /// `options` come from the command line. The last value of a name applies. `host` contains the
    /// host's own values, which are ignored if the manifest does not declare the name.
    /// `environment` looks up an environment variable.
    ///
    /// # Errors
    /// Fails if an option is not declared by the manifest, if a required variable has no value, or
    /// if `.env` cannot be read.
    pub fn new(
        manifest: &Manifest,
        options: &[(String, String)],
        host: BTreeMap<String, String>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> anyhow::Result<Self> {
        Self::with_providers(manifest, options, &[], host, environment)
    }

    /// Determines the value of every variable of a manifest as [`Self::new`] does, also from the
    /// providers of a runtime configuration.
    ///
    /// # Errors
    /// Those of [`Self::new`], and if the file of a provider cannot be read.
    pub fn with_providers(
        manifest: &Manifest,
        options: &[(String, String)],
        providers: &[VariableProvider],
        host: BTreeMap<String, String>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> anyhow::Result<Self> {
        let mut option_values = BTreeMap::new();
        for (name, value) in options {
            if !manifest.variables.contains_key(name) {
                let suggestion = suggest(name, manifest.variables.keys().map(String::as_str));
                bail!(
                    "unknown variable {name:?} in --variable{suggestion}: declare it under [variables] in {}",
                    manifest.path.display()
                );
            }
            option_values.insert(name, value);
        }
        let file = manifest.root.join(".env");
        let dot_env = read_dot_env(&file)?;
        let providers = providers
            .iter()
            .map(Provider::open)
            .collect::<anyhow::Result<Vec<_>>>()?;

        let mut values = BTreeMap::new();
        let mut missing = Vec::new();
        for (name, variable) in &manifest.variables {
            let key = environment_key(name);
            let value = option_values
                .get(name)
                .map(|value| (value.to_string(), VariableSource::Option))
                .or_else(|| {
                    let mut providers = providers.iter();
                    let value = providers.find_map(|provider| provider.get(name, &environment));
                    Some((value?, VariableSource::Provider))
                })
                .or_else(|| Some((environment(&key)?, VariableSource::Environment)))
                .or_else(|| Some((dot_env.get(&key)?.clone(), VariableSource::DotEnv)))
                .or_else(|| Some((host.get(name)?.clone(), VariableSource::Host)))
                .or_else(|| Some((variable.default.clone()?, VariableSource::Default)));
            if let Some((text, source)) = value {
                values.insert(name.clone(), Value { text, source });
            } else {
                missing.push(format!(
                    "required variable {name:?} has no value: set it with `--variable {name}=…`, \
                     as {key} in the environment, or as {key} in {}",
                    file.display()
                ));
            }
        }
        if !missing.is_empty() {
            bail!("{}", missing.join("\n"));
        }

        let mut variables = Self {
            values,
            components: BTreeMap::new(),
        };
        for (id, component) in &manifest.components {
            let mut component_variables = BTreeMap::new();
            for (key, template) in &component.variables {
                let value = variables.expand(template);
                component_variables.insert(
                    key.clone(),
                    value.with_context(|| format!("component.{id}.variables.{key}"))?,
                );
            }
            variables.components.insert(id.clone(), component_variables);
        }
        Ok(variables)
    }

    /// Returns the value of an application variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|value| value.text.as_str())
    }

    /// Returns the source of an application variable's value.
    pub fn source(&self, name: &str) -> Option<VariableSource> {
        self.values.get(name).map(|value| value.source)
    }

    /// Returns the variables of a component.
    pub(crate) fn component_variables(&self, id: &str) -> BTreeMap<String, String> {
        self.components.get(id).cloned().unwrap_or_default()
    }

    /// Replaces each `{{ name }}` with its value.
    ///
    /// # Errors
    /// Fails if the template is invalid or a name is not declared. The error contains no values.
    fn expand(&self, template: &str) -> anyhow::Result<String> {
        let template = Template::parse(template).map_err(|reason| anyhow!(reason))?;
        template.render(|name| self.get(name)).map_err(|name| {
            let suggestion = suggest(name, self.values.keys().map(String::as_str));
            anyhow!("unknown variable {name:?}{suggestion}; declare it under [variables]")
        })
    }

    /// Returns the hosts that a component may send requests to.
    ///
    /// An entry whose variables leave it without a host is ignored, so that hosts can be optional.
    ///
    /// # Errors
    /// Fails if an entry is invalid with the values of its variables.
    pub(crate) fn allowed_hosts(&self, component: &Component) -> anyhow::Result<AllowedHosts> {
        let mut entries = Vec::new();
        for (index, entry) in component.allowed_outbound_hosts.iter().enumerate() {
            let context = || {
                format!(
                    "component.{}.allowed_outbound_hosts[{index}]: {entry:?}",
                    component.id
                )
            };
            let expanded = self.expand(entry).with_context(context)?;
            if expanded != *entry && matches!(expanded.as_str(), "" | "http://" | "https://") {
                continue;
            }
            if let Err(error) = AllowedHosts::parse(&[&expanded]) {
                // Values may be secret, so the error only contains the template.
                let error = if expanded == *entry {
                    anyhow!(error)
                } else {
                    anyhow!(
                        "its variables do not result in an allowed host, such as https://example.com"
                    )
                };
                return Err(error.context(context()));
            }
            entries.push(expanded);
        }
        Ok(AllowedHosts::parse(&entries)?)
    }
}

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sources = self.values.iter().map(|(name, value)| (name, value.source));
        f.write_str("Variables ")?;
        f.debug_map().entries(sources).finish()
    }
}

/// Returns the name of the environment variable with the value of a variable: `SPIN_VARIABLE_NAME`.
fn environment_key(name: &str) -> String {
    prefixed_key("SPIN_VARIABLE", name)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use proptest::prelude::*;

    use super::*;
    use crate::manifest::ManifestUse;

    const TEXT: &str = "spin_manifest_version = 2\napplication.name = \"test\"\ntrigger.http = []\n\
        trigger.other = []\n[variables]\n\
        grip_url = { default = \"http://default\" }\ngrip_key = { default = \"\", secret = true }\n\
        plain = { default = \"p\" }\n\
        [component.a]\nsource = \"a.wasm\"\n\
        allowed_outbound_hosts = [\"{{ grip_url }}\", \"https://{{ plain }}.example\"]\n\
        variables = { url = \"{{ grip_url }}/publish/\", both = \"{{plain}}-{{ plain }}\", text = \"x\" }\n";

    fn manifest(folder: &Path, text: &str) -> Manifest {
        Manifest::parse(text, folder.join("spin.toml"), ManifestUse::Upstream).unwrap()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect()
    }

    fn nothing(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn sources_have_an_order_of_precedence() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = manifest(folder.path(), TEXT);
        let host = || {
            pairs(&[("grip_url", "http://host"), ("unknown", "x")])
                .into_iter()
                .collect()
        };
        let environment =
            |name: &str| (name == "SPIN_VARIABLE_GRIP_URL").then(|| "http://env".to_owned());
        let value = |options: &[(String, String)], environment: &dyn Fn(&str) -> Option<String>| {
            let variables = Variables::new(&manifest, options, host(), environment).unwrap();
            (
                variables.get("grip_url").unwrap().to_owned(),
                variables.source("grip_url").unwrap(),
            )
        };
        let no_host = Variables::new(&manifest, &[], BTreeMap::new(), nothing).unwrap();
        assert_eq!(no_host.source("grip_url"), Some(VariableSource::Default));
        assert_eq!(
            value(&[], &nothing),
            ("http://host".to_owned(), VariableSource::Host)
        );
        fs::write(
            folder.path().join(".env"),
            "# a comment\nSPIN_VARIABLE_GRIP_URL='http://file'\n",
        )
        .unwrap();
        assert_eq!(
            value(&[], &nothing),
            ("http://file".to_owned(), VariableSource::DotEnv)
        );
        assert_eq!(
            value(&[], &environment),
            ("http://env".to_owned(), VariableSource::Environment)
        );
        let options = pairs(&[("grip_url", "http://first"), ("grip_url", "http://last")]);
        assert_eq!(
            value(&options, &environment),
            ("http://last".to_owned(), VariableSource::Option)
        );
    }

    #[test]
    fn providers_come_after_options_and_before_the_environment() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = manifest(folder.path(), TEXT);
        let file = folder.path().join("more.env");
        fs::write(&file, "APP_GRIP_KEY=file\nAPP_PLAIN=file\n").unwrap();
        let values = |name: &str| BTreeMap::from([(name.to_owned(), "static".to_owned())]);
        let providers = [
            VariableProvider::Static(values("grip_url")),
            VariableProvider::Environment {
                prefix: "APP".into(),
                dot_env: Some(file),
            },
            VariableProvider::Static(values("plain")),
        ];
        let environment = |name: &str| match name {
            "APP_PLAIN" => Some("app".to_owned()),
            "SPIN_VARIABLE_GRIP_URL" | "SPIN_VARIABLE_PLAIN" => Some("environment".to_owned()),
            _ => None,
        };
        let resolve = |options: &[(String, String)]| {
            let host = BTreeMap::new();
            Variables::with_providers(&manifest, options, &providers, host, environment).unwrap()
        };
        let variables = resolve(&[]);
        let values = ["grip_url", "plain", "grip_key"].map(|name| variables.get(name).unwrap());
        assert_eq!(values, ["static", "app", "file"]);
        assert_eq!(variables.source("plain"), Some(VariableSource::Provider));
        let variables = resolve(&pairs(&[("plain", "option")]));
        assert_eq!(variables.source("plain"), Some(VariableSource::Option));
    }

    #[test]
    fn templates_are_expanded() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = manifest(folder.path(), TEXT);
        let options = pairs(&[("grip_url", "http://127.0.0.1:5561")]);
        let variables = Variables::new(&manifest, &options, BTreeMap::new(), nothing).unwrap();
        let component = variables.component_variables("a");
        assert_eq!(component["url"], "http://127.0.0.1:5561/publish/");
        assert_eq!(component["both"], "p-p");
        assert_eq!(component["text"], "x");
        assert!(variables.component_variables("none").is_empty());
        let hosts = variables.allowed_hosts(&manifest.components["a"]).unwrap();
        assert!(hosts.allows("http", "127.0.0.1", Some(5561)));
        assert!(hosts.allows("https", "p.example", None));
        let error = variables.expand("{{ plan }}").unwrap_err().to_string();
        assert!(error.contains("did you mean `plain`"), "{error}");
    }

    #[test]
    fn hosts_are_optional_but_must_be_valid() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = manifest(folder.path(), TEXT);
        let hosts = |url: &str| {
            let options = pairs(&[("grip_url", url)]);
            let variables = Variables::new(&manifest, &options, BTreeMap::new(), nothing).unwrap();
            variables.allowed_hosts(&manifest.components["a"])
        };
        for empty in ["", "http://", "https://"] {
            assert!(!hosts(empty).unwrap().allows("http", "127.0.0.1", None));
        }
        let error = format!("{:#}", hosts("s3cret").unwrap_err());
        assert!(
            error.contains("component.a.allowed_outbound_hosts[0]"),
            "{error}"
        );
        assert!(
            error.contains("{{ grip_url }}") && !error.contains("s3cret"),
            "{error}"
        );
    }

    #[test]
    fn missing_and_unknown_variables_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "{TEXT}[variables.needed_one]\nrequired = true\n[variables.needed_two]\nrequired = true\n"
        );
        let manifest = manifest(folder.path(), &text);
        let error = Variables::new(&manifest, &[], BTreeMap::new(), nothing)
            .unwrap_err()
            .to_string();
        for part in [
            "\"needed_one\"",
            "--variable needed_one=",
            "SPIN_VARIABLE_NEEDED_ONE",
            ".env",
            "\"needed_two\"",
        ] {
            assert!(error.contains(part), "{error}");
        }
        let options = pairs(&[("grip_ulr", "s3cret")]);
        let error = Variables::new(&manifest, &options, BTreeMap::new(), nothing)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("did you mean `grip_url`") && !error.contains("s3cret"),
            "{error}"
        );
    }

    #[test]
    fn errors_of_dot_env_omit_its_values() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(
            folder.path().join(".env"),
            "A=b\n\nSPIN_VARIABLE_GRIP_KEY=s3cret with blanks\n",
        )
        .unwrap();
        let manifest = manifest(folder.path(), TEXT);
        let error = format!(
            "{:#}",
            Variables::new(&manifest, &[], BTreeMap::new(), nothing).unwrap_err()
        );
        assert!(
            error.contains(".env:3: ") && !error.contains("s3cret"),
            "{error}"
        );
    }

    #[test]
    fn a_byte_order_mark_in_dot_env_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = manifest(folder.path(), TEXT);
        let read = |text: &str| {
            fs::write(folder.path().join(".env"), text).unwrap();
            Variables::new(&manifest, &[], BTreeMap::new(), nothing)
        };
        for text in [
            "\u{feff}SPIN_VARIABLE_PLAIN=x",
            "\u{feff}# a comment\r\nSPIN_VARIABLE_PLAIN=x\r\n",
            "\u{feff}\nexport SPIN_VARIABLE_PLAIN='x'\n",
        ] {
            assert_eq!(read(text).unwrap().get("plain"), Some("x"), "{text:?}");
        }
        assert_eq!(read("\u{feff}").unwrap().get("plain"), Some("p"));
        // It does not shift the line number of an error, and is an error elsewhere.
        let error = read("\u{feff}A=b\n=c\n").unwrap_err().to_string();
        assert!(error.contains(".env:2: "), "{error}");
        let error = read("A=b\n\u{feff}SPIN_VARIABLE_PLAIN=x\n").unwrap_err();
        assert!(error.to_string().contains(".env:2: "), "{error}");
    }

    #[test]
    fn debug_omits_values() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = manifest(folder.path(), TEXT);
        let options = pairs(&[("grip_key", "s3cret"), ("plain", "v4lue")]);
        let variables = Variables::new(&manifest, &options, BTreeMap::new(), nothing).unwrap();
        let shown = format!("{variables:?} {variables:#?}");
        assert!(shown.contains("\"grip_key\": Option"), "{shown}");
        assert!(
            !shown.contains("s3cret") && !shown.contains("v4lue"),
            "{shown}"
        );
    }

    proptest! {
        #[test]
        fn values_are_not_parsed_as_templates(value in ".{0,40}") {
            let folder = tempfile::tempdir().unwrap();
            let manifest = manifest(folder.path(), TEXT);
            let options = vec![("plain".to_owned(), value.clone())];
            let variables = Variables::new(&manifest, &options, BTreeMap::new(), nothing).unwrap();
            prop_assert_eq!(&variables.component_variables("a")["both"], &format!("{value}-{value}"));
            let _ = (variables.expand(&value), variables.allowed_hosts(&manifest.components["a"]));
        }
    }
}
