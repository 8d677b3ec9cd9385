//! Reads the triggers. Those of HTTP are routes and their targets.

use std::collections::{BTreeMap, BTreeSet};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::{
    component::{self, Version},
    context::Context,
    cron_trigger, dependencies, id, middleware,
    model::{Component, CronTrigger, Dependency, ManifestUse, Route, Target, Trigger},
    reader::{Table, Value},
    suggest::suggest,
};
use crate::route_pattern::RoutePattern;

/// The expected value of `route`, for errors.
pub(super) const ROUTE: &str = "a path such as \"/api/...\", or { private = true }";

/// The triggers of a manifest.
#[derive(Default)]
pub(super) struct Triggers {
    pub(super) http: Vec<Trigger>,
    pub(super) cron: Vec<CronTrigger>,
    pub(super) warnings: Vec<String>,
}

/// Reads every trigger and adds inline components to `components`.
///
/// `component_ids` contains the ids of all `[component.ID]` tables, even of those with problems.
pub(super) fn read_all<'a>(
    context: &Context<'a>,
    triggers: &Value<'a>,
    component_ids: &BTreeSet<String>,
    components: &mut BTreeMap<String, Component>,
) -> Triggers {
    let mut found = Triggers::default();
    let Some(kinds) = triggers.table() else {
        return found;
    };
    let mut routes = Vec::new();
    let mut entry_count = 0;
    for (kind, value) in kinds.entries() {
        match kind {
            "http" => {
                let entries = value.array();
                entry_count += entries.len();
                let mut names = Names::new("http", component_ids, &entries);
                for entry in &entries {
                    routes.extend(read(context, entry, &mut names, components));
                }
            }
            "cron" if context.usage == ManifestUse::Embedded => {
                let entries = value.array();
                entry_count += entries.len();
                let mut names = Names::new("cron", component_ids, &entries);
                for entry in &entries {
                    let trigger = cron_trigger::read(context, entry, &mut names, components);
                    found.cron.extend(trigger);
                }
            }
            "cron" => found.warnings.push(
                "[[trigger.cron]] is ignored: the server behind --upstream calls its own \
                 components"
                    .to_owned(),
            ),
            _ => context.unsupported(&value, "only trigger.http and trigger.cron are supported"),
        }
    }
    if entry_count == 0 && context.usage == ManifestUse::Embedded {
        triggers.error("no [[trigger.http]]: nothing to serve");
    }
    let listed: Vec<_> = routes
        .iter()
        .map(|found| (&found.value, &found.trigger))
        .collect();
    check_duplicate_routes(&listed);
    mark_dependencies(context, &kinds, components);
    middleware::assign(&mut routes, &found.cron, components);
    found.http = routes.into_iter().map(|route| route.trigger).collect();
    found
}

/// A trigger of a manifest, with what only matters while the manifest is read.
pub(super) struct Found<'a> {
    pub(super) value: Value<'a>,
    pub(super) id: String,
    pub(super) middleware: Vec<Dependency>,
    pub(super) trigger: Trigger,
}

/// Marks the components that are dependencies of others and that no trigger names.
fn mark_dependencies(
    context: &Context<'_>,
    kinds: &Table<'_>,
    components: &mut BTreeMap<String, Component>,
) {
    let triggers = kinds.entries().filter(|(_, value)| value.is_array());
    let triggers = triggers.flat_map(|(_, value)| value.array());
    let named = triggers.filter_map(|trigger| {
        let component = trigger
            .is_table()
            .then(|| trigger.table())??
            .get("component")?;
        component.is_string().then(|| component.string()).flatten()
    });
    let named: BTreeSet<&str> = named.collect();
    for id in context.composed.borrow().iter() {
        if !named.contains(id.as_str())
            && let Some(component) = components.get_mut(id)
        {
            component.is_dependency = true;
        }
    }
}

