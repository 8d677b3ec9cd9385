//! Reads the manifest from its root down; what is wrong is noted by the readers of the parts.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use toml::de::DeTable;

use super::{
    Component, HostTable, Manifest, Route, Variable, WELL_KNOWN, component,
    error::ManifestError,
    host_table, id,
    pattern::Pattern,
    reader::{Notes, Table, Value},
    trigger,
};

/// What the readers of the parts have in common.
pub(super) struct Context<'a> {
    /// The manifest's folder, absolute.
    pub(super) root: &'a Path,
    /// Whether this host runs the components.
    pub(super) embedded: bool,
    /// The names under `[variables]`.
    pub(super) variables: &'a BTreeSet<String>,
}

impl Context<'_> {
    /// Notes what Spin runs and this host does not, unless it is not this host that runs it.
    pub(super) fn not_here(&self, value: &Value<'_>, what: &str) {
        if self.embedded {
            value.wrong(format!(
                "{what}. Spin does it: start `spin up`, and put this host in front of it \
                 with `--upstream URL`"
            ));
        }
    }
}

/// The text of a manifest and its file's path.
pub(super) fn file(path: &Path) -> Result<(String, PathBuf), ManifestError> {
    let file = match path.is_dir() {
        true => path.join("spin.toml"),
        false => path.to_owned(),
    };
    match fs::read_to_string(&file) {
        Ok(text) => Ok((text, file)),
        Err(error) => {
            let advice = match error.kind() {
                std::io::ErrorKind::NotFound => "; name the manifest, or its folder, with `--from`",
                _ => "",
            };
            Err(ManifestError::whole(
                file,
                format!("cannot be read: {error}{advice}"),
            ))
        }
    }
}

/// Reads the text; `embedded` says whether this host runs the components.
pub(super) fn manifest(text: &str, path: &Path, embedded: bool) -> Result<Manifest, ManifestError> {
    let absolute = std::path::absolute(path)
        .map_err(|error| ManifestError::whole(path, format!("is no path of a file: {error}")))?;
    let root = absolute.parent().unwrap_or(&absolute);

    let notes = Notes::new(text);
    let failed = |notes: Notes<'_>| ManifestError {
        path: path.to_owned(),
        problems: notes.into_problems(),
    };
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        notes.add(error.span().map(|span| span.start), "", error.message());
    }
    let mut table = Table::root(&notes, document.get_ref());
    if errors.is_empty() {
        check_version(&mut table);
    }
    if !notes.is_empty() {
        return Err(failed(notes));
    }

    let variables = table
        .get("variables")
        .map(|value| variables(&value))
        .unwrap_or_default();
    let names = variables.keys().cloned().collect();
    let context = Context {
        root,
        embedded,
        variables: &names,
    };
    let application = table
        .require("application", "the table with the application's name")
        .map(|value| Application::read(&value, embedded));
    let written = table.get("component");
    let known = written
        .iter()
        .filter_map(Value::table)
        .flat_map(|table| keys(&table))
        .collect();
    let mut components = written
        .map(|value| components(&context, &value))
        .unwrap_or_default();
    let triggers = table
        .require(
            "trigger",
            "[[trigger.http]] says which component answers which route",
        )
        .map(|value| trigger::read_all(&context, &value, &known, &mut components))
        .unwrap_or_default();
    table.finish();

    match application.flatten() {
        Some(application) if notes.is_empty() => {
            let mut manifest = Manifest {
                path: absolute.clone(),
                root: root.to_owned(),
                name: application.name,
                version: application.version,
                description: application.description,
                variables,
                triggers,
                components,
                host: application.host,
                warnings: Vec::new(),
            };
            manifest.warnings = warnings(&manifest);
            Ok(manifest)
        }
        _ => Err(failed(notes)),
    }
}

fn keys(table: &Table<'_>) -> Vec<String> {
    table.entries().map(|(name, _)| name.to_owned()).collect()
}

fn check_version(table: &mut Table<'_>) {
    let wanted = "this host reads manifests of version 2: spin_manifest_version = 2";
    let Some(version) = table.require("spin_manifest_version", wanted) else {
        return;
    };
    if version.is_str() {
        if let Some(text) = version.string() {
            version.wrong(format!(
                "version {text:?} is not read here; {wanted} (`spin doctor` upgrades a manifest of version 1)"
            ));
        }
    } else if version.integer().is_some_and(|number| number != 2) {
        version.wrong(format!("this version is not read here; {wanted}"));
    }
}

/// `[application]`.
struct Application {
    name: String,
    version: String,
    description: String,
    host: HostTable,
}

