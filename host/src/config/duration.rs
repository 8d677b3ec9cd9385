//! Durations such as `"1m 30s"`.

use std::time::Duration;

use super::limits::Limits;

/// Parses a duration such as `"500ms"` or `"1m 30s"`, from 10 ms to 366 days.
///
/// # Errors
/// Returns a message that includes the text and an example.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    parse_duration_from(Limits::DEFAULT.min_duration, text)
}

/// Parses a duration as [`parse_duration`] does, from `min` to 366 days.
///
/// # Errors
/// Those of [`parse_duration`].
pub fn parse_duration_from(min: Duration, text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text.trim()).map_err(|error| {
        format!(
            "invalid duration {text:?} ({error}): expected a value such as \"500ms\", \"5s\" or \"1m 30s\""
        )
    })?;
    if duration < min || duration > Limits::DEFAULT.max_duration {
        let min = humantime::format_duration(min);
        return Err(format!(
            "duration {text:?} is out of range: expected {min} to 366days"
        ));
    }
    Ok(duration)
}
