//! Assigns the middleware of triggers to components.

use std::collections::BTreeMap;

use super::{
    id,
    model::{Component, CronTrigger, Target},
    trigger::Found,
};

/// Moves the middleware of each HTTP trigger to its component.
///
/// A component that has other triggers is copied first, because its code differs between them. The
/// ids of the copies are those of Spin.
pub(super) fn assign(
    triggers: &mut [Found<'_>],
    cron_triggers: &[CronTrigger],
    components: &mut BTreeMap<String, Component>,
) {
    let mut uses: BTreeMap<String, usize> = BTreeMap::new();
    for found in &*triggers {
        if let Target::Component(id) = &found.trigger.target {
            *uses.entry(id.clone()).or_default() += 1;
        }
    }
    for trigger in cron_triggers {
        *uses.entry(trigger.component.clone()).or_default() += 1;
    }
    for found in triggers {
        let Target::Component(id) = &mut found.trigger.target else {
            continue;
        };
        if found.middleware.is_empty() {
            continue;
        }
        let middleware = std::mem::take(&mut found.middleware);
        if uses.get(id) == Some(&1) {
            if let Some(component) = components.get_mut(id) {
                component.middleware = middleware;
            }
            continue;
        }
        let Some(component) = components.get(id) else {
            continue;
        };
        let copy_id = copy_id(id, &found.id, components);
        let copy = Component {
            id: copy_id.clone(),
            middleware,
            // The original is built.
            build: None,
            reuses_websocket_instances: false,
            ..component.clone()
        };
        components.insert(copy_id.clone(), copy);
        *id = copy_id;
    }
}

/// Returns the id of a component's copy for a trigger.
///
/// Ids are part of the names of log files, so a trigger id that is not in kebab case is left out.
fn copy_id(component: &str, trigger: &str, components: &BTreeMap<String, Component>) -> String {
    let derived = format!("{component}-for-{trigger}");
    let prefix = match id::check_kebab(&derived) {
        Ok(()) => format!("{derived}-d"),
        Err(_) => format!("{component}-d"),
    };
    id::derive(derived, &prefix, |id| !components.contains_key(id))
}
