//! Calls that are repeated.

use std::{
    fmt,
    ops::RangeInclusive,
    time::{Duration, SystemTime},
};

use http::{Method, uri::PathAndQuery};
use spin_runtime::{
    CronSchedule,
    manifest::{
        CronTrigger,
        reader::{Table, Value},
    },
};

use super::duration::parse_duration;

/// `[[application.tool.socket-host.timer]]`, or `[[trigger.cron]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timer {
    /// What is called.
    pub target: TimerTarget,
    /// When it is called.
    pub schedule: TimerSchedule,
}

/// What a timer calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TimerTarget {
    /// The application, with a request.
    Request {
        /// The method of the request.
        method: Method,
        /// The path and query of the request.
        path: String,
    },
    /// A component, by its id, with an event of a cron trigger.
    Component(String),
}

/// When a timer calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TimerSchedule {
    /// At the start, and again after each pause. A range of one value if the pause is fixed.
    Every(RangeInclusive<Duration>),
    /// At the times of a cron expression.
    Cron(CronSchedule),
}

impl TimerTarget {
    /// Returns the name of the target in logs and metrics: the path, or the component's id.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Request { path, .. } => path,
            Self::Component(id) => id,
        }
    }
}

impl fmt::Display for TimerTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request { method, path } => write!(f, "{method} {path}"),
            Self::Component(id) => write!(f, "component {id}"),
        }
    }
}

impl fmt::Display for TimerSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Every(pause) => {
                write!(f, "every {}", humantime::format_duration(*pause.start()))?;
                if pause.start() < pause.end() {
                    write!(f, " to {}", humantime::format_duration(*pause.end()))?;
                }
                Ok(())
            }
            Self::Cron(schedule) => write!(f, "at {schedule} (cron)"),
        }
    }
}

impl From<&CronTrigger> for Timer {
    fn from(trigger: &CronTrigger) -> Self {
        Self {
            target: TimerTarget::Component(trigger.component.clone()),
            schedule: TimerSchedule::Cron(trigger.schedule.clone()),
        }
    }
}

impl Timer {
    /// Reads an entry.
    pub(super) fn read(value: &Value<'_>) -> Option<Self> {
        let mut table = value.table()?;
        let request = table.require(
            "request",
            "the request to send, such as \"POST /internal/orders\"",
        );
        let schedule = TimerSchedule::read(value, &mut table);
        table.finish();
        let request = request.and_then(|value| {
            let parsed = parse_request(value.string()?);
            parsed.map_err(|reason| value.error(reason)).ok()
        });
        let (method, path) = request?;
        Some(Self {
            target: TimerTarget::Request { method, path },
            schedule: schedule?,
        })
    }
}

impl TimerSchedule {
    /// Reads `every` or `cron`.
    fn read<'a>(timer: &Value<'a>, table: &mut Table<'a>) -> Option<Self> {
        match (table.get("every"), table.get("cron")) {
            (Some(every), None) => {
                let pause = parse_pause(every.string()?);
                let pause = pause.map_err(|reason| every.error(reason)).ok()?;
                Some(Self::Every(pause))
            }
            (None, Some(cron)) => {
                let schedule = CronSchedule::parse(cron.string()?);
                let schedule = schedule.map_err(|reason| cron.error(reason)).ok()?;
                if schedule.next_after(SystemTime::now()).is_none() {
                    cron.warn(
                        "this cron expression has no times in the future, so the request is never \
                         sent",
                    );
                }
                Some(Self::Cron(schedule))
            }
            (Some(_), Some(cron)) => {
                cron.error("a timer has either `every` or `cron`, not both");
                None
            }
            (None, None) => {
                timer.error(
                    "`every` or `cron` is missing: the pause between requests, such as \"5s\" or \
                     \"2s..6s\", or their times, such as \"0 30 4 * * *\" for 4:30 UTC of every day",
                );
                None
            }
        }
    }
}

/// Parses a method and a path.
fn parse_request(text: &str) -> Result<(Method, String), String> {
    const METHODS: [Method; 7] = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
    ];
    let expected = "expected a method and a path, such as \"POST /internal/orders\"";
    let (method, path) = text
        .trim()
        .split_once(char::is_whitespace)
        .ok_or_else(|| format!("{expected}, found {text:?}"))?;
    let path = path.trim_start();
    let method = METHODS
        .into_iter()
        .find(|known| known.as_str() == method)
        .ok_or_else(|| {
            format!("{expected}: unknown method {method:?} (use GET, POST, … in upper case)")
        })?;
    if !path.starts_with('/') {
        return Err(format!(
            "{expected}: the path must start with `/`, unlike {path:?}"
        ));
    }
    if path.contains('#') || path.parse::<PathAndQuery>().is_err() {
        return Err(format!(
            "{expected}: {path:?} contains characters that must be percent-encoded"
        ));
    }
    Ok((method, path.to_owned()))
}

/// Parses a pause, such as `"5s"`, or a range of pauses, such as `"2s..6s"`.
fn parse_pause(text: &str) -> Result<RangeInclusive<Duration>, String> {
    let (min, max) = match text.split_once("..") {
        Some((min, max)) => (parse_duration(min)?, parse_duration(max)?),
        None => {
            let pause = parse_duration(text)?;
            (pause, pause)
        }
    };
    if min > max {
        return Err(format!("the range {text:?} ends before it starts"));
    }
    Ok(min..=max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pauses_are_durations_or_ranges() {
        let second = Duration::from_secs;
        let millis = Duration::from_millis;
        assert_eq!(parse_pause("5s"), Ok(second(5)..=second(5)));
        assert_eq!(parse_pause("2s..6s"), Ok(second(2)..=second(6)));
        assert_eq!(parse_pause("2s .. 1m 30s"), Ok(second(2)..=second(90)));
        assert_eq!(parse_pause("10ms"), Ok(millis(10)..=millis(10)));
        for invalid in [
            "",
            "..",
            "5",
            "6s..2s",
            "1ms",
            "0s",
            "2s..",
            "2s...6s",
            "9999y",
            "-1s",
            "2s..6s..8s",
        ] {
            assert!(parse_pause(invalid).is_err(), "{invalid}");
        }
    }

    #[test]
    fn requests_are_a_method_and_a_path() {
        assert_eq!(
            parse_request("POST /internal/orders"),
            Ok((Method::POST, "/internal/orders".to_owned()))
        );
        assert_eq!(
            parse_request(" GET  /a?b=c "),
            Ok((Method::GET, "/a?b=c".to_owned()))
        );
        for invalid in [
            "",
            "POST",
            "/x",
            "post /x",
            "CONNECT /x",
            "POST x",
            "POST http://x/",
            "GET /a b",
            "GET /a#b",
        ] {
            assert!(parse_request(invalid).is_err(), "{invalid}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in ".{0,40}") {
            let _ = (parse_pause(&text), parse_request(&text));
        }

        #[test]
        fn formatted_ranges_are_parsed(min in 10u64..100_000, more in 0u64..100_000) {
            let (min, max) = (Duration::from_millis(min), Duration::from_millis(min + more));
            let text = format!("{}..{}", humantime::format_duration(min), humantime::format_duration(max));
            prop_assert_eq!(parse_pause(&text), Ok(min..=max));
        }
    }
}
