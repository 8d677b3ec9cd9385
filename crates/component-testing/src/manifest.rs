//! The manifest of the application under test, with the settings of the host.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use http::Method;
use spin_runtime::{
    CronSchedule, Manifest, ManifestUse,
    manifest::{ToolTables, reader::Value},
};
use toml::{Table, Value as TomlValue};

/// The settings of `[application.tool.socket-host]` that concern a test. The host checks the rest.
#[derive(Debug, Default)]
pub(crate) struct HostSettings {
    /// The routes that clients cannot request.
    pub(crate) private: Vec<String>,
    /// The number of items that channels keep, by name.
    pub(crate) history_items: BTreeMap<String, usize>,
    pub(crate) timers: Vec<Timer>,
    /// The ids of the components whose instances are reused for typed WebSockets.
    pub(crate) instance_reuse: BTreeSet<String>,
}

/// A request that is repeated.
#[derive(Clone, Debug)]
pub(crate) struct Timer {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) schedule: Schedule,
}

/// When a timer is due.
#[derive(Clone, Debug)]
pub(crate) enum Schedule {
    /// At the start, and again after each pause.
    Every(RangeInclusive<Duration>),
    Cron(CronSchedule),
}

/// Reads a manifest: a file, or a folder with a `spin.toml`.
///
/// # Errors
/// Fails if the manifest is missing or invalid.
pub(crate) fn load(path: &Path) -> Result<(Manifest, HostSettings)> {
    let loaded = Manifest::load_with_tools(path, ManifestUse::Embedded, HostSettings::read)?;
    let (mut manifest, settings) = loaded;
    for (id, component) in &mut manifest.components {
        component.reuses_websocket_instances = settings.instance_reuse.contains(id);
    }
    Ok((manifest, settings))
}

/// What a component without a manifest may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ComponentSettings {
    pub(crate) key_value_stores: Vec<String>,
    pub(crate) sqlite_databases: Vec<String>,
    pub(crate) allowed_outbound_hosts: Vec<String>,
    pub(crate) variables: Vec<(String, String)>,
    pub(crate) history_items: BTreeMap<String, usize>,
}

/// Creates a manifest for a component that serves all paths. It has the variables `grip_url` and
/// `grip_key`, and may publish.
///
/// # Errors
/// Fails if the settings are invalid.
pub(crate) fn of_component(
    file: &Path,
    settings: &ComponentSettings,
) -> Result<(Manifest, HostSettings)> {
    let file = std::path::absolute(file).context("cannot find the current folder")?;
    let file_name = utf8(&file)?;
    let id = component_id(&file);
    let strings = |values: &[String]| {
        let values = values.iter().cloned().map(TomlValue::from);
        TomlValue::Array(values.collect())
    };
    let mut declared = Table::new();
    let mut used = Table::new();
    let names = settings.variables.iter().map(|(name, _)| name.as_str());
    for name in names.chain(["grip_url", "grip_key"]) {
        let mut required = Table::new();
        required.insert("required".into(), true.into());
        declared.insert(name.into(), required.into());
        used.insert(name.into(), format!("{{{{ {name} }}}}").into());
    }
    let mut hosts = settings.allowed_outbound_hosts.clone();
    hosts.push("{{ grip_url }}".to_owned());
    let mut component = Table::new();
    component.insert("source".into(), file_name.into());
    let stores = strings(&settings.key_value_stores);
    component.insert("key_value_stores".into(), stores);
    let databases = strings(&settings.sqlite_databases);
    component.insert("sqlite_databases".into(), databases);
    component.insert("allowed_outbound_hosts".into(), strings(&hosts));
    component.insert("variables".into(), used.into());
    let mut trigger = Table::new();
    trigger.insert("route".into(), "/...".into());
    trigger.insert("component".into(), id.clone().into());
    let text = toml::to_string(&Table::from_iter([
        ("spin_manifest_version".into(), 2.into()),
        ("application".into(), table("name", id.clone())),
        ("variables".into(), declared.into()),
        (
            "trigger".into(),
            table("http", vec![TomlValue::from(trigger)]),
        ),
        ("component".into(), table(&id, component)),
    ]))?;
    let path = file.with_file_name("spin.toml");
    let manifest = Manifest::parse(&text, path, ManifestUse::Embedded)
        .with_context(|| format!("invalid settings for {file_name}"))?;
    let settings = HostSettings {
        history_items: settings.history_items.clone(),
        ..HostSettings::default()
    };
    Ok((manifest, settings))
}

fn table(key: &str, value: impl Into<TomlValue>) -> TomlValue {
    Table::from_iter([(key.to_owned(), value.into())]).into()
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("the path {} is not UTF-8", path.display()))
}

/// Returns the id of a component by its file, as far as Spin allows the name.
fn component_id(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let words = stem.split(|character: char| !character.is_ascii_alphanumeric());
    let starts_with_letter = |word: &&str| word.starts_with(|c: char| c.is_ascii_alphabetic());
    let words: Vec<_> = words.filter(starts_with_letter).collect();
    if words.is_empty() {
        return "component".to_owned();
    }
    words.join("-").to_ascii_lowercase()
}

/// Checks that the files of the components exist.
///
/// # Errors
/// Fails with the names of those that do not.
pub(crate) fn check_files(manifest: &Manifest) -> Result<()> {
    let sources = manifest
        .components
        .values()
        .flat_map(|component| component.sources());
    let missing: Vec<PathBuf> = sources
        .filter(|source| source.is_missing())
        .filter_map(|source| Some(source.file()?.to_owned()))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let missing: Vec<_> = missing
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    bail!(
        "missing component: {}: build it before the tests, such as with `spin build` or \
         `socket-host build`",
        missing.join(", ")
    )
}

