//! The options of the command line for instances of components, with Spin's names and values.

use std::time::Duration;

use clap::Args;
use spin_runtime::{InstanceRanges, LimitRange};

use crate::config::{parse_duration, parse_duration_from};

/// The limits of instances.
#[derive(Args)]
pub(super) struct InstanceLimits {
    /// How long a component may take to respond, such as `30s` or `2m`; 10 ms to 366 days. Without
    /// a unit, in seconds. A range `a..b`: each instance picks its own.
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "30s",
        value_parser = parse_timeout
    )]
    request_timeout: Setting<Duration>,
    /// How many requests an instance of a WASI 0.3 component serves [default: 128]. A range `a..b`:
    /// each instance picks its own.
    #[arg(long, value_name = "COUNT", value_parser = parse_count)]
    max_instance_reuse_count: Option<Setting<usize>>,
    /// How many requests an instance of a WASI 0.3 component serves at the same time [default: 16].
    /// A range `a..b`: each instance picks its own.
    #[arg(long, value_name = "COUNT", value_parser = parse_count)]
    max_instance_concurrent_reuse_count: Option<Setting<usize>>,
    /// How long an instance waits for its next request [default: 1s]. Without a unit, in seconds. A
    /// range `a..b`: each instance picks its own.
    #[arg(long, value_name = "DURATION", value_parser = parse_idle_timeout)]
    idle_instance_timeout: Option<Setting<Duration>>,
    /// How many requests of a component wait for an instance. Further ones get a 503 [default:
    /// 2000].
    #[arg(long, value_name = "COUNT")]
    max_waiting_requests: Option<usize>,
    /// The memory of an instance, in bytes [default: 536870912].
    #[arg(long, value_name = "BYTES", env = "SPIN_MAX_INSTANCE_MEMORY")]
    max_instance_memory: Option<usize>,
}

impl InstanceLimits {
    /// Returns the longest time until a response.
    pub(super) fn request_timeout(&self) -> Duration {
        self.request_timeout.highest()
    }

    /// Returns the memory of an instance, if it is set.
    pub(super) fn memory(&self) -> Option<usize> {
        self.max_instance_memory
    }

    /// Returns the limits of components.
    pub(super) fn limits(&self) -> spin_runtime::Limits {
        let default = spin_runtime::Limits::DEFAULT;
        let requests = self.max_instance_reuse_count;
        let concurrent_requests = self.max_instance_concurrent_reuse_count;
        let idle_timeout = self.idle_instance_timeout;
        spin_runtime::Limits {
            request_timeout: self.request_timeout(),
            waiting_requests: self
                .max_waiting_requests
                .unwrap_or(default.waiting_requests),
            requests_per_instance: requests
                .map_or(default.requests_per_instance, |setting| setting.highest()),
            concurrent_requests_per_instance: concurrent_requests
                .map_or(default.concurrent_requests_per_instance, |setting| {
                    setting.highest()
                }),
            idle_instance_timeout: idle_timeout
                .map_or(default.idle_instance_timeout, |setting| setting.highest()),
            instance_ranges: InstanceRanges {
                request_timeout: self.request_timeout.range(),
                requests: requests.and_then(Setting::range),
                concurrent_requests: concurrent_requests.and_then(Setting::range),
                idle_timeout: idle_timeout.and_then(Setting::range),
            },
            ..default
        }
    }
}

/// A value, or a range from which each instance picks one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setting<T> {
    Value(T),
    Range(LimitRange<T>),
}

impl<T: Copy> Setting<T> {
    /// Returns a value that no instance exceeds.
    fn highest(self) -> T {
        match self {
            Self::Value(value) => value,
            Self::Range(range) => range.end(),
        }
    }

    fn range(self) -> Option<LimitRange<T>> {
        match self {
            Self::Value(_) => None,
            Self::Range(range) => Some(range),
        }
    }
}

/// Parses a value or a range `a..b`, which does not include `b`.
fn parse_setting<T: Copy + PartialOrd>(
    text: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Setting<T>, String> {
    let Some((start, end)) = text.split_once("..") else {
        return Ok(Setting::Value(parse(text)?));
    };
    LimitRange::new(parse(start)?, parse(end)?)
        .map(Setting::Range)
        .ok_or_else(|| format!("the range {text:?} is empty: expected a start below its end"))
}

fn parse_count(text: &str) -> Result<Setting<usize>, String> {
    parse_setting(text, |text| match text.parse() {
        Ok(0) | Err(_) => Err(format!(
            "expected a number from 1, or a range such as 1..8, found {text:?}"
        )),
        Ok(count) => Ok(count),
    })
}

fn parse_timeout(text: &str) -> Result<Setting<Duration>, String> {
    parse_setting(text, |text| parse_duration(&with_unit(text)))
}

fn parse_idle_timeout(text: &str) -> Result<Setting<Duration>, String> {
    parse_setting(text, |text| {
        parse_duration_from(Duration::ZERO, &with_unit(text))
    })
}

/// Adds the unit to a number of seconds. Spin also accepts a Greek `μs`.
fn with_unit(text: &str) -> String {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        format!("{text}s")
    } else {
        text.replace(['μ', 'µ'], "u")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn durations_have_spins_notation_or_our_own() {
        for (text, expected) in [
            ("30", 30_000),
            ("30s", 30_000),
            ("1500ms", 1500),
            ("20000us", 20),
            ("20000μs", 20),
            ("20000µs", 20),
            ("1m 30s", 90_000),
        ] {
            assert_eq!(
                parse_timeout(text),
                Ok(Setting::Value(millis(expected))),
                "{text}"
            );
        }
        let range = LimitRange::new(millis(1000), millis(8000)).unwrap();
        assert_eq!(parse_timeout("1..8s"), Ok(Setting::Range(range)));
        assert_eq!(parse_idle_timeout("0"), Ok(Setting::Value(Duration::ZERO)));
        assert_eq!(
            parse_idle_timeout("0..8s").map(Setting::highest),
            Ok(millis(8000))
        );
        for invalid in [
            "", "..", "1..", "8s..1s", "5s..5s", "1ns", "-1", "1x", "400days",
        ] {
            assert!(parse_timeout(invalid).is_err(), "{invalid}");
        }
        assert!(parse_idle_timeout("400days").is_err());
    }

    #[test]
    fn counts_are_numbers_or_ranges() {
        assert_eq!(parse_count("1"), Ok(Setting::Value(1)));
        let range = LimitRange::new(1, 8).unwrap();
        assert_eq!(parse_count("1..8"), Ok(Setting::Range(range)));
        for invalid in ["", "0", "-1", "x", "0..8", "8..1", "1..1", "1..8..9", "1.5"] {
            let error = parse_count(invalid).unwrap_err();
            assert!(error.contains("expected"), "{invalid}: {error}");
        }
    }
}
