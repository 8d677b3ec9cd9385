//! The trace that a request belongs to, as it is passed between processes (W3C Trace Context).
//!
//! A client's `traceparent` and `tracestate` go on to the backend if they are valid. Those that are
//! not are removed, as the specification demands: <https://www.w3.org/TR/trace-context/>.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

/// The header with the ids of the trace and of the calling span.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The header with data of tracing systems.
pub(crate) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The length of a `traceparent` of version 00. Later versions may append fields.
const TRACEPARENT_BYTES: usize = 55;

/// The flag of traces that are recorded.
const SAMPLED: u8 = 1;

/// The most entries of a `tracestate`.
const MAX_STATE_ENTRIES: usize = 32;

/// The longest key and the longest value of an entry of a `tracestate`.
const MAX_STATE_BYTES: usize = 256;

/// The ids of a trace and of a span in it.
///
/// The request of a client has it as an extension if the host records spans. It is then the parent
/// of what the request causes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SpanContext {
    pub(crate) trace_id: u128,
    pub(crate) span_id: u64,
    /// Whether the span is recorded.
    pub(crate) is_sampled: bool,
}

impl SpanContext {
    /// Reads the headers of a request from outside, and removes what is not valid.
    pub(crate) fn accept(headers: &mut HeaderMap) -> Option<Self> {
        if !headers.contains_key(TRACEPARENT) {
            headers.remove(TRACESTATE);
            return None;
        }
        let mut parents = headers.get_all(TRACEPARENT).iter();
        let parent = match (parents.next(), parents.next()) {
            (Some(parent), None) => Self::parse(parent.as_bytes()),
            _ => None,
        };
        if parent.is_none() {
            headers.remove(TRACEPARENT);
        }
        if parent.is_none() || !is_state(headers) {
            headers.remove(TRACESTATE);
        }
        parent
    }

    /// Returns the context that the headers of a request name, which were accepted before.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        Self::parse(headers.get(TRACEPARENT)?.as_bytes())
    }

    /// Parses the value of a `traceparent`.
    fn parse(value: &[u8]) -> Option<Self> {
        let (fields, rest) = value.split_at_checked(TRACEPARENT_BYTES)?;
        let is_complete = match &fields[..2] {
            b"00" => rest.is_empty(),
            b"ff" => false,
            _ => rest.is_empty() || rest[0] == b'-',
        };
        let has_dashes = [2, 35, 52].iter().all(|&index| fields[index] == b'-');
        if !is_complete || !has_dashes {
            return None;
        }
        hex(&fields[..2])?;
        let trace_id = hex(&fields[3..35])?;
        let span_id = hex(&fields[36..52])? as u64;
        let flags = hex(&fields[53..])? as u8;
        (trace_id != 0 && span_id != 0).then_some(Self {
            trace_id,
            span_id,
            is_sampled: flags & SAMPLED != 0,
        })
    }

    /// Makes this span the parent of a request.
    pub(crate) fn set(&self, headers: &mut HeaderMap) {
        // Never fails: it consists of digits and dashes.
        if let Ok(value) = HeaderValue::try_from(self.to_string()) {
            headers.insert(TRACEPARENT, value);
        }
    }
}

impl fmt::Display for SpanContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.is_sampled) * SAMPLED;
        write!(
            f,
            "00-{:032x}-{:016x}-{flags:02x}",
            self.trace_id, self.span_id
        )
    }
}

/// Parses lower-case hexadecimal digits, at most 32 of them.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

/// Returns whether all `tracestate` headers together are valid.
fn is_state(headers: &HeaderMap) -> bool {
    let values = headers.get_all(TRACESTATE).iter();
    let mut entries = 0;
    values
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|entry| !entry.is_empty())
        .all(|entry| {
            entries += 1;
            entries <= MAX_STATE_ENTRIES && is_state_entry(entry)
        })
}

fn is_state_entry(entry: &[u8]) -> bool {
    let Some(equals) = entry.iter().position(|&byte| byte == b'=') else {
        return false;
    };
    let (key, value) = (&entry[..equals], &entry[equals + 1..]);
    let is_key_byte =
        |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/@".contains(byte);
    let is_value_byte = |byte: &u8| matches!(byte, b' '..=b'~') && *byte != b'=';
    let starts_well = key
        .first()
        .is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    starts_well
        && key.len() <= MAX_STATE_BYTES
        && key.iter().all(is_key_byte)
        && key.iter().filter(|&&byte| byte == b'@').count() <= 1
        && (1..=MAX_STATE_BYTES).contains(&value.len())
        && value.iter().all(is_value_byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    /// Returns whether a `traceparent` is passed on.
    fn is_passed_on(value: &str) -> bool {
        let mut headers = headers(&[(TRACEPARENT, value), (TRACESTATE, "a=1")]);
        let context = SpanContext::accept(&mut headers);
        assert_eq!(context.is_some(), headers.contains_key(TRACEPARENT));
        assert_eq!(context.is_some(), headers.contains_key(TRACESTATE));
        context.is_some()
    }

    #[test]
    fn valid_contexts_are_passed_on_unchanged() {
        let mut headers = headers(&[(TRACEPARENT, VALID), (TRACESTATE, "a=1,b@c=2")]);
        let before = headers.clone();
        let context = SpanContext::accept(&mut headers).unwrap();
        assert_eq!(headers, before);
        assert_eq!(context.to_string(), VALID);
        assert!(context.is_sampled);
        assert_eq!(SpanContext::of(&headers), Some(context));
        for valid in [
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
            // Unknown flags are ignored.
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff",
            // A later version.
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-follows",
        ] {
            assert!(is_passed_on(valid), "{valid}");
        }
    }

    #[test]
    fn invalid_contexts_are_removed() {
        for invalid in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "0g-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.more",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-B7AD6B7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c+b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0x",
        ] {
            assert!(!is_passed_on(invalid), "{invalid}");
        }
        // Several ones, and a state without a parent.
        for mut headers in [
            headers(&[(TRACEPARENT, VALID), (TRACEPARENT, VALID)]),
            headers(&[(TRACESTATE, "a=1")]),
        ] {
            assert_eq!(SpanContext::accept(&mut headers), None);
            assert!(headers.is_empty(), "{headers:?}");
        }
    }

    #[test]
    fn an_invalid_state_does_not_invalidate_the_parent() {
        let many = (0..33).map(|n| format!("k{n}=v")).collect::<Vec<_>>();
        let long = format!("k={}", "v".repeat(257));
        for (state, is_valid) in [
            ("", true),
            ("a=1", true),
            ("a=1 , ,b=2", true),
            ("0tenant@system=1", true),
            (&many[..32].join(","), true),
            (&many.join(","), false),
            (&long, false),
            ("a", false),
            ("=1", false),
            ("a=", false),
            ("A=1", false),
            ("a=1=2", false),
            ("a@b@c=1", false),
            ("-a=1", false),
        ] {
            let mut headers = headers(&[(TRACEPARENT, VALID), (TRACESTATE, state)]);
            assert!(SpanContext::accept(&mut headers).is_some());
            assert_eq!(headers.contains_key(TRACESTATE), is_valid, "{state}");
        }
    }
}
