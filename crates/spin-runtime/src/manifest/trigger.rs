//! Reads `[[trigger.http]]`: routes and what answers there.

use std::collections::{BTreeMap, BTreeSet};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::{
    Component, Route, Target, Trigger, component, id,
    pattern::Pattern,
    read::Context,
    reader::{Table, Value, suggest},
};

/// Reads every trigger and adds the components that are written inline to the others.
/// `known` holds the ids of all components of the manifest, those with problems included.
pub(super) fn read_all(
    context: &Context<'_>,
    triggers: &Value<'_>,
    known: &BTreeSet<String>,
    components: &mut BTreeMap<String, Component>,
) -> Vec<Trigger> {
    let Some(kinds) = triggers.table() else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let mut http = 0;
    for (kind, value) in kinds.entries() {
        match kind {
            "http" => {
                let entries = value.array();
                http = entries.len();
                let mut names = Names::new(known, &entries);
                for entry in &entries {
                    found.extend(read(context, entry, &mut names, components));
                }
            }
            _ => context.not_here(&value, "only trigger.http is run here"),
        }
    }
    if http == 0 && context.embedded {
        triggers.wrong("there is no [[trigger.http]], so there is nothing to serve");
    }
    let mut routes = BTreeMap::new();
    for (place, trigger) in &found {
        let Route::Path(route) = &trigger.route else {
            continue;
        };
        let Ok(pattern) = Pattern::parse(route) else {
            continue;
        };
        if let Some(first) = routes.insert(pattern.shape(), place) {
            let first: &Value<'_> = first;
            place.wrong(format!(
                "the route {route:?} is that of {} (line {}) too: one of them would never be called",
                first.key,
                first.line()
            ));
        }
    }
    found.into_iter().map(|(_, trigger)| trigger).collect()
}

fn read<'a>(
    context: &Context<'_>,
    entry: &Value<'a>,
    names: &mut Names,
    components: &mut BTreeMap<String, Component>,
) -> Option<(Value<'a>, Trigger)> {
    let mut table = entry.table()?;
    let id = table
        .get("id")
        .and_then(|value| value.string())
        .unwrap_or_default()
        .to_owned();
    let route = table.require("route", "a path like \"/api/...\", or { private = true }");
    let route = route.and_then(|value| read_route(&value));
    let component = table.get("component");
    let answer = table.get("static_response");
    executor(context, &mut table);
    for (name, what) in [
        ("components", "a trigger has one component here"),
        (
            "dependencies",
            "a trigger's dependencies (middleware) are not composed here",
        ),
    ] {
        let Some(value) = table.get(name) else {
            continue;
        };
        if value.table().is_some_and(|table| !table.is_empty()) {
            context.not_here(&value, what);
        }
    }
    table.finish();

    let target = match (component, answer) {
        (Some(component), None) => read_target(context, &id, &component, names, components),
        (None, Some(answer)) => {
            names.trigger(&id, None);
            static_response(&answer)
        }
        (Some(_), Some(answer)) => {
            answer.wrong("a trigger has either `component` or `static_response`, not both");
            None
        }
        (None, None) => {
            entry.wrong("`component` is missing: the id of a [component.ID], or `static_response`");
            None
        }
    };
    Some((
        entry.clone(),
        Trigger {
            route: route?,
            target: target?,
        },
    ))
}

fn read_route(value: &Value<'_>) -> Option<Route> {
    if value.is_table() {
        let mut table = value.table()?;
        let private = table.require("private", "a route is a path or { private = true }");
        table.finish();
        let private = private?;
        if !private.boolean()? {
            private.wrong("expected true: a route that is not private is written as its path");
            return None;
        }
        return Some(Route::Private);
    }
    if !value.is_str() {
        value.wrong(format!(
            "expected a path or {{ private = true }}, found {}",
            value.kind()
        ));
        return None;
    }
    let route = value.string()?;
    if let Err(reason) = Pattern::parse(route) {
        value.wrong(format!("{route:?} is no route: {reason}"));
        return None;
    }
    Some(Route::Path(route.to_owned()))
}

