//! Held requests: counts and limits them, and releases them when the host stops.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use grip::hold::HoldMode;
use tokio_util::sync::CancellationToken;

use crate::state::stop_tokens::{StopGuard, StopTokens};

/// Counts the held requests of a host.
pub(crate) struct Holds {
    streams: AtomicUsize,
    responses: AtomicUsize,
    limit: AtomicUsize,
    tokens: StopTokens,
}

/// Counts one held request until it is dropped.
pub(crate) struct HoldGuard {
    holds: Arc<Holds>,
    mode: HoldMode,
    stop: StopGuard,
}

impl Holds {
    /// Creates a counter for at most `limit` holds of both modes together, which end when `stop` is
    /// cancelled.
    pub(crate) fn new(limit: usize, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            streams: AtomicUsize::new(0),
            responses: AtomicUsize::new(0),
            limit: AtomicUsize::new(limit),
            tokens: StopTokens::new(stop),
        })
    }

    /// Changes the limit. Existing holds are kept even if they exceed it.
    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Relaxed);
    }

    /// Registers a hold, unless the limit is reached.
    pub(crate) fn register(self: &Arc<Self>, mode: HoldMode) -> Option<HoldGuard> {
        // Concurrent calls may exceed the limit slightly, which is fine: it only bounds memory.
        if self.streams() + self.responses() >= self.limit.load(Relaxed) {
            return None;
        }
        self.counter(mode).fetch_add(1, Relaxed);
        Some(HoldGuard {
            holds: self.clone(),
            mode,
            stop: self.tokens.register(),
        })
    }

    /// Releases all holds within `time`, one by one.
    pub(crate) async fn release_gradually(&self, time: Duration) {
        self.tokens.stop_gradually(time).await;
    }

    /// Returns the number of held streams.
    pub(crate) fn streams(&self) -> usize {
        self.streams.load(Relaxed)
    }

    /// Returns the number of held responses.
    pub(crate) fn responses(&self) -> usize {
        self.responses.load(Relaxed)
    }

    fn counter(&self, mode: HoldMode) -> &AtomicUsize {
        match mode {
            HoldMode::Stream => &self.streams,
            HoldMode::Response => &self.responses,
        }
    }
}

impl HoldGuard {
    /// Changes the mode of the hold.
    pub(crate) fn set_mode(&mut self, mode: HoldMode) {
        self.holds.counter(self.mode).fetch_sub(1, Relaxed);
        self.holds.counter(mode).fetch_add(1, Relaxed);
        self.mode = mode;
    }

    /// Returns a token that is cancelled when the hold must end.
    pub(crate) fn stop(&self) -> CancellationToken {
        self.stop.token()
    }
}

impl Drop for HoldGuard {
    fn drop(&mut self) {
        self.holds.counter(self.mode).fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_are_counted_by_mode_and_limited() {
        let holds = Holds::new(2, CancellationToken::new());
        let stream = holds.register(HoldMode::Stream);
        let response = holds.register(HoldMode::Response);
        assert_eq!((holds.streams(), holds.responses()), (1, 1));
        assert!(holds.register(HoldMode::Stream).is_none());
        let mut response = response;
        if let Some(guard) = &mut response {
            guard.set_mode(HoldMode::Stream);
        }
        assert_eq!((holds.streams(), holds.responses()), (2, 0));
        drop(response);
        assert!(holds.register(HoldMode::Stream).is_some());
        drop(stream);
        assert_eq!((holds.streams(), holds.responses()), (0, 0));

        let held = [(); 2].map(|()| holds.register(HoldMode::Stream));
        holds.set_limit(1);
        assert!(held.iter().all(Option::is_some), "existing holds are kept");
        assert!(holds.register(HoldMode::Stream).is_none());
        holds.set_limit(3);
        assert!(holds.register(HoldMode::Stream).is_some());
    }
}
