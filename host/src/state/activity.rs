//! When a client last showed that it is alive.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

/// A client that is not being read, and therefore cannot be considered silent.
const PAUSED: u32 = u32::MAX;

/// Tracks the last sign of life of one client, in seconds of the clock of
/// [`Sessions`](super::sessions::Sessions).
///
/// One shared clock keeps an idle socket from needing a timer of its own, and makes recording a
/// message a single atomic store.
pub(crate) struct Activity {
    /// When a message was last received, or [`PAUSED`].
    received: AtomicU32,
    /// Bytes were read from or accepted by the client since the last sweep.
    progressed: AtomicBool,
    /// When the client was last pinged for being silent.
    pinged: AtomicU32,
}

impl Activity {
    /// Starts paused: a client whose handshake is in progress is never silent.
    pub(crate) fn new() -> Self {
        Self {
            received: AtomicU32::new(PAUSED),
            progressed: AtomicBool::new(false),
            pinged: AtomicU32::new(0),
        }
    }

    /// Records a message from the client at `now`, which also ends a pause.
    pub(crate) fn record_received(&self, now: u32) {
        self.received.store(now, Relaxed);
    }

    /// Suspends the detection of silence until the next message is recorded.
    pub(crate) fn pause(&self) {
        self.received.store(PAUSED, Relaxed);
    }

    /// Records that bytes were read from the client or accepted by it. A large message may be in
    /// transit for a long time before it is complete.
    pub(crate) fn record_progress(&self) {
        self.progressed.store(true, Relaxed);
    }

    /// Counts progress since the last sweep as a message received at `now`.
    pub(crate) fn sweep(&self, now: u32) {
        let received = self.last_received();
        if self.progressed.swap(false, Relaxed) && received != PAUSED {
            // Unless it was paused in the meantime.
            let _ = self
                .received
                .compare_exchange(received, now, Relaxed, Relaxed);
        }
    }

    /// Records that the client was pinged at `now`.
    pub(crate) fn record_ping(&self, now: u32) {
        self.pinged.store(now, Relaxed);
    }

    /// Returns when the client was last pinged for being silent, or 0.
    pub(crate) fn last_pinged(&self) -> u32 {
        self.pinged.load(Relaxed)
    }

    /// Returns when a message was last received; in the far future while paused.
    pub(crate) fn last_received(&self) -> u32 {
        self.received.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_counts_as_a_message_unless_paused() {
        let activity = Activity::new();
        activity.record_received(0);
        for (now, progressed, received) in [(1, true, 1), (2, false, 1), (3, true, 3)] {
            if progressed {
                activity.record_progress();
            }
            activity.sweep(now);
            assert_eq!(activity.last_received(), received);
        }
        activity.pause();
        activity.record_progress();
        activity.sweep(5);
        assert_eq!(activity.last_received(), PAUSED);
    }
}
