//! Keeps instances of a component between calls.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::embedded::{component::Component, instance::Instance};

/// The instances that wait for their next call, in the order of their last one.
pub(super) struct IdleInstances<E> {
    component: Arc<Component>,
    state: Arc<Mutex<State<E>>>,
}

struct State<E> {
    instances: Vec<(Instance<E>, Instant)>,
    /// A task drops those that have waited for too long.
    has_sweeper: bool,
}

impl<E: Send + 'static> IdleInstances<E> {
    pub(super) fn new(component: Arc<Component>) -> Self {
        Self {
            component,
            state: Arc::new(Mutex::new(State {
                instances: Vec::new(),
                has_sweeper: false,
            })),
        }
    }

    /// Returns the instance that was used last.
    pub(super) fn take(&self) -> Option<Instance<E>> {
        let (instance, _) = self.state.lock().instances.pop()?;
        Some(instance)
    }

    /// Keeps an instance for its next call, unless it has had enough of them. At most half of the
    /// component's instances wait, so that those for HTTP requests are not used up.
    pub(super) fn put(&self, instance: Instance<E>) {
        let limits = instance.limits();
        let expires = Instant::now() + limits.idle_instance_timeout;
        let is_used_up = instance.calls() >= limits.requests_per_instance;
        if is_used_up || self.component.permits.available_permits() == 0 {
            return;
        }
        let mut state = self.state.lock();
        if state.instances.len() >= self.component.limits.instances_per_component / 2 {
            return;
        }
        state.instances.push((instance, expires));
        if !std::mem::replace(&mut state.has_sweeper, true) {
            tokio::spawn(sweep(self.state.clone(), expires));
        }
    }
}

/// Drops instances that have waited for too long, until there are none.
async fn sweep<E>(state: Arc<Mutex<State<E>>>, mut next: Instant) {
    loop {
        // Several instances may expire at almost the same time.
        sleep_until(next + Duration::from_millis(10)).await;
        let now = Instant::now();
        let mut locked = state.lock();
        let is_expired = |(_, expires): &mut (_, Instant)| *expires <= now;
        let expired: Vec<_> = locked.instances.extract_if(.., is_expired).collect();
        let expiry = locked.instances.iter().map(|(_, expires)| *expires).min();
        match expiry {
            Some(expiry) => next = expiry,
            None => {
                locked.has_sweeper = false;
                return;
            }
        }
        drop(locked);
        drop(expired);
    }
}
