//! Waits for the times at which a timer is due.

use std::{
    ops::RangeInclusive,
    time::{Duration, SystemTime},
};

use rand::RngExt as _;
use spin_runtime::CronSchedule;
use tokio::time::sleep;

use crate::config::TimerSchedule;

/// The time after which the clock is read again, because it may have been set, or the machine may
/// have been suspended.
const MAX_SLEEP: Duration = Duration::from_secs(10);

/// A clock that is set back by less than this is being corrected, so times that were already due
/// are not due again.
const MAX_CORRECTION: Duration = Duration::from_secs(60);

/// Waits for the times of a schedule.
pub(super) struct Ticker<C> {
    schedule: TimerSchedule,
    /// Returns the current time.
    clock: C,
    ticked: bool,
    /// The time of the cron expression that was last due.
    last_due: Option<SystemTime>,
}

impl<C: Fn() -> SystemTime> Ticker<C> {
    pub(super) fn new(schedule: TimerSchedule, clock: C) -> Self {
        Self {
            schedule,
            clock,
            ticked: false,
            last_due: None,
        }
    }

    /// Waits until the timer is due, and returns for which time. Returns `None` if it will not be
    /// due anymore.
    ///
    /// Times that have passed between two calls are skipped. `announce` gets the time that is waited
    /// for, and again if the clock is set.
    pub(super) async fn tick(&mut self, announce: impl Fn(SystemTime)) -> Option<SystemTime> {
        let first = !std::mem::replace(&mut self.ticked, true);
        match &self.schedule {
            TimerSchedule::Every(pause) => {
                if !first {
                    let pause = random_pause(pause);
                    announce((self.clock)() + pause);
                    sleep(pause).await;
                }
                Some((self.clock)())
            }
            TimerSchedule::Cron(schedule) => {
                self.last_due = self.wait_for(schedule, announce).await;
                self.last_due
            }
        }
    }

    async fn wait_for(
        &self,
        schedule: &CronSchedule,
        announce: impl Fn(SystemTime),
    ) -> Option<SystemTime> {
        let mut start = (self.clock)();
        let mut next = self.next_after(schedule, start)?;
        announce(next);
        loop {
            let now = (self.clock)();
            if now < start {
                // The clock was set back.
                next = self.next_after(schedule, now)?;
                announce(next);
            }
            start = now;
            match next.duration_since(now) {
                Ok(left) if !left.is_zero() => sleep(left.min(MAX_SLEEP)).await,
                _ => return Some(next),
            }
        }
    }

    /// Returns the first time after `now` that was not due before a correction of the clock.
    fn next_after(&self, schedule: &CronSchedule, now: SystemTime) -> Option<SystemTime> {
        let is_corrected = |last_due: &SystemTime| {
            let behind = last_due.duration_since(now);
            behind.is_ok_and(|behind| behind < MAX_CORRECTION)
        };
        schedule.next_after(self.last_due.filter(is_corrected).unwrap_or(now))
    }
}

