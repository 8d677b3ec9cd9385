//! The program's monotonic clock, in nanoseconds since its first use.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Returns the current time.
pub fn now() -> u64 {
    nanoseconds(START.elapsed())
}

/// Converts a duration to nanoseconds. Saturates after 584 years.
pub fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns the processor time of this process, user and system, in nanoseconds.
pub fn cpu_time() -> u64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(used).map(nanoseconds).unwrap_or(0)
}

/// Returns the time left until `at`, or zero if it has passed.
pub fn until(at: u64) -> Duration {
    Duration::from_nanos(at.saturating_sub(now()))
}
