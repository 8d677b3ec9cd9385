//! Reads a manifest's top level: its version, `[application]`, `[variables]`, and the list of
//! components.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    component::{self, Version},
    context::Context,
    dependencies::DependencySource,
    document::read_document,
    error::ManifestError,
    id,
    model::{
        Component, Manifest, ManifestOptions, ManifestUse, Route, ToolTables, Trigger, Variable,
        WELL_KNOWN,
    },
    reader::{Table, Value},
    suggest::suggest,
    trigger, version1,
};
use crate::{route_notation::notation_warning, route_pattern::RoutePattern};

impl Manifest {
    /// Reads the manifest at `path`: a file, or a folder that contains a `spin.toml`.
    ///
    /// # Errors
    /// Returns every problem of the manifest. Which features are problems depends on the options.
    pub fn load<'a>(
        path: impl AsRef<Path>,
        options: impl Into<ManifestOptions<'a>>,
    ) -> Result<Self, ManifestError> {
        Self::load_with_tools(path, options, |_| ()).map(|(manifest, ())| manifest)
    }

    /// Reads the manifest at `path` together with tables under `[application.tool]`.
    ///
    /// The problems that `read_tools` reports are part of the error, in the order of the file.
    ///
    /// # Errors
    /// Returns every problem of the manifest and of the tables that `read_tools` reads.
    pub fn load_with_tools<'a, T>(
        path: impl AsRef<Path>,
        options: impl Into<ManifestOptions<'a>>,
        read_tools: impl FnOnce(&ToolTables<'_>) -> T,
    ) -> Result<(Self, T), ManifestError> {
        let (text, path) = read_file(path.as_ref())?;
        Self::parse_with_tools(&text, path, options, read_tools)
    }

    /// Reads the text of a manifest as [`Self::load`] does, without accessing the file system.
    ///
    /// `path` is used in errors, and its folder is the root of the manifest's relative paths.
    ///
    /// # Errors
    /// Returns every problem of the manifest.
    pub fn parse<'a>(
        text: &str,
        path: impl AsRef<Path>,
        options: impl Into<ManifestOptions<'a>>,
    ) -> Result<Self, ManifestError> {
        Self::parse_with_tools(text, path, options, |_| ()).map(|(manifest, ())| manifest)
    }

    /// Reads the text of a manifest as [`Self::load_with_tools`] does.
    ///
    /// # Errors
    /// Returns every problem of the manifest and of the tables that `read_tools` reads.
    pub fn parse_with_tools<'a, T>(
        text: &str,
        path: impl AsRef<Path>,
        options: impl Into<ManifestOptions<'a>>,
        read_tools: impl FnOnce(&ToolTables<'_>) -> T,
    ) -> Result<(Self, T), ManifestError> {
        let path = path.as_ref();
        let absolute = std::path::absolute(path)
            .map_err(|error| ManifestError::file(path, format!("invalid path: {error}")))?;
        let root = absolute.parent().unwrap_or(&absolute).to_owned();

        let options = options.into();
        let ((mut manifest, tools), warnings) = read_document(text, path, |mut table| {
            let (manifest, tools) = match read_version(&mut table)? {
                Version::One => {
                    let manifest = version1::read(table, absolute, root, options);
                    (manifest, read_tools(&ToolTables::default()))
                }
                Version::Two => read_root(table, absolute, root, options, read_tools),
            };
            Some((manifest?, tools))
        })?;
        manifest.warnings.extend(warnings);
        Ok((manifest, tools))
    }
}

/// Returns the text and the path of a manifest's file.
fn read_file(path: &Path) -> Result<(String, PathBuf), ManifestError> {
    let file = if path.is_dir() {
        path.join("spin.toml")
    } else {
        path.to_owned()
    };
    match fs::read_to_string(&file) {
        Ok(text) => Ok((text, file)),
        Err(error) => {
            let hint = match error.kind() {
                io::ErrorKind::NotFound => "; pass the manifest or its folder with `--from`",
                _ => "",
            };
            let message = format!("cannot read the manifest: {error}{hint}");
            Err(ManifestError::file(file, message))
        }
    }
}