/// Reports triggers whose routes match the same paths.
pub(super) fn check_duplicate_routes(triggers: &[(&Value<'_>, &Trigger)]) {
    let mut routes = BTreeMap::new();
    for (value, trigger) in triggers {
        let Route::Path(route) = &trigger.route else {
            continue;
        };
        let Ok(pattern) = RoutePattern::parse(route) else {
            continue;
        };
        if let Some(first) = routes.insert(pattern.shape(), value) {
            let first: &Value<'_> = first;
            value.error(format!(
                "the route {route:?} matches the same paths as that of {} (line {})",
                first.key(),
                first.line()
            ));
        }
    }
}

fn read<'a>(
    context: &Context<'a>,
    entry: &Value<'a>,
    names: &mut Names,
    components: &mut BTreeMap<String, Component>,
) -> Option<Found<'a>> {
    let mut table = entry.table()?;
    let id = table
        .get("id")
        .and_then(|value| value.string())
        .unwrap_or_default()
        .to_owned();
    let route = table.require("route", ROUTE);
    let route = route.and_then(|value| read_route(&value));
    let component = table.get("component");
    let response = table.get("static_response");
    check_executor(context, &mut table);
    if let Some(value) = table.get("components")
        && value.table().is_some_and(|table| !table.is_empty())
    {
        context.unsupported(&value, "several components in a trigger are not supported");
    }
    let middleware = table.get("dependencies").map(|value| {
        if response.is_some() && !value.is_empty() {
            value.error("a static response has no middleware: remove `dependencies`");
        }
        dependencies::read_middleware(context, &value)
    });
    table.finish();

    let name = component.as_ref().filter(|component| component.is_string());
    let id = names.trigger(&id, name.and_then(|name| name.string()));
    let target = match (component, response) {
        (Some(component), None) => read_target(context, &id, &component, names, components),
        (None, Some(response)) => read_static_response(&response),
        (Some(_), Some(response)) => {
            response.error("a trigger has either `component` or `static_response`, not both");
            None
        }
        (None, None) => {
            entry.error("`component` is missing: the id of a component, or use `static_response`");
            None
        }
    };
    Some(Found {
        value: entry.clone(),
        id,
        middleware: middleware.unwrap_or_default(),
        trigger: Trigger {
            route: route?,
            target: target?,
        },
    })
}

pub(super) fn read_route(value: &Value<'_>) -> Option<Route> {
    if value.is_table() {
        let mut table = value.table()?;
        let private = table.require("private", "a route is either a path or { private = true }");
        table.finish();
        let private = private?;
        if !private.boolean()? {
            private.error("expected true: write the path of a route that is not private");
            return None;
        }
        return Some(Route::Private);
    }
    if !value.is_string() {
        value.error(format!(
            "expected a path or {{ private = true }}, found {}",
            value.type_name()
        ));
        return None;
    }
    let route = value.string()?;
    if let Err(reason) = RoutePattern::parse(route) {
        value.error(format!("invalid route {route:?}: {reason}"));
        return None;
    }
    Some(Route::Path(route.to_owned()))
}

/// Reads the component of a trigger: an id, or the table of an inline component.
pub(super) fn read_target<'a>(
    context: &Context<'a>,
    trigger_id: &str,
    value: &Value<'a>,
    names: &mut Names,
    components: &mut BTreeMap<String, Component>,
) -> Option<Target> {
    if value.is_string() {
        let name = value.string()?;
        if !names.components.contains(name) {
            let reason = match id::check_kebab(name) {
                Ok(()) => suggest(name, names.components.iter().map(String::as_str)),
                Err(reason) => format!(": {reason}"),
            };
            value.error(format!("no [component.{name}]{reason}"));
            return None;
        }
        return Some(Target::Component(name.to_owned()));
    }
    if !value.is_table() {
        value.error(format!(
            "expected a component's id or its table, found {}",
            value.type_name()
        ));
        return None;
    }
    let id = names.inline_component(trigger_id);
    let component = component::read(context, &id, value.table()?, Version::Two)?;
    components.insert(id.clone(), component);
    Some(Target::Component(id))
}

