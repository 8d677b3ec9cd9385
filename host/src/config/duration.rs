//! Durations such as `"1m 30s"`.

use std::time::Duration;

/// The shortest duration that can be configured, so that a wrong unit does not cause a busy loop.
pub(super) const MIN_DURATION: Duration = Duration::from_millis(10);
/// The longest duration that can be configured, so that deadlines cannot overflow: 366 days.
pub const MAX_DURATION: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Parses a duration such as `"500ms"` or `"1m 30s"`, from 10 ms to [`MAX_DURATION`].
///
/// # Errors
/// Returns a message that includes the text and an example.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text.trim()).map_err(|error| {
        format!(
            "invalid duration {text:?} ({error}): expected a value such as \"500ms\", \"5s\" or \"1m 30s\""
        )
    })?;
    if duration < MIN_DURATION || duration > MAX_DURATION {
        return Err(format!(
            "duration {text:?} is out of range: expected 10ms to 366days"
        ));
    }
    Ok(duration)
}
