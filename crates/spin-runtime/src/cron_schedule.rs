//! Cron expressions, in the notation of Spin's cron trigger.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use chrono::{DateTime, Utc};
use cron::Schedule;

/// The fields of an expression, and what each may contain.
const FIELDS: [(&str, &str); 7] = [
    ("second", "0 to 59"),
    ("minute", "0 to 59"),
    ("hour", "0 to 23"),
    ("day of month", "1 to 31"),
    ("month", "1 to 12 or JAN to DEC"),
    (
        "day of week",
        "1 to 7, which are Sunday to Saturday, or SUN to SAT",
    ),
    ("year", "1970 to 2100"),
];

/// The times that match a cron expression, in UTC.
///
/// Two schedules are equal if their expressions are. Clones are cheap.
#[derive(Clone, Debug)]
pub struct CronSchedule {
    expression: Arc<str>,
    schedule: Arc<Schedule>,
}

impl CronSchedule {
    /// Parses an expression of six or seven fields: second, minute, hour, day of month, month, day
    /// of week, and optionally year. `@yearly`, `@monthly`, `@weekly`, `@daily` and `@hourly` are
    /// expressions too.
    ///
    /// # Errors
    /// Returns a message that includes the expression and what is expected. An expression that
    /// matches no time, past or future, is an error too.
    pub fn parse(expression: &str) -> Result<Self, String> {
        let expression = expression.trim();
        let schedule: Schedule = expression.parse().map_err(|_| {
            format!(
                "invalid cron expression {expression:?}: {}",
                reason(expression)
            )
        })?;
        let schedule = Self {
            expression: expression.into(),
            schedule: schedule.into(),
        };
        if !schedule.has_times() {
            return Err(format!(
                "cron expression {expression:?} matches no time: expected a date that exists"
            ));
        }
        Ok(schedule)
    }

    /// Returns whether any time matches, past or future.
    fn has_times(&self) -> bool {
        // The first year of the notation is 1970.
        let start = DateTime::<Utc>::from_timestamp(-1, 0);
        start.is_some_and(|start| self.schedule.after(&start).next().is_some())
    }

    /// Returns the first time after `time`, if there is one.
    pub fn next_after(&self, time: SystemTime) -> Option<SystemTime> {
        let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(since_epoch.as_secs()).ok()?;
        let time: DateTime<Utc> = DateTime::from_timestamp(seconds, since_epoch.subsec_nanos())?;
        let next = self.schedule.after(&time).next()?;
        let seconds = u64::try_from(next.timestamp()).ok()?;
        UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    }
}

impl fmt::Display for CronSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.expression)
    }
}

impl PartialEq for CronSchedule {
    fn eq(&self, other: &Self) -> bool {
        self.expression == other.expression
    }
}

impl Eq for CronSchedule {}