/// Returns a random pause, uniformly distributed over the range.
fn random_pause(range: &RangeInclusive<Duration>) -> Duration {
    if range.start() < range.end() {
        rand::rng().random_range(range.clone())
    } else {
        *range.start()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicI64, Ordering::SeqCst},
        time::UNIX_EPOCH,
    };

    use tokio::time::Instant;

    use super::*;

    /// Thursday, 2026-01-01 00:00:00 UTC.
    const NEW_YEAR: u64 = 1_767_225_600;

    fn at(seconds: f64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(NEW_YEAR) + Duration::from_secs_f64(seconds)
    }

    fn cron(expression: &str) -> TimerSchedule {
        TimerSchedule::Cron(CronSchedule::parse(expression).unwrap())
    }

    /// Returns a clock that starts at a time and follows Tokio's paused clock.
    fn clock(start: SystemTime) -> impl Fn() -> SystemTime {
        let started = Instant::now();
        move || start + started.elapsed()
    }

    /// Returns a clock as [`clock`] does, with an offset in seconds that may change.
    fn settable_clock(start: SystemTime, offset: &AtomicI64) -> impl Fn() -> SystemTime {
        let running = clock(start);
        move || {
            let offset = offset.load(SeqCst);
            let distance = Duration::from_secs(offset.unsigned_abs());
            if offset < 0 {
                running() - distance
            } else {
                running() + distance
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn cron_timers_are_due_at_their_times() {
        let clock = clock(at(0.5));
        let mut ticker = Ticker::new(cron("0,30 */2 * * * *"), &clock);
        for expected in [30.0, 120.0, 150.0, 240.0] {
            assert_eq!(ticker.tick(|_| ()).await, Some(at(expected)));
            let now = clock();
            // Tokio rounds up to milliseconds.
            assert!(now >= at(expected) && now < at(expected + 0.01), "{now:?}");
        }
        // Two times pass during a call, and are skipped.
        sleep(Duration::from_secs(131)).await;
        assert_eq!(ticker.tick(|_| ()).await, Some(at(390.0)));
    }

    #[tokio::test(start_paused = true)]
    async fn cron_timers_end_after_their_last_time() {
        let mut ticker = Ticker::new(cron("0 0 0 2 1 * 2026"), clock(at(0.0)));
        assert_eq!(ticker.tick(|_| ()).await, Some(at(86_400.0)));
        assert_eq!(ticker.tick(|_| ()).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_is_followed() {
        let offset = AtomicI64::new(0);
        let clock = settable_clock(at(0.0), &offset);
        let mut ticker = Ticker::new(cron("0 0 * * * *"), clock);
        let set = |to: i64| {
            let offset = &offset;
            async move {
                sleep(Duration::from_secs(60)).await;
                offset.store(to, SeqCst);
            }
        };
        // Set forward by an hour: due at once, and not again for the time that was skipped.
        let start = Instant::now();
        assert_eq!(
            tokio::join!(ticker.tick(|_| ()), set(3600)).0,
            Some(at(3600.0))
        );
        assert!(start.elapsed() <= Duration::from_secs(60) + MAX_SLEEP);
        // Set back by two hours, to a minute past 23:00.
        let (tick, ()) = tokio::join!(ticker.tick(|_| ()), set(-3600));
        assert_eq!(tick, Some(at(0.0)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_correction_of_the_clock_repeats_no_time() {
        let offset = AtomicI64::new(0);
        let clock = settable_clock(at(0.5), &offset);
        let mut ticker = Ticker::new(cron("0/20 * * * * *"), clock);
        assert_eq!(ticker.tick(|_| ()).await, Some(at(20.0)));
        assert_eq!(ticker.tick(|_| ()).await, Some(at(40.0)));
        // Set back before the next wait, to two seconds past 0:00.
        offset.store(-38, SeqCst);
        assert_eq!(ticker.tick(|_| ()).await, Some(at(60.0)));
        // Set back during the wait.
        let set = async {
            sleep(Duration::from_secs(5)).await;
            offset.store(-48, SeqCst);
        };
        assert_eq!(tokio::join!(ticker.tick(|_| ()), set).0, Some(at(80.0)));
        // The clock has to catch up.
        assert_eq!(ticker.tick(|_| ()).await, Some(at(100.0)));
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_follow_the_first_tick() {
        let pause = Duration::from_secs(2);
        let clock = clock(at(0.0));
        let mut ticker = Ticker::new(TimerSchedule::Every(pause..=pause), &clock);
        for expected in [0.0, 2.0, 4.0] {
            let late = ticker
                .tick(|_| ())
                .await
                .unwrap()
                .duration_since(at(expected));
            // Tokio rounds up to milliseconds.
            assert!(late.unwrap() < Duration::from_millis(10), "{expected}");
        }
    }

    #[test]
    fn pauses_are_within_their_range() {
        let range = Duration::from_secs(2)..=Duration::from_secs(6);
        let pauses: Vec<_> = (0..1000).map(|_| random_pause(&range)).collect();
        assert!(pauses.iter().all(|pause| range.contains(pause)));
        assert!(pauses.iter().any(|pause| *pause < Duration::from_secs(3)));
        assert!(pauses.iter().any(|pause| *pause > Duration::from_secs(5)));
        let fixed = Duration::from_secs(2);
        assert_eq!(random_pause(&(fixed..=fixed)), fixed);
    }
}
