//! Assigns the middleware of triggers to components.

use std::collections::BTreeMap;

use super::{
    model::{Component, Target},
    trigger::Found,
};

/// Moves the middleware of each trigger to its component.
///
/// A component that has other triggers is copied first, because its code differs between them. The
/// ids of the copies are those of Spin.
pub(super) fn assign(triggers: &mut [Found<'_>], components: &mut BTreeMap<String, Component>) {
    let mut uses: BTreeMap<String, usize> = BTreeMap::new();
    for found in &*triggers {
        if let Target::Component(id) = &found.trigger.target {
            *uses.entry(id.clone()).or_default() += 1;
        }
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
        let derived = format!("{id}-for-{}", found.id);
        let numbered = (1..).map(|number| format!("{derived}-d{number}"));
        let copy_id = std::iter::once(derived.clone())
            .chain(numbered)
            .find(|id| !components.contains_key(id))
            .unwrap_or_default();
        let copy = Component {
            id: copy_id.clone(),
            middleware,
            // The original is built.
            build: None,
            ..component.clone()
        };
        components.insert(copy_id.clone(), copy);
        *id = copy_id;
    }
}