pub(super) fn check_executor(context: &Context<'_>, table: &mut Table<'_>) {
    let Some(value) = table.get("executor") else {
        return;
    };
    let Some(mut executor) = value.table() else {
        return;
    };
    let Some(kind) = executor.require("type", "\"http\"") else {
        return;
    };
    let Some(name) = kind.string() else { return };
    match name {
        "http" | "spin" => executor.finish(),
        "wagi" => context.unsupported(&kind, "the wagi executor is not supported"),
        other => kind.error(format!("unknown executor {other:?}; expected \"http\"")),
    }
}

fn read_static_response(value: &Value<'_>) -> Option<Target> {
    let mut table = value.table()?;
    let status = match table.get("status_code") {
        Some(value) => value.integer().and_then(|number| {
            let status = u16::try_from(number)
                .ok()
                .and_then(|code| StatusCode::from_u16(code).ok());
            // An informational status only precedes a response.
            let status = status.filter(|status| !status.is_informational());
            if status.is_none() {
                value.error(format!("expected a status from 200 to 999, found {number}"));
            }
            status
        }),
        None => Some(StatusCode::OK),
    };
    let headers = match table.get("headers") {
        Some(value) => read_static_headers(&value),
        None => Some(HeaderMap::new()),
    };
    let body = match table.get("body") {
        Some(value) => value.string(),
        None => Some(""),
    };
    table.finish();
    Some(Target::Static {
        status: status?,
        headers: headers?,
        body: body?.to_owned(),
    })
}

fn read_static_headers(value: &Value<'_>) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    let mut valid = true;
    for (name, value) in value.table()?.entries() {
        let Some(text) = value.string() else {
            valid = false;
            continue;
        };
        match (name.parse::<HeaderName>(), HeaderValue::from_str(text)) {
            (Ok(name), Ok(text)) => {
                headers.insert(name, text);
            }
            (Err(_), _) => {
                valid = false;
                value.error(format!("invalid header name {name:?}"));
            }
            (_, Err(_)) => {
                valid = false;
                value.error("invalid header value: expected visible ASCII characters");
            }
        }
    }
    valid.then_some(headers)
}

/// Generates the ids of triggers and inline components without one.
///
/// The ids are those of Spin, so that logs and `--component-id` are the same under both.
pub(super) struct Names {
    /// The kind of the triggers, such as `http`.
    kind: &'static str,
    /// The ids of all `[component.ID]` tables.
    components: BTreeSet<String>,
    triggers: BTreeSet<String>,
    inline_components: BTreeSet<String>,
    last_number: usize,
}

impl Names {
    fn new(kind: &'static str, component_ids: &BTreeSet<String>, entries: &[Value<'_>]) -> Self {
        let id = |entry: &Value<'_>| {
            let id = entry
                .is_table()
                .then(|| entry.table()?.get("id"))
                .flatten()?;
            id.is_string()
                .then(|| id.string())
                .flatten()
                .map(str::to_owned)
        };
        let triggers = entries
            .iter()
            .filter_map(id)
            .filter(|id| !id.is_empty())
            .collect();
        Self {
            kind,
            components: component_ids.clone(),
            triggers,
            inline_components: BTreeSet::new(),
            last_number: 0,
        }
    }

    /// Returns the id of a trigger: its own, or one derived from its component, or a numbered one.
    pub(super) fn trigger(&mut self, id: &str, component: Option<&str>) -> String {
        if !id.is_empty() {
            return id.to_owned();
        }
        if let Some(component) = component {
            let id = format!("{component}-{}-trigger", self.kind);
            if self.triggers.insert(id.clone()) {
                return id;
            }
        }
        loop {
            self.last_number += 1;
            let id = format!("{}-trigger{}", self.kind, self.last_number);
            if self.triggers.insert(id.clone()) {
                return id;
            }
        }
    }

    /// Returns an id for the inline component of a trigger.
    fn inline_component(&mut self, trigger_id: &str) -> String {
        let derived = format!("{trigger_id}-component");
        let is_free =
            |id: &str| !self.components.contains(id) && !self.inline_components.contains(id);
        let id = id::derive(derived, "inline-component", is_free);
        self.inline_components.insert(id.clone());
        id
    }
}
