//! Parses `Range` (RFC 9110, section 14).

use std::ops::Range;

use http::{HeaderMap, header};

/// The part of a content that a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RequestedRange {
    /// All of it: there is no valid `Range`, or one with several parts, which a server may ignore.
    Whole,
    /// These bytes: 206.
    Part(Range<usize>),
    /// Bytes after the end: 416.
    Unsatisfiable,
}

impl RequestedRange {
    /// Returns the part that a request asks for, of a content of this length.
    pub(super) fn of(request: &HeaderMap, length: usize) -> Self {
        let mut values = request.get_all(header::RANGE).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Self::Whole;
        };
        let value = value.to_str().ok().and_then(|value| {
            let (unit, ranges) = value.split_once('=')?;
            unit.trim().eq_ignore_ascii_case("bytes").then_some(ranges)
        });
        let mut ranges = value
            .iter()
            .flat_map(|ranges| ranges.split(','))
            .map(str::trim)
            .filter(|range| !range.is_empty());
        let (Some(range), None) = (ranges.next(), ranges.next()) else {
            return Self::Whole;
        };
        parse(range, length).unwrap_or(Self::Whole)
    }
}

/// Parses a range such as `0-9`, `10-` or `-10`. Returns `None` if it is invalid.
fn parse(range: &str, length: usize) -> Option<RequestedRange> {
    let (first, last) = range.split_once('-')?;
    let part = if first.is_empty() {
        let suffix = position(last)?;
        length.saturating_sub(suffix)..length
    } else {
        let first = position(first)?;
        let last = if last.is_empty() {
            usize::MAX
        } else {
            position(last)?
        };
        if last < first {
            return None;
        }
        first..last.saturating_add(1).min(length)
    };
    Some(if part.start < part.end {
        RequestedRange::Part(part)
    } else {
        RequestedRange::Unsatisfiable
    })
}

/// Parses a position. One that overflows is after any end.
fn position(digits: &str) -> Option<usize> {
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::{
        RequestedRange::{Part, Unsatisfiable, Whole},
        *,
    };

    fn range(value: &str, length: usize) -> RequestedRange {
        let mut headers = HeaderMap::new();
        let value = HeaderValue::from_str(value).expect("a valid value");
        headers.insert(header::RANGE, value);
        RequestedRange::of(&headers, length)
    }

    #[test]
    fn one_range_is_a_part() {
        for (value, expected) in [
            ("bytes=0-0", Part(0..1)),
            ("bytes=2-5", Part(2..6)),
            ("bytes=2-", Part(2..10)),
            ("bytes=-3", Part(7..10)),
            ("bytes=-99", Part(0..10)),
            ("bytes=5-99999999999999999999", Part(5..10)),
            ("Bytes = 1-2", Part(1..3)),
            ("bytes=,1-2,", Part(1..3)),
            ("bytes=10-", Unsatisfiable),
            ("bytes=10-20", Unsatisfiable),
            ("bytes=-0", Unsatisfiable),
            ("bytes=99999999999999999999-", Unsatisfiable),
        ] {
            assert_eq!(range(value, 10), expected, "{value}");
        }
        assert_eq!(range("bytes=0-", 0), Unsatisfiable);
        assert_eq!(range("bytes=-1", 0), Unsatisfiable);
    }

    #[test]
    fn other_ranges_are_ignored() {
        for value in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=5-2",
            "bytes=a-b",
            "bytes=+1-2",
            "bytes=0-1,3-4",
            "lines=0-1",
            "0-1",
            "bytes=1--2",
            "bytes=1-2-3",
        ] {
            assert_eq!(range(value, 10), Whole, "{value}");
        }
        let mut twice = HeaderMap::new();
        for value in ["bytes=0-1", "bytes=2-3"] {
            twice.append(header::RANGE, HeaderValue::from_static(value));
        }
        assert_eq!(RequestedRange::of(&twice, 10), Whole);
        assert_eq!(RequestedRange::of(&HeaderMap::new(), 10), Whole);
    }

    proptest! {
        #[test]
        fn parts_are_within_the_content(value in "(bytes)?=?[0-9]{0,3}-?[0-9]{0,3}", length in 0usize..200) {
            if let Part(part) = range(&value, length) {
                prop_assert!(part.start < part.end && part.end <= length);
            }
        }
    }
}