impl Application {
    fn read(value: &Value<'_>, embedded: bool) -> Option<Self> {
        fn text(table: &mut Table<'_>, name: &'static str) -> String {
            let value = table.get(name);
            value
                .and_then(|value| value.string())
                .unwrap_or_default()
                .to_owned()
        }
        let mut table = value.table()?;
        let name = table.require("name", "the application's name");
        let version = text(&mut table, "version");
        let description = text(&mut table, "description");
        if let Some(value) = table.get("authors") {
            value.strings();
        }
        if let Some(value) = table.get("targets") {
            component::targets(&value);
        }
        if let Some(value) = table.get("trigger") {
            trigger_settings(&value);
        }
        let host = table
            .get("tool")
            .map(|value| tools(&value, embedded))
            .unwrap_or_default();
        table.finish();
        Some(Self {
            name: name?.string()?.to_owned(),
            version,
            description,
            host,
        })
    }
}

/// `[application.trigger.KIND]`: of trigger.http only the old `base`, which must be the default.
fn trigger_settings(value: &Value<'_>) {
    let Some(kinds) = value.table() else { return };
    for (kind, settings) in kinds.entries() {
        let Some(mut settings) = settings.table() else {
            continue;
        };
        if kind != "http" {
            continue;
        }
        if let Some(base) = settings.get("base")
            && base.string().is_some_and(|path| path != "/")
        {
            base.wrong("`base` is no longer read: write it in front of each trigger's `route`");
        }
        settings.finish();
    }
}

/// `[application.tool.NAME]`: ours is read, the others are tables of other tools.
fn tools(value: &Value<'_>, embedded: bool) -> HostTable {
    let mut host = HostTable::default();
    let Some(tools) = value.table() else {
        return host;
    };
    for (name, settings) in tools.entries() {
        match name {
            "socket-host" => host = host_table::read(&settings, embedded),
            _ => drop(settings.table()),
        }
    }
    host
}

fn variables(value: &Value<'_>) -> BTreeMap<String, Variable> {
    let mut variables = BTreeMap::new();
    let Some(table) = value.table() else {
        return variables;
    };
    for (name, value) in table.entries() {
        if let Err(reason) = id::lower_snake(name) {
            value.wrong(format!("{name:?} is no name for a variable: {reason}"));
        }
        let Some(mut table) = value.table() else {
            continue;
        };
        let default = table.get("default");
        let required = table
            .get("required")
            .and_then(|value| value.boolean())
            .unwrap_or(false);
        let secret = table
            .get("secret")
            .and_then(|value| value.boolean())
            .unwrap_or(false);
        if let Some(value) = table.get("description") {
            value.string();
        }
        table.finish();
        if required == default.is_some() {
            value.wrong("a variable has either `default = \"…\"` or `required = true`");
        }
        let default = default.and_then(|value| value.string()).map(str::to_owned);
        variables.insert(name.to_owned(), Variable { default, secret });
    }
    variables
}

fn components(context: &Context<'_>, value: &Value<'_>) -> BTreeMap<String, Component> {
    let mut components = BTreeMap::new();
    let Some(table) = value.table() else {
        return components;
    };
    for (name, value) in table.entries() {
        if let Err(reason) = id::kebab(name) {
            value.wrong(format!("{name:?} is no id for a component: {reason}"));
        }
        let Some(table) = value.table() else { continue };
        if let Some(component) = component::read(context, name, table) {
            components.insert(name.to_owned(), component);
        }
    }
    components
}

/// What is allowed and leads nowhere.
fn warnings(manifest: &Manifest) -> Vec<String> {
    let mut warnings = Vec::new();
    let paths = manifest
        .triggers
        .iter()
        .filter_map(|trigger| match &trigger.route {
            Route::Path(path) => Pattern::parse(path).ok(),
            Route::Private => None,
        });
    let routes: Vec<Pattern> = paths.collect();
    for route in &routes {
        if route.based.starts_with(WELL_KNOWN) {
            warnings.push(format!(
                "route {}: paths under {WELL_KNOWN} are answered by the host",
                route.based
            ));
        }
    }
    for private in &manifest.host.private {
        let Ok(pattern) = Pattern::parse(private) else {
            continue;
        };
        let meets = |route: &Pattern| {
            route.matches(&pattern.example()) || pattern.matches(&route.example())
        };
        if !routes.iter().any(meets) {
            warnings.push(format!(
                "private: {private:?} covers no route, so it closes nothing"
            ));
        }
    }
    for timer in &manifest.host.timers {
        let path = timer.path.split('?').next().unwrap_or_default();
        if !routes.iter().any(|route| route.matches(path)) {
            warnings.push(format!(
                "timer: no route serves {} {}",
                timer.method, timer.path
            ));
        }
    }
    warnings
}