/// Reads the version of a manifest, and reports an unknown one.
fn read_version(table: &mut Table<'_>) -> Option<Version> {
    let expected = "expected spin_manifest_version = 2";
    // The oldest manifests spell it so.
    let version = table.get_any("spin_version");
    let version = version.or_else(|| table.get_any("spin_manifest_version"));
    let Some(version) = version else {
        table.require("spin_manifest_version", expected);
        return None;
    };
    if version.is_string() {
        let text = version.string()?;
        if text == "1" {
            return Some(Version::One);
        }
        version.error(format!("unsupported version {text:?}; {expected}"));
        return None;
    }
    let number = version.integer()?;
    if number != 2 {
        version.error(format!("unsupported version {number}; {expected}"));
        return None;
    }
    if version.key() == "spin_version" {
        version.error(format!("this key is that of version 1; {expected}"));
        return None;
    }
    Some(Version::Two)
}

/// Reads everything below the version.
fn read_root<T>(
    mut table: Table<'_>,
    path: PathBuf,
    root: PathBuf,
    options: ManifestOptions<'_>,
    read_tools: impl FnOnce(&ToolTables<'_>) -> T,
) -> (Option<Manifest>, T) {
    let usage = options.usage;
    table.get("spin_manifest_version");
    let variables = table
        .get("variables")
        .map(|value| read_variables(&value))
        .unwrap_or_default();
    let names = variables.keys().cloned().collect();
    let mut context = Context::new(&root, options, &names);
    let mut tools = ToolTables::default();
    let application = table
        .require("application", "the table with the application's name")
        .and_then(|value| Application::read(&value, &mut tools));
    let component_table = table.get("component");
    let component_ids: BTreeSet<String> = component_table
        .iter()
        .filter_map(Value::table)
        .flat_map(|table| ids(&table))
        .collect();
    if let Some(value) = &component_table {
        context.dependency_sources = read_dependency_sources(&context, value);
    }
    let mut components = component_table
        .map(|value| read_components(&context, &value))
        .unwrap_or_default();
    let triggers = match usage {
        ManifestUse::Embedded => {
            table.require("trigger", "[[trigger.http]] assigns routes to components")
        }
        // The manifest may only have the host's own table: the server behind it knows its routes.
        ManifestUse::Upstream => table.get("trigger"),
    };
    let triggers = triggers
        .map(|value| trigger::read_all(&context, &value, &component_ids, &mut components))
        .unwrap_or_default();
    check_profile(&context, &mut table);
    table.finish();

    let mut warnings = warnings(&triggers.http);
    warnings.extend(triggers.warnings);
    let tools = read_tools(&tools);
    let manifest = application.map(|application| Manifest {
        path,
        root,
        profile: options.profile.map(str::to_owned),
        name: application.name,
        version: application.version,
        description: application.description,
        variables,
        warnings,
        triggers: triggers.http,
        cron_triggers: triggers.cron,
        components,
    });
    (manifest, tools)
}

/// Reports a profile that no component defines, as Spin does. It may be misspelled.
pub(super) fn check_profile(context: &Context<'_>, table: &mut Table<'_>) {
    let profiles = context.profiles.borrow();
    let Some(name) = context.profile.filter(|name| !profiles.contains(*name)) else {
        return;
    };
    let suggestion = suggest(name, profiles.iter().map(String::as_str));
    table.error(format!(
        "no component defines the profile {name:?}{suggestion}: add [component.ID.profile.{name}], \
         or leave out `--profile`"
    ));
}

/// Reads what dependencies need to know about the components.
fn read_dependency_sources(
    context: &Context<'_>,
    value: &Value<'_>,
) -> BTreeMap<String, DependencySource> {
    let Some(table) = value.table() else {
        return BTreeMap::new();
    };
    let sources = table.entries().filter_map(|(id, value)| {
        let table = value.is_table().then(|| value.table())??;
        Some((id.to_owned(), DependencySource::read(context, table)))
    });
    sources.collect()
}

fn ids(table: &Table<'_>) -> Vec<String> {
    table.entries().map(|(name, _)| name.to_owned()).collect()
}

/// `[application]`.
struct Application {
    name: String,
    version: String,
    description: String,
}

impl Application {
    fn read<'a>(value: &Value<'a>, tools: &mut ToolTables<'a>) -> Option<Self> {
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
            component::check_targets(&value);
        }
        if let Some(value) = table.get("trigger") {
            check_trigger_settings(&value);
        }
        if let Some(value) = table.get("tool") {
            for (name, value) in component::tool_tables(&value) {
                tools.insert(name, value);
            }
        }
        table.finish();
        Some(Self {
            name: name?.string()?.to_owned(),
            version,
            description,
        })
    }
}