impl HostSettings {
    fn read(tools: &ToolTables<'_>) -> Self {
        let mut settings = Self::default();
        let Some(mut table) = tools.get("socket-host").and_then(|value| value.table()) else {
            return settings;
        };
        if let Some(private) = table.get("private") {
            settings.private = private.strings();
        }
        let channels = table.get("channels").and_then(|channels| channels.table());
        for (name, channel) in channels.iter().flat_map(|channels| channels.entries()) {
            let items = channel.table().and_then(|mut it| it.get("history-items"));
            let items = items.and_then(|items| items.integer());
            if let Some(items) = items.and_then(|items| usize::try_from(items).ok()) {
                settings.history_items.insert(name.to_owned(), items);
            }
        }
        let websocket = table.get("websocket").and_then(|it| it.table());
        let reused = websocket.and_then(|mut it| it.get("instance-reuse"));
        settings.instance_reuse = reused.into_iter().flat_map(|it| it.strings()).collect();
        let timers = table.get("timer").map(|timers| timers.array());
        let timers = timers.unwrap_or_default();
        settings.timers = timers.iter().filter_map(Timer::read).collect();
        settings
    }
}

impl Timer {
    fn read(value: &Value<'_>) -> Option<Self> {
        let mut table = value.table()?;
        let request = table.require("request", "such as \"POST /internal/orders\"")?;
        let target = parse_target(request.string()?);
        let (method, path) = target.map_err(|reason| request.error(reason)).ok()?;
        let schedule = match (table.get("every"), table.get("cron")) {
            (Some(every), None) => parse_pause(every.string()?)
                .map(Schedule::Every)
                .map_err(|reason| every.error(reason)),
            (None, Some(cron)) => CronSchedule::parse(cron.string()?)
                .map(Schedule::Cron)
                .map_err(|reason| cron.error(reason)),
            _ => {
                value.error("expected either `every` or `cron`");
                return None;
            }
        };
        Some(Self {
            method,
            path,
            schedule: schedule.ok()?,
        })
    }
}

/// Parses a method and a path.
///
/// # Errors
/// Returns what is expected.
pub(crate) fn parse_target(text: &str) -> Result<(Method, String), String> {
    let expected = || {
        format!("expected a method and a path, such as \"POST /internal/orders\", found {text:?}")
    };
    let (method, path) = text
        .trim()
        .split_once(char::is_whitespace)
        .ok_or_else(expected)?;
    let (method, path) = (method.parse().map_err(|_| expected())?, path.trim_start());
    if path.starts_with('/') && path.parse::<http::Uri>().is_ok() {
        Ok((method, path.to_owned()))
    } else {
        Err(expected())
    }
}

/// Parses a pause, such as `"5s"`, or a range of pauses, such as `"2s..6s"`.
fn parse_pause(text: &str) -> Result<RangeInclusive<Duration>, String> {
    let duration = |text: &str| {
        humantime::parse_duration(text.trim()).map_err(|error| format!("{text:?}: {error}"))
    };
    let (min, max) = match text.split_once("..") {
        Some((min, max)) => (duration(min)?, duration(max)?),
        None => (duration(text)?, duration(text)?),
    };
    if min.is_zero() || min > max {
        return Err(format!("invalid pause {text:?}"));
    }
    Ok(min..=max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_of_the_host_are_read() {
        let text = r#"
            spin_manifest_version = 2
            application.name = "test"
            trigger.http = [{ route = "/", static_response = {} }]
            [application.tool.socket-host]
            private = ["/internal/..."]
            watch = "ignored"
            [application.tool.socket-host.channels.orders]
            history-items = 7
            [application.tool.socket-host.websocket]
            instance-reuse = ["chat"]
            [[application.tool.socket-host.timer]]
            request = "POST /tick"
            every = "2s..6s"
        "#;
        let read = Manifest::parse_with_tools(
            text,
            "spin.toml",
            ManifestUse::Embedded,
            HostSettings::read,
        );
        let (_, settings) = read.unwrap();
        assert_eq!(settings.private, ["/internal/..."]);
        assert_eq!(settings.history_items["orders"], 7);
        assert_eq!(settings.instance_reuse, BTreeSet::from(["chat".into()]));
        let [timer] = &settings.timers[..] else {
            panic!("one timer: {settings:?}")
        };
        assert_eq!(
            (&timer.method, timer.path.as_str()),
            (&Method::POST, "/tick")
        );
    }

    #[test]
    fn a_component_gets_an_id_that_spin_allows() {
        let id = |file: &str| component_id(Path::new(file));
        assert_eq!(id("target/my_component.wasm"), "my-component");
        assert_eq!(id("Order.v2.wasm"), "order-v2");
        assert_eq!(id("2.wasm"), "component");
    }

    #[test]
    fn a_component_needs_no_manifest() {
        let settings = ComponentSettings {
            key_value_stores: vec!["default".to_owned()],
            allowed_outbound_hosts: vec!["https://api.example".to_owned()],
            variables: vec![("greeting".to_owned(), "hello".to_owned())],
            ..ComponentSettings::default()
        };
        let (manifest, _) = of_component(Path::new("dir/hello.wasm"), &settings).unwrap();
        let component = &manifest.components["hello"];
        assert!(component.source.file().unwrap().ends_with("dir/hello.wasm"));
        assert_eq!(component.variables["greeting"], "{{ greeting }}");
        assert_eq!(component.allowed_outbound_hosts.len(), 2);
        let error = check_files(&manifest).unwrap_err().to_string();
        assert!(error.contains("hello.wasm: build it"), "{error}");
    }
}
