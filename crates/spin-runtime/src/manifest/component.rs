//! Reads `[component.ID]` and the inline form in a trigger.

use std::collections::BTreeMap;

use super::{
    Build, Component, Files, id,
    read::Context,
    reader::{Table, Value, suggest},
    template::Template,
};
use crate::outbound;

pub(super) fn read(context: &Context<'_>, id: &str, table: Table<'_>) -> Option<Component> {
    let mut table = table;
    let source = table
        .require(
            "source",
            "the wasm file, like \"target/wasm32-wasip2/release/my.wasm\"",
        )
        .map(|value| source(context, &value));
    if let Some(value) = table.get("description") {
        value.string();
    }
    let files = match table.get("files") {
        Some(value) => value
            .array()
            .iter()
            .filter_map(|entry| files(context, entry))
            .collect(),
        None => Vec::new(),
    };
    let exclude_files = strings(&mut table, "exclude_files");
    let allowed_outbound_hosts = outbound_hosts(context, &mut table);
    let key_value_stores = labels(&mut table, "key_value_stores");
    let sqlite_databases = labels(&mut table, "sqlite_databases");
    strings(&mut table, "ai_models");
    let environment = table
        .get("environment")
        .map(|value| value.string_map())
        .unwrap_or_default();
    let variables = match table.get("variables") {
        Some(value) => variables(context, &value),
        None => BTreeMap::new(),
    };
    let build = table.get("build").and_then(|value| build(context, &value));
    dependencies(context, &mut table);
    if let Some(value) = table.get("targets") {
        targets(&value);
    }
    if let Some(value) = table.get("profile") {
        profiles(&value);
    }
    tool(&mut table);
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

/// `tool`: tables of other tools, which are not ours to look into.
pub(super) fn tool(table: &mut Table<'_>) {
    if let Some(tools) = table.get("tool").and_then(|value| value.table()) {
        for (_, value) in tools.entries() {
            value.table();
        }
    }
}

/// `targets`: what `spin build` checks a component against; nothing at run time.
pub(super) fn targets(value: &Value<'_>) {
    for target in value.array() {
        if !target.is_str() && !target.is_table() {
            target.wrong(format!(
                "expected a name or a table, found {}",
                target.kind()
            ));
        }
    }
}

fn strings(table: &mut Table<'_>, name: &'static str) -> Vec<String> {
    table
        .get(name)
        .map(|value| value.strings())
        .unwrap_or_default()
}

fn labels(table: &mut Table<'_>, name: &'static str) -> Vec<String> {
    let Some(value) = table.get(name) else {
        return Vec::new();
    };
    for label in value.array() {
        let Some(text) = label.string() else { continue };
        if let Err(reason) = id::label(text) {
            label.wrong(format!("{text:?} is no label: {reason}"));
        }
    }
    value.strings()
}

fn source(context: &Context<'_>, value: &Value<'_>) -> Option<std::path::PathBuf> {
    if value.is_str() {
        let path = value.string()?;
        if path.is_empty() {
            value.wrong("expected the path of a wasm file, found an empty string");
            return None;
        }
        return Some(context.root.join(path));
    }
    if !value.is_table() {
        value.wrong(format!(
            "expected a path, or a table with `url` and `digest` or with `package` and `version`, found {}",
            value.kind()
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
        table.require("digest", "the file's sha256, like \"sha256:…\"");
    } else {
        table.require("package", "the name of a package, like \"me:my-component\"");
        table.require("version", "the package's version");
    }
    table.finish();
    context.not_here(
        value,
        "components are not downloaded here; fetch or build the file first and give its path",
    );
    // Only for a manifest that is not run here, where no file is asked for.
    Some(std::path::PathBuf::new())
}

fn files(context: &Context<'_>, value: &Value<'_>) -> Option<Files> {
    if value.is_str() {
        let glob = value.string()?;
        let last = glob.rsplit('/').next().unwrap_or(glob);
        if last.is_empty() || last == "." || last == ".." {
            value.wrong(format!(
                "{glob:?} names no file: use a pattern like \"assets/**/*\", \
                 or {{ source = \"assets\", destination = \"/assets\" }}"
            ));
            return None;
        }
        return Some(Files::Glob(glob.to_owned()));
    }
    if !value.is_table() {
        value.wrong(format!(
            "expected a pattern, or a table with `source` and `destination`, found {}",
            value.kind()
        ));
        return None;
    }
    let mut table = value.table()?;
    let source = table.require("source", "the file or folder beside the manifest");
    let destination = table.require("destination", "the path the component sees it at");
    table.finish();
    let (source, place) = (source?.string()?, destination?);
    let destination = place.string()?;
    let mut parts = Vec::new();
    for part in destination.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                place.wrong(format!(
                    "{destination:?} must not leave the component's root with `..`"
                ));
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

fn outbound_hosts(context: &Context<'_>, table: &mut Table<'_>) -> Vec<String> {
    let mut hosts = Vec::new();
    if let Some(value) = table.get("allowed_outbound_hosts") {
        for entry in value.array() {
            let Some(text) = entry.string() else { continue };
            let Some(template) = template(context, &entry, text) else {
                continue;
            };
            // What a template gives is known, and checked, when the variables are.
            if template.variables().next().is_none()
                && let Err(error) = outbound::check(text)
            {
                entry.wrong(error.to_string());
            }
            hosts.push(text.to_owned());
        }
    }
    // Deprecated, and still read by Spin: hosts without a scheme, reached by HTTP or HTTPS.
    if let Some(value) = table.get("allowed_http_hosts") {
        for entry in value.array() {
            let Some(text) = entry.string() else { continue };
            match outbound::from_http_host(text) {
                Ok(entries) => hosts.extend(entries),
                Err(error) => entry.wrong(format!(
                    "{error}; `allowed_outbound_hosts` replaces this key"
                )),
            }
        }
    }
    hosts
}

fn variables(context: &Context<'_>, value: &Value<'_>) -> BTreeMap<String, String> {
    let Some(table) = value.table() else {
        return BTreeMap::new();
    };
    let mut variables = BTreeMap::new();
    for (name, value) in table.entries() {
        if let Err(reason) = id::lower_snake(name) {
            value.wrong(format!("{name:?} is no name for a variable: {reason}"));
        }
        let Some(text) = value.string() else { continue };
        if template(context, &value, text).is_some() {
            variables.insert(name.to_owned(), text.to_owned());
        }
    }
    variables
}

/// Reads a template and notes what it names in vain.
fn template(context: &Context<'_>, value: &Value<'_>, text: &str) -> Option<Template> {
    let template = match Template::parse(text) {
        Ok(template) => template,
        Err(reason) => {
            value.wrong(reason);
            return None;
        }
    };
    let declared = context.variables;
    let unknown = template.variables().find(|name| !declared.contains(*name));
    if let Some(name) = unknown {
        let suggestion = suggest(name, declared.iter().map(String::as_str));
        value.wrong(format!(
            "unknown variable {name:?}{suggestion}; declare it under [variables]"
        ));
        return None;
    }
    Some(template)
}

fn build(context: &Context<'_>, value: &Value<'_>) -> Option<Build> {
    let mut table = value.table()?;
    let commands = table
        .require("command", "a shell command, or a list of them")
        .map(|value| {
            if value.is_array() {
                value.strings()
            } else {
                one(value.string())
            }
        });
    let workdir = table.get("workdir").and_then(|value| {
        let path = std::path::Path::new(value.string()?);
        if path.has_root() {
            value.wrong("expected a path relative to the manifest's folder");
        }
        Some(context.root.join(path))
    });
    let watch = strings(&mut table, "watch");
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

fn one(command: Option<&str>) -> Vec<String> {
    command.map(str::to_owned).into_iter().collect()
}

fn dependencies(context: &Context<'_>, table: &mut Table<'_>) {
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
        context.not_here(
            &value,
            "dependencies are not composed here; compose the component when it is built",
        );
    }
}

/// `profile`: other settings for `--profile NAME`; without the option Spin leaves them aside too.
fn profiles(value: &Value<'_>) {
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
