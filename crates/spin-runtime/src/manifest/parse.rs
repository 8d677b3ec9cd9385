//! Reads a manifest's top level: `[application]`, `[variables]`, and the list of components.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use toml::de::DeTable;

use super::{
    component,
    context::Context,
    error::ManifestError,
    id,
    model::{Component, Manifest, ManifestUse, Route, ToolTables, Trigger, Variable, WELL_KNOWN},
    reader::{Diagnostics, Table, Value},
    trigger,
};
use crate::{route_notation::notation_warning, route_pattern::RoutePattern};

impl Manifest {
    /// Reads the manifest at `path`: a file, or a folder that contains a `spin.toml`.
    ///
    /// # Errors
    /// Returns every problem of the manifest. Which features are problems depends on `usage`.
    pub fn load(path: impl AsRef<Path>, usage: ManifestUse) -> Result<Self, ManifestError> {
        Self::load_with_tools(path, usage, |_| ()).map(|(manifest, ())| manifest)
    }

    /// Reads the manifest at `path` together with tables under `[application.tool]`.
    ///
    /// The problems that `read_tools` reports are part of the error, in the order of the file.
    ///
    /// # Errors
    /// Returns every problem of the manifest and of the tables that `read_tools` reads.
    pub fn load_with_tools<T>(
        path: impl AsRef<Path>,
        usage: ManifestUse,
        read_tools: impl FnOnce(&ToolTables<'_>) -> T,
    ) -> Result<(Self, T), ManifestError> {
        let (text, path) = read_file(path.as_ref())?;
        Self::parse_with_tools(&text, path, usage, read_tools)
    }

    /// Reads the text of a manifest as [`Self::load`] does, without accessing the file system.
    ///
    /// `path` is used in errors, and its folder is the root of the manifest's relative paths.
    ///
    /// # Errors
    /// Returns every problem of the manifest.
    pub fn parse(
        text: &str,
        path: impl AsRef<Path>,
        usage: ManifestUse,
    ) -> Result<Self, ManifestError> {
        Self::parse_with_tools(text, path, usage, |_| ()).map(|(manifest, ())| manifest)
    }

    /// Reads the text of a manifest as [`Self::load_with_tools`] does.
    ///
    /// # Errors
    /// Returns every problem of the manifest and of the tables that `read_tools` reads.
    pub fn parse_with_tools<T>(
        text: &str,
        path: impl AsRef<Path>,
        usage: ManifestUse,
        read_tools: impl FnOnce(&ToolTables<'_>) -> T,
    ) -> Result<(Self, T), ManifestError> {
        let path = path.as_ref();
        let absolute = std::path::absolute(path)
            .map_err(|error| ManifestError::file(path, format!("invalid path: {error}")))?;
        let root = absolute.parent().unwrap_or(&absolute).to_owned();

        let diagnostics = Diagnostics::new(text);
        let into_error = |diagnostics: Diagnostics<'_>| ManifestError {
            path: path.to_owned(),
            problems: diagnostics.into_problems(),
        };
        let (document, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let offset = error.span().map(|span| span.start);
            diagnostics.report(offset, "", error.message());
        }
        let mut table = Table::root(&diagnostics, document.get_ref());
        if errors.is_empty() {
            check_version(&mut table);
        }
        if !diagnostics.is_empty() {
            return Err(into_error(diagnostics));
        }

        let (manifest, tools) = read_root(table, absolute, root, usage, read_tools);
        match manifest {
            Some(manifest) if diagnostics.is_empty() => Ok((manifest, tools)),
            _ => Err(into_error(diagnostics)),
        }
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

fn check_version(table: &mut Table<'_>) {
    let expected = "only manifest version 2 is supported: spin_manifest_version = 2";
    let Some(version) = table.require("spin_manifest_version", expected) else {
        return;
    };
    if version.is_string() {
        if let Some(text) = version.string() {
            version.error(format!(
                "unsupported version {text:?}; {expected} (`spin doctor` upgrades manifests of version 1)"
            ));
        }
    } else if let Some(number) = version.integer()
        && number != 2
    {
        version.error(format!("unsupported version {number}; {expected}"));
    }
}

/// Reads everything below the version.
fn read_root<T>(
    mut table: Table<'_>,
    path: PathBuf,
    root: PathBuf,
    usage: ManifestUse,
    read_tools: impl FnOnce(&ToolTables<'_>) -> T,
) -> (Option<Manifest>, T) {
    let variables = table
        .get("variables")
        .map(|value| read_variables(&value))
        .unwrap_or_default();
    let names = variables.keys().cloned().collect();
    let context = Context {
        root: &root,
        usage,
        variables: &names,
    };
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
    table.finish();

    let mut warnings = warnings(&triggers.http);
    warnings.extend(triggers.warnings);
    let tools = read_tools(&tools);
    let manifest = application.map(|application| Manifest {
        path,
        root,
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
        let Some(mut settings) = settings.table() else {
            continue;
        };
        if kind != "http" {
            continue;
        }
        if let Some(base) = settings.get("base")
            && base.string().is_some_and(|path| path != "/")
        {
            base.error("`base` is not supported: put it in front of the `route` of each trigger");
        }
        settings.finish();
    }
}

fn read_variables(value: &Value<'_>) -> BTreeMap<String, Variable> {
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

fn read_components(context: &Context<'_>, value: &Value<'_>) -> BTreeMap<String, Component> {
    let mut components = BTreeMap::new();
    let Some(table) = value.table() else {
        return components;
    };
    for (id, value) in table.entries() {
        if let Err(reason) = id::check_kebab(id) {
            value.error(format!("invalid component id {id:?}: {reason}"));
        }
        let Some(table) = value.table() else { continue };
        if let Some(component) = component::read(context, id, table) {
            components.insert(id.to_owned(), component);
        }
    }
    components
}

/// Finds routes that are valid and never reached, or that do not mean what they seem to.
fn warnings(triggers: &[Trigger]) -> Vec<String> {
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