/// Checks `[application.trigger.KIND]`. Of `trigger.http` only the old key `base` is known, and
/// must have its default.
fn check_trigger_settings(value: &Value<'_>) {
    let Some(kinds) = value.table() else { return };
    for (kind, settings) in kinds.entries() {
        let Some(settings) = settings.table() else {
            continue;
        };
        if kind == "http" {
            check_http_settings(settings);
        }
    }
}

/// Checks the settings of all HTTP triggers.
pub(super) fn check_http_settings(mut settings: Table<'_>) {
    if let Some(base) = settings.get("base")
        && base.string().is_some_and(|path| path != "/")
    {
        base.error("`base` is not supported: put it in front of the `route` of each trigger");
    }
    settings.finish();
}

pub(super) fn read_variables(value: &Value<'_>) -> BTreeMap<String, Variable> {
    let mut variables = BTreeMap::new();
    let Some(table) = value.table() else {
        return variables;
    };
    for (name, value) in table.entries() {
        if let Err(reason) = id::check_lower_snake(name) {
            value.error(format!("invalid variable name {name:?}: {reason}"));
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
            value.error("a variable has either `default = \"…\"` or `required = true`");
        }
        let default = default.and_then(|value| value.string()).map(str::to_owned);
        variables.insert(name.to_owned(), Variable { default, secret });
    }
    variables
}

fn read_components<'a>(context: &Context<'a>, value: &Value<'a>) -> BTreeMap<String, Component> {
    let mut components = BTreeMap::new();
    let Some(table) = value.table() else {
        return components;
    };
    for (id, value) in table.entries() {
        if let Err(reason) = id::check_kebab(id) {
            value.error(format!("invalid component id {id:?}: {reason}"));
        }
        let Some(table) = value.table() else { continue };
        if let Some(component) = component::read(context, id, table, Version::Two) {
            components.insert(id.to_owned(), component);
        }
    }
    components
}

/// Finds routes that are valid and never reached, or that do not mean what they seem to.
pub(super) fn warnings(triggers: &[Trigger]) -> Vec<String> {
    let routes = triggers.iter().filter_map(|trigger| match &trigger.route {
        Route::Path(path) => Some((path, RoutePattern::parse(path).ok()?)),
        Route::Private => None,
    });
    routes
        .filter_map(|(path, route)| {
            notation_warning(path).or_else(|| route_warning(route.normalized()))
        })
        .collect()
}

fn route_warning(route: &str) -> Option<String> {
    if route.starts_with(WELL_KNOWN) {
        return Some(format!(
            "route {route} has no effect: the host answers paths under {WELL_KNOWN}"
        ));
    }
    if let Some(character) = route.chars().find(|character| "?#".contains(*character)) {
        return Some(format!(
            "route {route} never matches: a path ends before `{character}`"
        ));
    }
    None
}