/// Returns why an expression is invalid, and what is expected.
fn reason(expression: &str) -> String {
    let fields: Vec<_> = expression.split_whitespace().collect();
    if fields.len() == 5 {
        return format!(
            "expected six or seven fields, found five: put one for the seconds in front, such as \
             \"0 {expression}\""
        );
    }
    if !(6..=7).contains(&fields.len()) {
        return "expected six or seven fields, such as \"0 30 4 * * *\" for 4:30 UTC of every day: \
                second, minute, hour, day of month, month, day of week, and optionally year; or \
                @hourly, @daily, @weekly, @monthly, @yearly"
            .to_owned();
    }
    let is_invalid = |index: usize| {
        let mut alone = vec!["*"; fields.len()];
        alone[index] = fields[index];
        alone.join(" ").parse::<Schedule>().is_err()
    };
    match (0..fields.len()).find(|index| is_invalid(*index)) {
        Some(index) => {
            let (name, values) = FIELDS[index];
            format!(
                "expected {values} as the {name}, or `*`, a list `1,2`, a range `1-5` or steps \
                 `*/2`, found {:?}",
                fields[index]
            )
        }
        None => "expected fields that are separated by spaces".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Thursday, 2026-01-01 00:00:00 UTC.
    const NEW_YEAR: u64 = 1_767_225_600;
    const DAY: u64 = 24 * 60 * 60;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn parse(expression: &str) -> Result<CronSchedule, String> {
        CronSchedule::parse(expression)
    }

    /// Returns the first times after the new year, in seconds since then.
    fn times(expression: &str, count: usize) -> Vec<u64> {
        let schedule = parse(expression).unwrap();
        let next = |time: &SystemTime| schedule.next_after(*time);
        std::iter::successors(next(&at(NEW_YEAR)), next)
            .take(count)
            .map(|time| time.duration_since(at(NEW_YEAR)).unwrap().as_secs())
            .collect()
    }

    #[test]
    fn expressions_have_the_notation_of_spins_cron_trigger() {
        for (expression, expected) in [
            ("* * * * * *", [1, 2, 3]),
            ("1/2 * * * * *", [1, 3, 5]),
            ("0/15 * * * * *", [15, 30, 45]),
            ("2,8 * * * * *", [2, 8, 62]),
            ("5-7 * * * * *", [5, 6, 7]),
            ("0 1/2 * * * * *", [60, 180, 300]),
            ("0 0 0 * * 1", [3 * DAY, 10 * DAY, 17 * DAY]),
            ("0 0 0 * * SUN", [3 * DAY, 10 * DAY, 17 * DAY]),
            ("0 0 0 ? * Mon-Tue", [4 * DAY, 5 * DAY, 11 * DAY]),
            // A day must match both fields.
            (
                "0 0 0 1-7 * THU",
                [31 * DAY + 4 * DAY, 59 * DAY + 4 * DAY, 90 * DAY + DAY],
            ),
            ("@daily", [DAY, 2 * DAY, 3 * DAY]),
            ("  @hourly ", [3600, 7200, 10800]),
        ] {
            assert_eq!(times(expression, 3), expected, "{expression}");
        }
        assert_eq!(times("0 0 0 29 2 *", 1), [(365 + 365 + 31 + 28) * DAY]);
        assert_eq!(times("0 0 0 1 2 * 2026", 2), [31 * DAY]);
    }

    #[test]
    fn errors_say_what_is_expected() {
        for (expression, expected) in [
            ("", "six or seven fields"),
            ("often", "six or seven fields"),
            ("@sometimes", "six or seven fields"),
            ("* * * * * * * *", "six or seven fields"),
            ("*/5 * * * *", "such as \"0 */5 * * * *\""),
            ("60 * * * * *", "0 to 59 as the second"),
            ("* * 24 * * *", "0 to 23 as the hour, or `*`"),
            ("* * * 0 * *", "1 to 31 as the day of month"),
            ("* * * * * 0", "1 to 7, which are Sunday to Saturday"),
            ("* * * * MOON *", "found \"MOON\""),
            ("*/0 * * * * *", "found \"*/0\""),
            ("7-3 * * * * *", "found \"7-3\""),
            ("0 0 0 30 2 *", "matches no time"),
            ("0 0 0 29 2 * 2025", "matches no time"),
            ("0 0 0 1 1 MON 2026", "matches no time"),
        ] {
            let error = parse(expression).unwrap_err();
            assert!(error.contains(expected), "{expression}: {error}");
            assert!(error.contains(expression), "{expression}: {error}");
        }
    }

    #[test]
    fn expressions_whose_times_have_passed_are_valid() {
        for expression in ["0 0 0 1 1 * 1970", "0 0 0 1 1 * 2020", "0 0 0 1 1 * 2026"] {
            let schedule = parse(expression).unwrap();
            assert_eq!(schedule.next_after(at(NEW_YEAR)), None, "{expression}");
        }
    }

    #[test]
    fn times_beyond_the_calendar_have_no_next() {
        let schedule = parse("* * * * * *").unwrap();
        assert_eq!(schedule.next_after(at(200 * 366 * DAY)), None);
        assert_eq!(schedule.next_after(at(u64::MAX / 4)), None);
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "[-*/,?0-9A-Za-z@ ]{0,20}") {
            let _ = parse(&text);
        }

        #[test]
        fn fields_never_panic(fields in prop::collection::vec("[-*/,?0-9]{1,4}", 6..8)) {
            let _ = parse(&fields.join(" "));
        }

        #[test]
        fn the_next_time_is_the_first_that_matches(
            now in NEW_YEAR..NEW_YEAR + 400 * DAY,
            nanos in 0u32..1_000_000_000,
            second in 0u64..60,
            minute in 0u64..60,
            hour in 0u64..24,
        ) {
            let schedule = parse(&format!("{second} {minute} {hour} * * *")).unwrap();
            let next = schedule.next_after(at(now) + Duration::from_nanos(nanos.into())).unwrap();
            let next = next.duration_since(UNIX_EPOCH).unwrap();
            prop_assert_eq!(next.subsec_nanos(), 0);
            let next = next.as_secs();
            prop_assert!(next > now && next <= now + DAY);
            prop_assert_eq!(next % DAY, (hour * 60 + minute) * 60 + second);
        }
    }
}
