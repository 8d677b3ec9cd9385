//! Delays between attempts to reach the backend, for sessions and for held streams.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use crate::config::Limits;

/// How often an attempt is retried. Pushpin does the same.
pub(crate) const RETRIES: u32 = Limits::DEFAULT.backend_retries;

/// The delay before the first retry, without jitter. Pushpin uses the same.
const BASE_DELAY: Duration = Duration::from_secs(1);

/// Returns the delay before a retry, counted from 0.
///
/// It doubles with each retry. Up to one second of jitter, which depends on `seed`, keeps clients
/// that failed at the same time from retrying at the same time.
pub(crate) fn delay(retry: u32, seed: impl Hash) -> Duration {
    let mut hasher = DefaultHasher::new();
    (seed, retry).hash(&mut hasher);
    let jitter = f64::from(hasher.finish() as u32) / f64::from(u32::MAX);
    BASE_DELAY * (1 << retry.min(RETRIES)) + BASE_DELAY.mul_f64(jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_and_have_jitter() {
        for (retry, seconds) in [(0, 1), (1, 2), (4, 16)] {
            let least = Duration::from_secs(seconds);
            for seed in 0..100 {
                let delay = delay(retry, seed);
                assert!((least..=least + BASE_DELAY).contains(&delay), "{delay:?}");
            }
        }
        assert_ne!(delay(0, 1), delay(0, 2));
        assert_eq!(delay(0, 1), delay(0, 1));
    }
}
