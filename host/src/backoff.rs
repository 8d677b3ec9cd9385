//! Delays between attempts to reach the backend, for sessions and for held streams.

use std::time::Duration;

use rand::RngExt;

use crate::config::Limits;

/// How often an attempt is retried. Pushpin does the same.
pub(crate) const RETRIES: u32 = Limits::DEFAULT.backend_retries;

/// The delay before the first retry, without jitter. Pushpin uses the same.
const BASE_DELAY: Duration = Duration::from_secs(1);

/// Returns the delay before a retry, where 0 is the first.
///
/// It is one second, doubled for each further retry, plus up to a second of jitter. The jitter
/// spreads out clients that failed together.
pub(crate) fn delay(retry: u32) -> Duration {
    let jitter = BASE_DELAY.mul_f64(rand::rng().random());
    BASE_DELAY * (1 << retry.min(RETRIES)) + jitter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_and_are_jittered() {
        for (retry, seconds) in [(0, 1), (1, 2), (4, 16)] {
            let least = Duration::from_secs(seconds);
            for _ in 0..100 {
                let delay = delay(retry);
                assert!((least..=least + BASE_DELAY).contains(&delay), "{delay:?}");
            }
        }
        assert_ne!(delay(0), delay(0));
    }
}
