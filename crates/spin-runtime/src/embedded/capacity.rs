//! Bounds the requests that wait for a component.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// The requests that wait, and how many may. Clones share the count.
#[derive(Clone)]
pub(crate) struct WaitingRequests {
    count: Arc<AtomicUsize>,
    max: usize,
}

/// A request that waits, until this is dropped.
pub(crate) struct WaitingRequest(Arc<AtomicUsize>);

impl WaitingRequests {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            count: Arc::default(),
            max,
        }
    }

    /// Counts a request, whatever the limit.
    pub(crate) fn add(&self) -> WaitingRequest {
        self.count.fetch_add(1, Relaxed);
        WaitingRequest(self.count.clone())
    }

    /// Counts a request. Returns `None` if too many wait besides those for which there is room.
    pub(crate) fn try_add(&self, room: usize) -> Option<WaitingRequest> {
        let max = self.max.saturating_add(room);
        let counted = self
            .count
            .fetch_update(Relaxed, Relaxed, |count| (count < max).then_some(count + 1));
        counted.ok().map(|_| WaitingRequest(self.count.clone()))
    }
}

impl Drop for WaitingRequest {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_wait_up_to_the_limit() {
        let waiting = WaitingRequests::new(2);
        let first = waiting.try_add(0).expect("the first");
        let _second = waiting.try_add(0).expect("the second");
        assert!(waiting.try_add(0).is_none());
        let third = waiting.try_add(1).expect("there is room");
        let fourth = waiting.add();
        drop((first, third));
        assert!(waiting.try_add(0).is_none());
        drop(fourth);
        assert!(waiting.try_add(0).is_some());
    }
}
