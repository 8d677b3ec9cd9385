//! Reads manifests of version 1, in which each component has its own trigger. They become the same
//! model as those of version 2.

use std::{collections::BTreeMap, path::PathBuf};

use super::{
    component::{self, Version},
    context::Context,
    id,
    model::{Component, Manifest, ManifestOptions, ManifestUse, Target, Trigger},
    parse,
    reader::{Table, Value},
    trigger,
};

/// Reads everything below the version.
pub(super) fn read(
    mut table: Table<'_>,
    path: PathBuf,
    root: PathBuf,
    options: ManifestOptions<'_>,
) -> Option<Manifest> {
    table.get("spin_manifest_version");
    table.get("spin_version");
    let name = table.require("name", "the application's name");
    let mut text = |name| {
        let value = table.get(name).and_then(|value| value.string());
        value.unwrap_or_default().to_owned()
    };
    let (version, description) = (text("version"), text("description"));
    if let Some(value) = table.get("authors") {
        value.strings();
    }
    let variables = table.get("variables");
    let variables = variables.map(|value| parse::read_variables(&value));
    let variables = variables.unwrap_or_default();
    let names = variables.keys().cloned().collect();
    let context = Context::new(&root, options, &names);
    let kind = table
        .require("trigger", "the type of the triggers: { type = \"http\" }")
        .and_then(|value| read_kind(&context, &value));
    let entries = table.get("component");
    let has_entries = entries.as_ref().is_some_and(|value| !value.is_empty());
    let entries = entries.map(|value| value.array());
    let mut components = BTreeMap::new();
    let mut triggers = Vec::new();
    for entry in entries.unwrap_or_default() {
        let Some((component, found)) = read_component(&context, &entry, kind) else {
            continue;
        };
        if components.contains_key(&component.id) {
            entry.error(format!("there is another component {:?}", component.id));
        }
        triggers.extend(found.map(|trigger| (entry.clone(), trigger)));
        components.insert(component.id.clone(), component);
    }
    if !has_entries && options.usage == ManifestUse::Embedded {
        table.error("no [[component]]: nothing to serve");
    }
    let routes: Vec<_> = triggers
        .iter()
        .map(|(value, trigger)| (value, trigger))
        .collect();
    trigger::check_duplicate_routes(&routes);
    parse::check_profile(&context, &mut table);
    table.finish();

    let triggers: Vec<Trigger> = triggers.into_iter().map(|(_, trigger)| trigger).collect();
    let warnings = parse::warnings(&triggers);
    Some(Manifest {
        path,
        root,
        profile: options.profile.map(str::to_owned),
        name: name?.string()?.to_owned(),
        version,
        description,
        variables,
        warnings,
        triggers,
        cron_triggers: Vec::new(),
        components,
    })
}

/// The type of all triggers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Http,
    Other,
}

fn read_kind(context: &Context<'_>, value: &Value<'_>) -> Option<Kind> {
    let mut table = value.table()?;
    let kind = table.require("type", "\"http\"")?;
    if kind.string()? != "http" {
        context.unsupported(&kind, "only triggers of the type \"http\" are supported");
        return Some(Kind::Other);
    }
    parse::check_http_settings(table);
    Some(Kind::Http)
}

/// Reads a component, and its trigger if that is an HTTP trigger.
fn read_component<'a>(
    context: &Context<'a>,
    entry: &Value<'a>,
    kind: Option<Kind>,
) -> Option<(Component, Option<Trigger>)> {
    let mut table = entry.table()?;
    let id = table.require("id", "the component's id")?;
    let converted = convert_id(id.string()?);
    if let Err(reason) = id::check_kebab(&converted) {
        id.error(format!("invalid component id {converted:?}: {reason}"));
    }
    let trigger = table.require("trigger", "its route: { route = \"/...\" }");
    let trigger = match kind {
        Some(Kind::Http) => trigger.and_then(|value| read_trigger(context, &value, &converted)),
        Some(Kind::Other) | None => None,
    };
    let component = component::read(context, &converted, table, Version::One)?;
    Some((component, trigger))
}

fn read_trigger(context: &Context<'_>, value: &Value<'_>, component: &str) -> Option<Trigger> {
    let mut table = value.table()?;
    let route = table.require("route", trigger::ROUTE);
    trigger::check_executor(context, &mut table);
    table.finish();
    Some(Trigger {
        route: trigger::read_route(&route?)?,
        target: Target::Component(component.to_owned()),
    })
}

/// Turns an id of version 1, such as `my_Component`, into one of version 2.
fn convert_id(id: &str) -> String {
    if id::check_kebab(id).is_ok() {
        id.to_owned()
    } else {
        id.replace('_', "-").to_lowercase()
    }
}