fn read_target(
    context: &Context<'_>,
    trigger_id: &str,
    value: &Value<'_>,
    names: &mut Names,
    components: &mut BTreeMap<String, Component>,
) -> Option<Target> {
    if value.is_str() {
        let name = value.string()?;
        names.trigger(trigger_id, Some(name));
        if !names.written.contains(name) {
            let reason = match id::kebab(name) {
                Ok(()) => suggest(name, names.written.iter().map(String::as_str)),
                Err(reason) => format!(": {reason}"),
            };
            value.wrong(format!("there is no [component.{name}]{reason}"));
            return None;
        }
        return Some(Target::Component(name.to_owned()));
    }
    if !value.is_table() {
        value.wrong(format!(
            "expected a component's id or its table, found {}",
            value.kind()
        ));
        return None;
    }
    let trigger_id = names.trigger(trigger_id, None);
    let name = names.inline(&trigger_id);
    let component = component::read(context, &name, value.table()?)?;
    components.insert(name.clone(), component);
    Some(Target::Component(name))
}

fn executor(context: &Context<'_>, table: &mut Table<'_>) {
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
        "wagi" => context.not_here(&kind, "the wagi executor is not run here"),
        other => kind.wrong(format!("unknown executor {other:?}; expected \"http\"")),
    }
}

fn static_response(value: &Value<'_>) -> Option<Target> {
    let mut table = value.table()?;
    let status = match table.get("status_code") {
        Some(value) => value.integer().and_then(|number| {
            let status = u16::try_from(number)
                .ok()
                .and_then(|code| StatusCode::from_u16(code).ok());
            // An informational status announces an answer and cannot be one.
            let status = status.filter(|status| !status.is_informational());
            if status.is_none() {
                value.wrong(format!("expected a status from 200 to 999, found {number}"));
            }
            status
        }),
        None => Some(StatusCode::OK),
    };
    let headers = match table.get("headers") {
        Some(value) => static_headers(&value),
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

fn static_headers(value: &Value<'_>) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    let mut sound = true;
    for (name, value) in value.table()?.entries() {
        let Some(text) = value.string() else {
            sound = false;
            continue;
        };
        match (name.parse::<HeaderName>(), HeaderValue::from_str(text)) {
            (Ok(name), Ok(text)) => {
                headers.insert(name, text);
            }
            (Err(_), _) => {
                sound = false;
                value.wrong(format!("{name:?} cannot be the name of a header"));
            }
            (_, Err(_)) => {
                sound = false;
                value.wrong("holds characters that cannot stand in a header: visible ASCII only");
            }
        }
    }
    sound.then_some(headers)
}

/// Ids that Spin gives to triggers and inline components that have none, so that logs and
/// `--component-id` say the same under both.
struct Names {
    written: BTreeSet<String>,
    triggers: BTreeSet<String>,
    inline: BTreeSet<String>,
    counted: usize,
}

impl Names {
    fn new(known: &BTreeSet<String>, entries: &[Value<'_>]) -> Self {
        let id = |entry: &Value<'_>| {
            let id = entry
                .is_table()
                .then(|| entry.table()?.get("id"))
                .flatten()?;
            id.is_str()
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
            written: known.clone(),
            triggers,
            inline: BTreeSet::new(),
            counted: 0,
        }
    }

    /// The id of a trigger: its own, or one made from its component's, or a counted one.
    fn trigger(&mut self, own: &str, component: Option<&str>) -> String {
        if !own.is_empty() {
            return own.to_owned();
        }
        if let Some(component) = component {
            let natural = format!("{component}-http-trigger");
            if self.triggers.insert(natural.clone()) {
                return natural;
            }
        }
        loop {
            self.counted += 1;
            let id = format!("http-trigger{}", self.counted);
            if self.triggers.insert(id.clone()) {
                return id;
            }
        }
    }

    /// An id for the component written inside a trigger.
    fn inline(&mut self, trigger: &str) -> String {
        let natural = format!("{trigger}-component");
        let counted = (1..).map(|number| format!("inline-component{number}"));
        let free = |id: &String| !self.written.contains(id) && !self.inline.contains(id);
        let id = std::iter::once(natural)
            .filter(|id| id::kebab(id).is_ok())
            .chain(counted)
            .find(free)
            .unwrap_or_default();
        self.inline.insert(id.clone());
        id
    }
}
