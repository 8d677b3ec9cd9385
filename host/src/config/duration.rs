//! Durations such as `"1m 30s"`.

use std::time::Duration;

use super::limits::Limits;

/// Parses a duration such as `"500ms"` or `"1m 30s"`, from 10 ms to 366 days.
///
/// # Errors
/// Returns a message that includes the text and an example.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text.trim()).map_err(|error| {
        format!(
            "invalid duration {text:?} ({error}): expected a value such as \"500ms\", \"5s\" or \"1m 30s\""
        )
    })?;
    let limits = Limits::DEFAULT;
    if duration < limits.min_duration || duration > limits.max_duration {
        return Err(format!(
            "duration {text:?} is out of range: expected 10ms to 366days"
        ));
    }
    Ok(duration)
}
