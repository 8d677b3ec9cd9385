//! The one clock of a run: nanoseconds since the program looked at it first.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds on this process's monotonic clock.
pub fn now() -> u64 {
    nanoseconds(START.elapsed())
}

/// A duration on that clock. 584 years fit.
pub fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Processor time this process has used, user and system, in nanoseconds.
pub fn processor() -> u64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(used).map(nanoseconds).unwrap_or(0)
}

/// The time from now until `at`, zero when it has passed.
pub fn until(at: u64) -> Duration {
    Duration::from_nanos(at.saturating_sub(now()))
}
