//! Evaluates conditional requests (RFC 9110, section 13) for stored responses.

use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// What identifies the content of a stored response.
#[derive(Debug)]
pub(super) struct Validators {
    etag: Option<HeaderValue>,
    last_modified: Option<SystemTime>,
    /// The time of the response.
    date: SystemTime,
}

impl Validators {
    /// Returns the validators in the headers of a response that was received at `now`.
    pub(super) fn new(headers: &HeaderMap, now: SystemTime) -> Self {
        Self {
            etag: headers.get(header::ETAG).cloned(),
            last_modified: date(headers, &header::LAST_MODIFIED),
            date: date(headers, &header::DATE).unwrap_or(now),
        }
    }

    /// Returns whether the client of a request has the content, so that the response is 304.
    pub(super) fn is_not_modified(&self, request: &HeaderMap) -> bool {
        if request.contains_key(header::IF_NONE_MATCH) {
            let tags = request.get_all(header::IF_NONE_MATCH).iter();
            return tags.map(HeaderValue::as_bytes).any(|tags| {
                tags.trim_ascii() == b"*"
                    || self.etag.as_ref().is_some_and(|etag| {
                        let etag = opaque_tag(etag.as_bytes());
                        Tags(tags).any(|tag| opaque_tag(tag) == etag)
                    })
            });
        }
        let since = date(request, &header::IF_MODIFIED_SINCE);
        since.is_some_and(|since| self.last_modified.unwrap_or(self.date) <= since)
    }

    /// Returns whether the range of a request applies: unless its `If-Range` is about other content.
    pub(super) fn permit_range(&self, request: &HeaderMap) -> bool {
        let Some(condition) = request.get(header::IF_RANGE) else {
            return true;
        };
        if condition.as_bytes().contains(&b'"') {
            // The strong comparison: neither may be weak.
            return self.etag.as_ref() == Some(condition) && condition.as_bytes()[0] == b'"';
        }
        let condition = date(request, &header::IF_RANGE);
        // A date identifies the content if it could not change once more in the same second.
        self.last_modified.is_some_and(|modified| {
            condition == Some(modified)
                && self
                    .date
                    .duration_since(modified)
                    .is_ok_and(|age| age.as_secs() >= 1)
        })
    }
}

/// Returns the date in a header.
pub(super) fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let value = headers.get(name)?.to_str().ok()?;
    httpdate::parse_http_date(value).ok()
}

/// Returns a tag without the mark of weak ones, for the weak comparison.
fn opaque_tag(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// The rest of a list of entity tags. They may contain commas.
struct Tags<'a>(&'a [u8]);

impl<'a> Iterator for Tags<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let is_separator = |byte: &u8| matches!(byte, b',' | b' ' | b'\t');
        let start = self.0.iter().position(|byte| !is_separator(byte))?;
        let list = &self.0[start..];
        let quote = if list.starts_with(b"W/") { 2 } else { 0 };
        let content = list.get(quote..)?.strip_prefix(b"\"")?;
        let length = content.iter().position(|byte| *byte == b'"')?;
        let (tag, rest) = list.split_at(quote + length + 2);
        self.0 = rest;
        Some(tag)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";
    const EARLIER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn validators(fields: &[(&'static str, &'static str)]) -> Validators {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        Validators::new(&headers(fields), now)
    }

    #[test]
    fn tags_are_compared_weakly() {
        let strong = validators(&[("etag", "\"a,b\"")]);
        let weak = validators(&[("etag", "W/\"a,b\"")]);
        for tags in [
            "\"a,b\"",
            "W/\"a,b\"",
            "\"x\", \"a,b\"",
            "W/\"x\" ,, W/\"a,b\"",
            " * ",
        ] {
            let request = headers(&[("if-none-match", tags)]);
            assert!(strong.is_not_modified(&request), "{tags}");
            assert!(weak.is_not_modified(&request), "{tags}");
        }
        for tags in ["", "a,b", "\"a\"", "\"a,b", "w/\"a,b\"", "\"x\"\"a\"", "W/"] {
            let request = headers(&[("if-none-match", tags)]);
            assert!(!strong.is_not_modified(&request), "{tags}");
        }
        let lines = headers(&[("if-none-match", "\"x\""), ("if-none-match", "\"a,b\"")]);
        assert!(strong.is_not_modified(&lines));
        let without_tag = validators(&[]);
        assert!(!without_tag.is_not_modified(&headers(&[("if-none-match", "\"a\"")])));
        assert!(without_tag.is_not_modified(&headers(&[("if-none-match", "*")])));
    }

    #[test]
    fn dates_are_compared() {
        let response = validators(&[("last-modified", MODIFIED), ("etag", "\"a\"")]);
        let since = |date| headers(&[("if-modified-since", date)]);
        assert!(response.is_not_modified(&since(MODIFIED)));
        assert!(response.is_not_modified(&since(LATER)));
        assert!(!response.is_not_modified(&since(EARLIER)));
        assert!(!response.is_not_modified(&since("yesterday")));
        // Tags take precedence.
        let both = headers(&[("if-modified-since", LATER), ("if-none-match", "\"b\"")]);
        assert!(!response.is_not_modified(&both));
        // Without `Last-Modified`, the time of the response counts.
        let dated = validators(&[("date", MODIFIED)]);
        assert!(dated.is_not_modified(&since(MODIFIED)));
        assert!(!dated.is_not_modified(&since(EARLIER)));
    }

    #[test]
    fn ranges_need_a_strong_validator() {
        let permits = |fields: &[_], condition| {
            validators(fields).permit_range(&headers(&[("if-range", condition)]))
        };
        assert!(validators(&[]).permit_range(&HeaderMap::new()));
        assert!(permits(&[("etag", "\"a\"")], "\"a\""));
        assert!(!permits(&[("etag", "\"a\"")], "\"b\""));
        assert!(!permits(&[("etag", "W/\"a\"")], "W/\"a\""));
        assert!(!permits(&[("etag", "\"a\"")], "W/\"a\""));
        assert!(!permits(&[], "\"a\""));
        let modified = ("last-modified", MODIFIED);
        assert!(permits(&[modified, ("date", LATER)], MODIFIED));
        assert!(!permits(&[modified, ("date", LATER)], LATER));
        assert!(!permits(&[modified, ("date", MODIFIED)], MODIFIED));
        assert!(!permits(&[modified, ("date", LATER)], ""));
        assert!(!permits(&[], MODIFIED));
    }
}
