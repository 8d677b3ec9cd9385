//! Reads `[component.ID]` and the inline form in a trigger.

use std::collections::BTreeMap;

use super::{
    build,
    context::Context,
    dependencies, id,
    model::{Component, Files},
    profile::{self, Profile},
    reader::{Table, Value},
    source,
    suggest::suggest,
    template::Template,
};
use crate::allowed_hosts;

/// The hosts that a component of manifest version 1 without `allowed_outbound_hosts` may reach.
const DATABASES: [&str; 3] = ["redis://*:*", "mysql://*:*", "postgres://*:*"];

/// The version of a manifest, as far as components differ in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

pub(super) fn read<'a>(
    context: &Context<'a>,
    id: &str,
    mut table: Table<'a>,
    version: Version,
) -> Option<Component> {
    let source = table.require(
        "source",
        "the path of the wasm file, such as \"target/wasm32-wasip2/release/my.wasm\"",
    );
    if let Some(value) = table.get("description") {
        value.string();
    }
    let files = match table.get("files") {
        Some(value) => value
            .array()
            .iter()
            .filter_map(|entry| read_files(context, entry))
            .collect(),
        None => Vec::new(),
    };
    let exclude_files = read_strings(&mut table, "exclude_files");
    let allowed_outbound_hosts = read_outbound_hosts(context, &mut table, version);
    let key_value_stores = read_labels(&mut table, "key_value_stores");
    let sqlite_databases = read_labels(&mut table, "sqlite_databases");
    if let Some(value) = table.get("ai_models")
        && !value.strings().is_empty()
    {
        context.warn_unsupported(&value, "this host runs no models, so calls to them fail");
    }
    let mut environment = table
        .get("environment")
        .map(|value| value.string_map())
        .unwrap_or_default();
    let variables = match version {
        Version::One => table.get("config"),
        Version::Two => table.get("variables"),
    };
    let variables = match variables {
        Some(value) => read_variables(context, &value),
        None => BTreeMap::new(),
    };
    let build = table.get("build");
    let mut profile = Profile::default();
    let mut dependencies = BTreeMap::new();
    if version == Version::Two {
        let inherit_all = table
            .get("dependencies_inherit_configuration")
            .and_then(|value| value.boolean());
        let own_dependencies = table.get("dependencies");
        if let Some(value) = table.get("targets") {
            check_targets(&value);
        }
        profile = profile::read(context, &mut table);
        dependencies = dependencies::read_all(
            context,
            own_dependencies.as_ref(),
            profile.dependencies.as_ref(),
            inherit_all,
        );
        if let Some(value) = table.get("tool") {
            tool_tables(&value);
        }
    }
    table.finish();

    if let Some(value) = &profile.environment {
        environment.extend(value.string_map());
    }
    let build = build::read(context, build.as_ref(), profile.command.as_ref());
    // Both are checked, whichever applies.
    let sources = [source, profile.source].map(|value| {
        let value = value?;
        Some((source::read(context.root, &value)?, value))
    });
    let [source, replacing] = sources;
    let (source, value) = replacing.or(source)?;
    source::check_supported(context, &value, &source);

    Some(Component {
        id: id.to_owned(),
        source,
        dependencies,
        middleware: Vec::new(),
        is_dependency: false,
        files,
        exclude_files,
        allowed_outbound_hosts,
        key_value_stores,
        sqlite_databases,
        environment,
        variables,
        build,
        reuses_websocket_instances: false,
    })
}

