//! A limit on how often something may happen on average.

use std::{num::NonZeroU32, time::Duration};

use tokio::time::Instant;

/// The time over which a rate is averaged: all events of this time may happen at once.
const PERIOD: Duration = Duration::from_secs(10);

/// Counts events against a rate (the generic cell rate algorithm: only the time at which the next
/// event would be due at a steady rate is kept).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rate {
    /// `None` before the first event.
    next_due: Option<Instant>,
}

impl Rate {
    /// Records an event, of which `per_second` may happen in a second.
    ///
    /// # Errors
    /// At the limit, returns the time until the next event may happen.
    pub(crate) fn record(&mut self, per_second: NonZeroU32) -> Result<(), Duration> {
        let now = Instant::now();
        let next_due = self.next_due.map_or(now, |due| due.max(now));
        let interval = Duration::from_secs(1) / per_second.get();
        let limit = now + PERIOD - interval;
        if next_due > limit {
            return Err(next_due - limit);
        }
        self.next_due = Some(next_due + interval);
        Ok(())
    }

    /// Returns whether no earlier event counts any more.
    pub(crate) fn is_unused(&self) -> bool {
        self.next_due.is_none_or(|due| due <= Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn events_are_averaged() {
        let per_second = NonZeroU32::new(4).expect("not 0");
        let mut rate = Rate::default();
        assert!(rate.is_unused());
        for _ in 0..40 {
            assert_eq!(rate.record(per_second), Ok(()));
        }
        let interval = Duration::from_millis(250);
        assert_eq!(rate.record(per_second), Err(interval));
        advance(interval).await;
        assert_eq!(rate.record(per_second), Ok(()));
        assert_eq!(rate.record(per_second), Err(interval));
        advance(PERIOD - interval).await;
        assert!(!rate.is_unused());
        advance(interval).await;
        assert!(rate.is_unused());
        // Events at the rate are never refused.
        for _ in 0..1000 {
            assert_eq!(rate.record(per_second), Ok(()));
            advance(interval).await;
        }
    }
}
