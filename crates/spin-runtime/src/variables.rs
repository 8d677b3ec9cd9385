//! The application's variables: where each value comes from, and the templates that use them.

use std::{
    collections::{BTreeMap, HashMap},
    fmt, fs, io,
    path::Path,
};

use anyhow::{Context as _, anyhow, bail};

use crate::{
    manifest::{Component, Manifest, suggest, template::Template},
    outbound::AllowedHosts,
};

/// The values of the application's variables, settled once at start. Its `Debug` shows where
/// they come from and none of them.
#[derive(Clone)]
pub struct Variables {
    values: BTreeMap<String, Value>,
    /// Each component's own variables, by its id.
    components: BTreeMap<String, BTreeMap<String, String>>,
}

#[derive(Clone)]
struct Value {
    text: String,
    source: Source,
}

/// Where a value comes from; the first that has one wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// `--variable NAME=VALUE`.
    Option,
    /// The environment, as `SPIN_VARIABLE_NAME`.
    Environment,
    /// The same name in the file `.env` beside the manifest.
    DotEnv,
    /// The host that runs the component.
    Host,
    /// `default` in the manifest.
    Default,
}

impl Variables {
    /// Settles the value of every variable of the manifest. `options` are those of the command
    /// line, the last of a name counts; `host` has the host's own values, used where the manifest
    /// declares the name and left aside where it does not; `environment` looks a name up in the
    /// environment.
    ///
    /// # Errors
    /// An option whose name the manifest does not declare, required variables without a value, a
    /// `.env` that cannot be read.
    pub fn new(
        manifest: &Manifest,
        options: &[(String, String)],
        host: BTreeMap<String, String>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> anyhow::Result<Self> {
        let mut given = BTreeMap::new();
        for (name, value) in options {
            if !manifest.variables.contains_key(name) {
                let suggestion = suggest(name, manifest.variables.keys().map(String::as_str));
                bail!(
                    "--variable {name}=…: {} declares no variable of this name{suggestion}; \
                     declare it under [variables]",
                    manifest.path.display()
                );
            }
            given.insert(name, value);
        }
        let file = manifest.root.join(".env");
        let dot_env = read_dot_env(&file)?;

        let mut values = BTreeMap::new();
        let mut missing = Vec::new();
        for (name, variable) in &manifest.variables {
            let key = environment_key(name);
            let found = given
                .get(name)
                .map(|value| (value.to_string(), Source::Option))
                .or_else(|| Some((environment(&key)?, Source::Environment)))
                .or_else(|| Some((dot_env.get(&key)?.clone(), Source::DotEnv)))
                .or_else(|| Some((host.get(name)?.clone(), Source::Host)))
                .or_else(|| Some((variable.default.clone()?, Source::Default)));
            match found {
                Some((text, source)) => drop(values.insert(name.clone(), Value { text, source })),
                None => missing.push(format!(
                    "variable {name:?} is required and has no value: give it with `--variable {name}=…`, \
                     as {key} in the environment, or as {key} in {}",
                    file.display()
                )),
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
            let mut own = BTreeMap::new();
            for (key, template) in &component.variables {
                let value = variables.expand(template);
                own.insert(
                    key.clone(),
                    value.with_context(|| format!("component.{id}.variables.{key}"))?,
                );
            }
            variables.components.insert(id.clone(), own);
        }
        Ok(variables)
    }

    /// The value of one of the application's variables.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|value| value.text.as_str())
    }

    /// Where the value of one of the application's variables comes from.
    pub fn source(&self, name: &str) -> Option<Source> {
        self.values.get(name).map(|value| value.source)
    }

    /// The variables of a component, by its id; none for a component there is not.
    pub fn component_variables(&self, id: &str) -> BTreeMap<String, String> {
        self.components.get(id).cloned().unwrap_or_default()
    }

    /// Puts values in the place of each `{{ name }}`.
    ///
    /// # Errors
    /// A template that is not closed, a name that is not declared. Values are never in the text.
    pub fn expand(&self, template: &str) -> anyhow::Result<String> {
        let template = Template::parse(template).map_err(|reason| anyhow!(reason))?;
        template.render(|name| self.get(name)).map_err(|name| {
            let suggestion = suggest(name, self.values.keys().map(String::as_str));
            anyhow!("unknown variable {name:?}{suggestion}; declare it under [variables]")
        })
    }

    /// Where a component may send requests. An entry that its variables leave without a host is
    /// left out, so that a host can be optional.
    ///
    /// # Errors
    /// An entry that its variables make unreadable, with the component and the entry.
    pub fn allowed_hosts(&self, component: &Component) -> anyhow::Result<AllowedHosts> {
        let mut entries = Vec::new();
        for (index, entry) in component.allowed_outbound_hosts.iter().enumerate() {
            let place = || {
                format!(
                    "component.{}.allowed_outbound_hosts[{index}]: {entry:?}",
                    component.id
                )
            };
            let expanded = self.expand(entry).with_context(place)?;
            if expanded != *entry && matches!(expanded.as_str(), "" | "http://" | "https://") {
                continue;
            }
            // What a template gave may be a secret, so only the template is named.
            if let Err(error) = AllowedHosts::parse(&[&expanded]) {
                return Err(match expanded == *entry {
                    true => anyhow!(error),
                    false => anyhow!(
                        "its variables make it no allowed outbound host, like https://example.com"
                    ),
                })
                .with_context(place);
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

/// The name in the environment that gives a variable its value.
fn environment_key(name: &str) -> String {
    format!("SPIN_VARIABLE_{}", name.to_ascii_uppercase())
}

fn read_dot_env(path: &Path) -> anyhow::Result<HashMap<String, String>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashMap::new()),
        Err(error) => {
            return Err(anyhow!(error).context(format!("{} cannot be read", path.display())));
        }
    };
    let pairs = dotenvy::from_read_iter(text.as_bytes()).collect::<Result<_, _>>();
    pairs.map_err(|error| {
        // The line may hold a secret, so only its number is shown.
        let line = match &error {
            // What is handed back is the end of the line, from where it went wrong.
            dotenvy::Error::LineParse(wrong, _) if !wrong.trim().is_empty() => text
                .lines()
                .position(|line| line.trim_end().ends_with(wrong.trim())),
            _ => None,
        };
        let line = line
            .map(|index| format!(":{}", index + 1))
            .unwrap_or_default();
        anyhow!(
            "{}{line}: expected NAME=VALUE, or a # before a comment",
            path.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "spin_manifest_version = 2\napplication.name = \"test\"\ntrigger.http = []\n\
        trigger.other = []\n[variables]\n\
        grip_url = { default = \"http://default\" }\ngrip_key = { default = \"\", secret = true }\n\
        plain = { default = \"p\" }\n\
        [component.a]\nsource = \"a.wasm\"\n\
        allowed_outbound_hosts = [\"{{ grip_url }}\", \"https://{{ plain }}.example\"]\n\
        variables = { url = \"{{ grip_url }}/publish/\", both = \"{{plain}}-{{ plain }}\", text = \"x\" }\n";

    fn manifest(folder: &Path, text: &str) -> Manifest {
        Manifest::parse_for_upstream(text, folder.join("spin.toml")).unwrap()
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
    fn the_first_provider_wins() {
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
        assert_eq!(no_host.source("grip_url"), Some(Source::Default));
        assert_eq!(
            value(&[], &nothing),
            ("http://host".to_owned(), Source::Host)
        );
        fs::write(
            folder.path().join(".env"),
            "# a comment\nSPIN_VARIABLE_GRIP_URL='http://file'\n",
        )
        .unwrap();
        assert_eq!(
            value(&[], &nothing),
            ("http://file".to_owned(), Source::DotEnv)
        );
        assert_eq!(
            value(&[], &environment),
            ("http://env".to_owned(), Source::Environment)
        );
        let options = pairs(&[("grip_url", "http://first"), ("grip_url", "http://last")]);
        assert_eq!(
            value(&options, &environment),
            ("http://last".to_owned(), Source::Option)
        );
    }

    #[test]
    fn templates_are_expanded() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = manifest(folder.path(), TEXT);
        let options = pairs(&[("grip_url", "http://127.0.0.1:5561")]);
        let variables = Variables::new(&manifest, &options, BTreeMap::new(), nothing).unwrap();
        let own = variables.component_variables("a");
        assert_eq!(own["url"], "http://127.0.0.1:5561/publish/");
        assert_eq!(own["both"], "p-p");
        assert_eq!(own["text"], "x");
        assert!(variables.component_variables("none").is_empty());
        let hosts = variables.allowed_hosts(&manifest.components["a"]).unwrap();
        assert!(hosts.allows("http", "127.0.0.1", Some(5561)));
        assert!(hosts.allows("https", "p.example", None));
        let error = variables.expand("{{ plan }}").unwrap_err().to_string();
        assert!(error.contains("did you mean `plain`"), "{error}");
    }

    #[test]
    fn hosts_can_be_optional_but_not_wrong() {
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
    fn what_is_missing_or_unknown_is_named() {
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
    fn a_broken_dot_env_is_named_without_its_values() {
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
    fn debug_shows_no_value() {
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
        /// Values are put in as they are, whatever they hold, and never read as templates.
        #[test]
        fn values_are_not_read_again(value in ".{0,40}") {
            let folder = tempfile::tempdir().unwrap();
            let manifest = manifest(folder.path(), TEXT);
            let options = vec![("plain".to_owned(), value.clone())];
            let variables = Variables::new(&manifest, &options, BTreeMap::new(), nothing).unwrap();
            prop_assert_eq!(&variables.component_variables("a")["both"], &format!("{value}-{value}"));
            let _ = (variables.expand(&value), variables.allowed_hosts(&manifest.components["a"]));
        }
    }
}
