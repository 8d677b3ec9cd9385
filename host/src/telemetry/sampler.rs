//! Decides which traces are recorded.

use crate::telemetry::trace_context::SpanContext;

/// Decides for each new span whether it is recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sampler {
    /// Follow the decision of the caller, if there is one.
    pub(crate) follows_parent: bool,
    /// The part of the other traces that is recorded, from 0 to 1.
    pub(crate) ratio: f64,
}

impl Sampler {
    /// Returns whether a span is recorded.
    pub(crate) fn samples(&self, parent: Option<SpanContext>, trace_id: u128) -> bool {
        match parent {
            Some(parent) if self.follows_parent => parent.is_sampled,
            // The same traces in all processes: the decision depends on the id alone.
            _ => self.ratio >= 1.0 || ((trace_id as u64) >> 1) < self.threshold(),
        }
    }

    /// Returns the part of the 63 bits of an id below which a trace is recorded.
    fn threshold(&self) -> u64 {
        (self.ratio * (1u64 << 63) as f64) as u64
    }
}

impl Default for Sampler {
    /// Records what the caller records, and all other traces.
    fn default() -> Self {
        Self {
            follows_parent: true,
            ratio: 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(is_sampled: bool) -> Option<SpanContext> {
        Some(SpanContext {
            trace_id: 1,
            span_id: 1,
            is_sampled,
        })
    }

    #[test]
    fn the_caller_decides_if_it_is_followed() {
        for (follows_parent, ratio, expected) in [
            (true, 1.0, [false, true, true]),
            (true, 0.0, [false, true, false]),
            (false, 1.0, [true, true, true]),
            (false, 0.0, [false, false, false]),
        ] {
            let sampler = Sampler {
                follows_parent,
                ratio,
            };
            let parents = [parent(false), parent(true), None];
            let samples = parents.map(|parent| sampler.samples(parent, u128::MAX >> 1));
            assert_eq!(samples, expected, "{sampler:?}");
        }
    }

    #[test]
    fn a_ratio_selects_that_part_of_the_traces() {
        let sampler = Sampler {
            follows_parent: true,
            ratio: 0.25,
        };
        let ids = (0..1000u64).map(|n| u128::from(n * (u64::MAX / 1000)));
        let sampled = ids.filter(|id| sampler.samples(None, *id)).count();
        assert!((249..=251).contains(&sampled), "{sampled}");
    }
}