/// Returns the tables of `tool`. Their contents belong to other tools.
pub(super) fn tool_tables<'a>(value: &Value<'a>) -> Vec<(&'a str, Value<'a>)> {
    let Some(tools) = value.table() else {
        return Vec::new();
    };
    let is_table = |(_, value): &(&str, Value<'_>)| value.table().is_some();
    tools.entries().filter(is_table).collect()
}

/// Checks `targets`, which only `spin build` uses.
pub(super) fn check_targets(value: &Value<'_>) {
    for target in value.array() {
        if !target.is_string() && !target.is_table() {
            target.error(format!(
                "expected a name or a table, found {}",
                target.type_name()
            ));
        }
    }
}

fn read_strings(table: &mut Table<'_>, name: &'static str) -> Vec<String> {
    table
        .get(name)
        .map(|value| value.strings())
        .unwrap_or_default()
}

fn read_labels(table: &mut Table<'_>, name: &'static str) -> Vec<String> {
    let Some(value) = table.get(name) else {
        return Vec::new();
    };
    for label in value.array() {
        let Some(text) = label.string() else { continue };
        if let Err(reason) = id::check_label(text) {
            label.error(format!("invalid label {text:?}: {reason}"));
        }
    }
    value.strings()
}

fn read_files(context: &Context<'_>, value: &Value<'_>) -> Option<Files> {
    if value.is_string() {
        let glob = value.string()?;
        let last = glob.rsplit('/').next().unwrap_or(glob);
        if last.is_empty() || last == "." || last == ".." {
            value.error(format!(
                "{glob:?} does not name a file: use a pattern such as \"assets/**/*\", \
                 or {{ source = \"assets\", destination = \"/assets\" }}"
            ));
            return None;
        }
        return Some(Files::Glob(glob.to_owned()));
    }
    if !value.is_table() {
        value.error(format!(
            "expected a pattern, or a table with `source` and `destination`, found {}",
            value.type_name()
        ));
        return None;
    }
    let mut table = value.table()?;
    let source = table.require("source", "a file or folder, relative to the manifest");
    let destination = table.require("destination", "its path in the component's file system");
    table.finish();
    let (source, destination_value) = (source?.string()?, destination?);
    let destination = destination_value.string()?;
    let mut parts = Vec::new();
    for part in destination.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                destination_value.error(format!("{destination:?} must not contain `..`"));
                return None;
            }
            part => parts.push(part),
        }
    }
    let destination = format!("/{}", parts.join("/"));
    Some(Files::Placed {
        source: context.root.join(source),
        destination,
    })
}

fn read_outbound_hosts(
    context: &Context<'_>,
    table: &mut Table<'_>,
    version: Version,
) -> Vec<String> {
    let mut hosts = Vec::new();
    let value = table.get("allowed_outbound_hosts");
    if value.is_none() && version == Version::One {
        // Databases needed no permission before this key existed.
        hosts.extend(DATABASES.map(str::to_owned));
    }
    if let Some(value) = value {
        for entry in value.array() {
            let Some(text) = entry.string() else { continue };
            let Some(template) = read_template(context, &entry, text) else {
                continue;
            };
            // An entry with variables is checked once they have values.
            if template.variables().next().is_none()
                && let Err(error) = allowed_hosts::check_entry(text)
            {
                entry.error(error.to_string());
            }
            hosts.push(text.to_owned());
        }
    }
    // Deprecated, but still supported by Spin: hosts without a scheme.
    if let Some(value) = table.get("allowed_http_hosts") {
        for entry in value.array() {
            let Some(text) = entry.string() else { continue };
            match allowed_hosts::from_http_host(text) {
                Ok(entries) => hosts.extend(entries),
                Err(error) => entry.error(format!(
                    "{error}; use `allowed_outbound_hosts`, which replaces this key"
                )),
            }
        }
    }
    hosts
}

fn read_variables(context: &Context<'_>, value: &Value<'_>) -> BTreeMap<String, String> {
    let Some(table) = value.table() else {
        return BTreeMap::new();
    };
    let mut variables = BTreeMap::new();
    for (name, value) in table.entries() {
        if let Err(reason) = id::check_lower_snake(name) {
            value.error(format!("invalid variable name {name:?}: {reason}"));
        }
        let Some(text) = value.string() else { continue };
        if read_template(context, &value, text).is_some() {
            variables.insert(name.to_owned(), text.to_owned());
        }
    }
    variables
}

/// Parses a template and checks that its variables are declared.
fn read_template(context: &Context<'_>, value: &Value<'_>, text: &str) -> Option<Template> {
    let template = match Template::parse(text) {
        Ok(template) => template,
        Err(reason) => {
            value.error(reason);
            return None;
        }
    };
    let declared = context.variables;
    let unknown = template.variables().find(|name| !declared.contains(*name));
    if let Some(name) = unknown {
        let suggestion = suggest(name, declared.iter().map(String::as_str));
        value.error(format!(
            "unknown variable {name:?}{suggestion}; declare it under [variables]"
        ));
        return None;
    }
    Some(template)
}
