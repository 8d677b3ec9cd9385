//! Reads `[component.ID]` and the inline form in a trigger.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{
    context::Context,
    id,
    model::{Build, Component, Files},
    reader::{Table, Value},
    suggest::suggest,
    template::Template,
};
use crate::allowed_hosts;

pub(super) fn read(context: &Context<'_>, id: &str, mut table: Table<'_>) -> Option<Component> {
    let source = table
        .require(
            "source",
            "the path of the wasm file, such as \"target/wasm32-wasip2/release/my.wasm\"",
        )
        .map(|value| read_source(context, &value));
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
    let allowed_outbound_hosts = read_outbound_hosts(context, &mut table);
    let key_value_stores = read_labels(&mut table, "key_value_stores");
    let sqlite_databases = read_labels(&mut table, "sqlite_databases");
    read_strings(&mut table, "ai_models");
    let environment = table
        .get("environment")
        .map(|value| value.string_map())
        .unwrap_or_default();
    let variables = match table.get("variables") {
        Some(value) => read_variables(context, &value),
        None => BTreeMap::new(),
    };
    let build = table
        .get("build")
        .and_then(|value| read_build(context, &value));
    check_dependencies(context, &mut table);
    if let Some(value) = table.get("targets") {
        check_targets(&value);
    }
    if let Some(value) = table.get("profile") {
        check_profiles(&value);
    }
    if let Some(value) = table.get("tool") {
        tool_tables(&value);
    }
    table.finish();

    Some(Component {
        id: id.to_owned(),
        source: source??,
        files,
        exclude_files,
        allowed_outbound_hosts,
        key_value_stores,
        sqlite_databases,
        environment,
        variables,
        build,
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

fn read_source(context: &Context<'_>, value: &Value<'_>) -> Option<PathBuf> {
    if value.is_string() {
        let path = value.string()?;
        if path.is_empty() {
            value.error("expected the path of a wasm file, found an empty string");
            return None;
        }
        return Some(context.root.join(path));
    }
    if !value.is_table() {
        value.error(format!(
            "expected a path, or a table with `url` and `digest` or with `package` and `version`, found {}",
            value.type_name()
        ));
        return None;
    }
    let mut table = value.table()?;
    let remote = table.get("url").is_some();
    for name in ["url", "digest", "registry", "package", "version"] {
        if let Some(value) = table.get(name) {
            value.string();
        }
    }
    if remote {
        table.require("digest", "the file's SHA-256 digest, such as \"sha256:…\"");
    } else {
        table.require(
            "package",
            "the name of a package, such as \"me:my-component\"",
        );
        table.require("version", "the package's version");
    }
    table.finish();
    context.unsupported(
        value,
        "remote components are not supported: download the file and use its path",
    );
    // Only used for an upstream, where the file is never opened.
    Some(PathBuf::new())
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

fn read_outbound_hosts(context: &Context<'_>, table: &mut Table<'_>) -> Vec<String> {
    let mut hosts = Vec::new();
    if let Some(value) = table.get("allowed_outbound_hosts") {
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

fn read_build(context: &Context<'_>, value: &Value<'_>) -> Option<Build> {
    let mut table = value.table()?;
    let commands = table
        .require("command", "a shell command, or a list of them")
        .map(|value| {
            if value.is_array() {
                value.strings()
            } else {
                value.string().map(str::to_owned).into_iter().collect()
            }
        });
    let workdir = table.get("workdir").and_then(|value| {
        let path = Path::new(value.string()?);
        if path.has_root() {
            value.error("expected a path relative to the manifest's folder");
        }
        Some(context.root.join(path))
    });
    let watch = read_strings(&mut table, "watch");
    let environment = table
        .get("environment")
        .map(|value| value.string_map())
        .unwrap_or_default();
    table.finish();
    let workdir = workdir.unwrap_or_else(|| context.root.to_owned());
    Some(Build {
        commands: commands?,
        workdir,
        watch,
        environment,
    })
}

fn check_dependencies(context: &Context<'_>, table: &mut Table<'_>) {
    if let Some(value) = table.get("dependencies_inherit_configuration") {
        value.boolean();
    }
    let Some(value) = table.get("dependencies") else {
        return;
    };
    if value
        .table()
        .is_some_and(|dependencies| !dependencies.is_empty())
    {
        context.unsupported(
            &value,
            "component dependencies are not supported: compose the component when it is built",
        );
    }
}

/// Checks `profile`: settings for `spin up --profile NAME`, which have no effect without that option.
fn check_profiles(value: &Value<'_>) {
    let Some(profiles) = value.table() else {
        return;
    };
    for (_, profile) in profiles.entries() {
        let Some(mut profile) = profile.table() else {
            continue;
        };
        for name in ["source", "environment", "dependencies", "build"] {
            profile.get(name);
        }
        profile.finish();
    }
}
