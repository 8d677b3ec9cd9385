//! The held requests there are: counted, bounded, and let go when the host stops.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use grip::hold::HoldMode;
use tokio_util::sync::CancellationToken;

/// All held requests of a host.
pub(crate) struct Holds {
    streams: AtomicUsize,
    responses: AtomicUsize,
    most: AtomicUsize,
    stop: CancellationToken,
}

/// A held request's place among the others; dropping it gives the place up.
pub(crate) struct HoldGuard {
    holds: Arc<Holds>,
    mode: HoldMode,
    /// Its own, so that waiting for it takes no lock that others take.
    stop: CancellationToken,
}

impl Holds {
    /// Room for `most` holds, of both kinds together, which end with `stop`.
    pub(crate) fn new(most: usize, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            streams: AtomicUsize::new(0),
            responses: AtomicUsize::new(0),
            most: AtomicUsize::new(most),
            stop,
        })
    }

    /// Sets how many there may be. Those there are stay.
    pub(crate) fn bound(&self, most: usize) {
        self.most.store(most, Relaxed);
    }

    /// Adds a hold, unless there are as many as there may be.
    pub(crate) fn register(self: &Arc<Self>, mode: HoldMode) -> Option<HoldGuard> {
        // Two at once may both find the last place; the bound is on memory, not exact.
        if self.streams() + self.responses() >= self.most.load(Relaxed) {
            return None;
        }
        self.counter(mode).fetch_add(1, Relaxed);
        Some(HoldGuard {
            holds: self.clone(),
            mode,
            stop: self.stop.child_token(),
        })
    }

    /// How many streams are held.
    pub(crate) fn streams(&self) -> usize {
        self.streams.load(Relaxed)
    }

    /// How many responses are held.
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
    /// The hold has another mode from now on.
    pub(crate) fn set_mode(&mut self, mode: HoldMode) {
        self.holds.counter(self.mode).fetch_sub(1, Relaxed);
        self.holds.counter(mode).fetch_add(1, Relaxed);
        self.mode = mode;
    }

    /// Is cancelled when the host stops.
    pub(crate) fn stop(&self) -> CancellationToken {
        self.stop.clone()
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
    fn there_is_room_for_so_many() {
        let holds = Holds::new(2, CancellationToken::new());
        let stream = holds.register(HoldMode::Stream);
        let response = holds.register(HoldMode::Response);
        assert_eq!((holds.streams(), holds.responses()), (1, 1));
        assert!(holds.register(HoldMode::Stream).is_none());
        let mut response = response;
        if let Some(place) = &mut response {
            place.set_mode(HoldMode::Stream);
        }
        assert_eq!((holds.streams(), holds.responses()), (2, 0));
        drop(response);
        assert!(holds.register(HoldMode::Stream).is_some());
        drop(stream);
        assert_eq!((holds.streams(), holds.responses()), (0, 0));

        let held = [(); 2].map(|()| holds.register(HoldMode::Stream));
        holds.bound(1);
        assert!(held.iter().all(Option::is_some), "those there are stay");
        assert!(holds.register(HoldMode::Stream).is_none());
        holds.bound(3);
        assert!(holds.register(HoldMode::Stream).is_some());
    }
}
