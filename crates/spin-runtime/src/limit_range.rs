//! Ranges from which the instances of a component pick limits of their own.

use std::time::Duration;

use rand::{Rng, RngExt as _, distr::uniform::SampleUniform};

#[cfg(doc)]
use crate::limits::Limits;

/// Ranges from which each instance picks limits at random, for tests of how components are reused.
///
/// A limit of the same kind in [`Limits`] must be at least as high as the range: it bounds what all
/// instances have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InstanceRanges {
    /// For [`Limits::request_timeout`].
    pub request_timeout: Option<LimitRange<Duration>>,
    /// For [`Limits::requests_per_instance`].
    pub requests: Option<LimitRange<usize>>,
    /// For [`Limits::concurrent_requests_per_instance`].
    pub concurrent_requests: Option<LimitRange<usize>>,
    /// For [`Limits::idle_instance_timeout`].
    pub idle_timeout: Option<LimitRange<Duration>>,
}

/// The values from a start up to, and excluding, an end. Never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitRange<T> {
    start: T,
    end: T,
}

impl<T: Copy> LimitRange<T> {
    /// Creates a range. Returns `None` if it contains no value.
    pub fn new(start: T, end: T) -> Option<Self>
    where
        T: PartialOrd,
    {
        (start < end).then_some(Self { start, end })
    }

    /// Returns the first value of the range.
    pub fn start(&self) -> T {
        self.start
    }

    /// Returns the first value after the range.
    pub fn end(&self) -> T {
        self.end
    }

    /// Returns a random value of the range.
    pub(crate) fn pick(&self, rng: &mut impl Rng) -> T
    where
        T: PartialOrd + SampleUniform,
    {
        rng.random_range(self.start..self.end)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::limits::Limits;

    #[test]
    fn instances_pick_limits_from_the_ranges() {
        let mut limits = Limits::DEFAULT;
        let mut rng = rand::rng();
        assert_eq!(limits.pick(&mut rng), Limits::DEFAULT);
        let second = Duration::from_secs;
        limits.instance_ranges = InstanceRanges {
            request_timeout: LimitRange::new(second(2), second(4)),
            requests: LimitRange::new(1, 4),
            concurrent_requests: LimitRange::new(7, 8),
            idle_timeout: None,
        };
        let picked: Vec<_> = (0..1000).map(|_| limits.pick(&mut rng)).collect();
        let requests: BTreeSet<_> = picked.iter().map(|one| one.requests_per_instance).collect();
        assert_eq!(requests, BTreeSet::from([1, 2, 3]));
        for limits in &picked {
            assert!((second(2)..second(4)).contains(&limits.request_timeout));
            assert_eq!(limits.concurrent_requests_per_instance, 7);
            assert_eq!(limits.idle_instance_timeout, second(1));
        }
    }

    #[test]
    fn empty_ranges_do_not_exist() {
        assert_eq!(LimitRange::new(3, 3), None);
        assert_eq!(LimitRange::new(4, 3), None);
    }
}
