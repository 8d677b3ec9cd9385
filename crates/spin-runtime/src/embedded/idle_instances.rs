//! Keeps instances of a component between calls.

use std::{mem, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};

use super::component::Component;
use crate::limits::Limits;

/// How often instances that have waited for too long are dropped.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);

/// The instances that wait for their next call, in the order of their last one.
pub(crate) struct IdleInstances<T> {
    component: Arc<Component>,
    state: Arc<Mutex<State<T>>>,
}

struct State<T> {
    instances: Vec<(T, Instant)>,
    /// A task drops those that have waited for too long.
    has_sweeper: bool,
}

impl<T: Send + 'static> IdleInstances<T> {
    pub(crate) fn new(component: Arc<Component>) -> Self {
        Self {
            component,
            state: Arc::new(Mutex::new(State {
                instances: Vec::new(),
                has_sweeper: false,
            })),
        }
    }

    /// Returns the instance that was used last, unless it has waited for too long.
    pub(crate) fn take(&self) -> Option<T> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let is_fresh = |(_, expires): &mut (T, Instant)| *expires > now;
        let (instance, _) = state.instances.pop_if(is_fresh)?;
        Some(instance)
    }

    /// Keeps an instance with these limits for its next call, unless it has had enough of them. At most
    /// half of the component's instances wait.
    pub(crate) fn put(&self, instance: T, calls: usize, limits: &Limits) {
        let expires = Instant::now() + limits.idle_instance_timeout;
        let is_used_up = calls >= limits.requests_per_instance;
        if is_used_up || self.component.permits.available_permits() == 0 {
            return;
        }
        let mut state = self.state.lock();
        let max_idle = (self.component.limits.instances_per_component / 2).max(1);
        if state.instances.len() >= max_idle {
            return;
        }
        state.instances.push((instance, expires));
        if !mem::replace(&mut state.has_sweeper, true) {
            tokio::spawn(sweep(self.state.clone(), self.component.permits.clone()));
        }
    }
}

/// Drops instances that have waited for too long, and all of them when the component may have no further
/// instances, which others may be waiting for. Ends when there are none.
async fn sweep<T>(state: Arc<Mutex<State<T>>>, permits: Arc<Semaphore>) {
    loop {
        sleep(SWEEP_INTERVAL).await;
        let now = Instant::now();
        let needs_room = permits.available_permits() == 0;
        let mut locked = state.lock();
        let is_expired = |(_, expires): &mut (T, Instant)| needs_room || *expires <= now;
        let expired: Vec<_> = locked.instances.extract_if(.., is_expired).collect();
        let is_empty = locked.instances.is_empty();
        locked.has_sweeper = !is_empty;
        drop(locked);
        drop(expired);
        if is_empty {
            return;
        }
    }
}
