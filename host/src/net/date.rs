//! The `Date` header of responses.

use std::{
    cell::RefCell,
    time::{Duration, Instant, SystemTime},
};

use http::HeaderValue;

/// How long a value is used.
const LIFETIME: Duration = Duration::from_millis(500);

thread_local! {
    /// The last value of this thread, and when it was made.
    ///
    /// Its age is measured by the monotonic clock. hyper's own cache is valid until the wall clock has
    /// passed the cached time, so the header stands still after the clock was set back.
    static CACHE: RefCell<Option<(Instant, HeaderValue)>> = const { RefCell::new(None) };
}

/// Returns the current time as the value of a `Date` header (RFC 9110, section 6.6.1).
pub(crate) fn now() -> HeaderValue {
    CACHE.with_borrow_mut(|cache| cached(cache, Instant::now(), SystemTime::now))
}

fn cached(
    cache: &mut Option<(Instant, HeaderValue)>,
    now: Instant,
    clock: impl FnOnce() -> SystemTime,
) -> HeaderValue {
    if let Some((made, value)) = cache
        && now.saturating_duration_since(*made) < LIFETIME
    {
        return value.clone();
    }
    let text = httpdate::fmt_http_date(clock());
    // Dates are ASCII, so this does not fail.
    let value = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""));
    *cache = Some((now, value.clone()));
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_may_be_set_back() {
        let start = Instant::now();
        let mut cache = None;
        let mut at = |age: Duration, unix_seconds: u64| {
            let clock = SystemTime::UNIX_EPOCH + Duration::from_secs(unix_seconds);
            cached(&mut cache, start + age, || clock)
        };
        assert_eq!(at(Duration::ZERO, 1000), "Thu, 01 Jan 1970 00:16:40 GMT");
        assert_eq!(at(LIFETIME / 2, 1001), "Thu, 01 Jan 1970 00:16:40 GMT");
        assert_eq!(at(LIFETIME, 10), "Thu, 01 Jan 1970 00:00:10 GMT");
        assert_eq!(at(LIFETIME * 2, 11), "Thu, 01 Jan 1970 00:00:11 GMT");
    }
}
