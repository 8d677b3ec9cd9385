//! Parses `Cache-Control` (RFC 9111, section 5.2), and the freshness that it declares.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};

/// The longest freshness lifetime, as RFC 9111 (section 1.2.2) advises.
const MAX_LIFETIME_SECONDS: u64 = 1 << 31;

/// Returns how long a response is fresh, if its `Cache-Control` permits a shared cache to store it
/// and declares that its content never changes.
///
/// It must contain `public`, `immutable`, and a `max-age` or an `s-maxage` of more than 0, which must
/// not contradict each other.
pub(super) fn lifetime(headers: &HeaderMap) -> Option<Duration> {
    let (mut is_public, mut is_immutable) = (false, false);
    let (mut max_age, mut shared_max_age) = (None, None);
    for value in headers.get_all(header::CACHE_CONTROL) {
        for directive in Directives(value.to_str().ok()?) {
            let (name, argument) = directive?;
            let is = |known: &str| name.eq_ignore_ascii_case(known);
            if is("public") {
                is_public = true;
            } else if is("immutable") {
                is_immutable = true;
            } else if is("private") || is("no-store") || is("no-cache") {
                return None;
            } else if is("max-age") {
                set_once(&mut max_age, seconds(argument?)?)?;
            } else if is("s-maxage") {
                set_once(&mut shared_max_age, seconds(argument?)?)?;
            }
        }
    }
    let lifetime = shared_max_age.or(max_age)?;
    (is_public && is_immutable && lifetime > 0).then(|| Duration::from_secs(lifetime))
}

/// Returns the value of `Age`. `None` if it is invalid.
pub(super) fn age(headers: &HeaderMap) -> Option<Duration> {
    let Some(value) = headers.get(header::AGE).map(HeaderValue::to_str) else {
        return Some(Duration::ZERO);
    };
    // Of several values, RFC 9111 (section 5.1) uses the first.
    let first = value.ok()?.split(',').next()?;
    seconds(first.trim()).map(Duration::from_secs)
}

/// Sets a value. Returns `None` if it has another one, which makes the freshness invalid.
fn set_once(slot: &mut Option<u64>, value: u64) -> Option<()> {
    (*slot.get_or_insert(value) == value).then_some(())
}

/// Parses a number of seconds.
fn seconds(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // A number that overflows is a long time.
    let number = is_number.then(|| text.parse().unwrap_or(MAX_LIFETIME_SECONDS))?;
    Some(number.min(MAX_LIFETIME_SECONDS))
}

/// The rest of a list of directives. Yields `None` at one that is malformed.
struct Directives<'a>(&'a str);

impl<'a> Iterator for Directives<'a> {
    /// The name and the argument, which is not unescaped.
    type Item = Option<(&'a str, Option<&'a str>)>;

    fn next(&mut self) -> Option<Self::Item> {
        let list = self.0.trim_start_matches([' ', '\t', ',']);
        if list.is_empty() {
            return None;
        }
        let end = list.find([',', '=', '"']).unwrap_or(list.len());
        let (name, rest) = list.split_at(end);
        let (argument, rest) = match rest.strip_prefix('=') {
            Some(rest) if rest.starts_with('"') => {
                let Some(length) = quoted_length(rest) else {
                    self.0 = "";
                    return Some(None);
                };
                (Some(&rest[1..length - 1]), &rest[length..])
            }
            Some(rest) => {
                let end = rest.find(',').unwrap_or(rest.len());
                (Some(rest[..end].trim()), &rest[end..])
            }
            None => (None, rest),
        };
        let rest = rest.trim_start();
        let is_complete = rest.is_empty() || rest.starts_with(',');
        self.0 = if is_complete { rest } else { "" };
        Some(is_complete.then_some((name.trim(), argument)))
    }
}

/// Returns the length of the quoted string at the start of a text, with its quotes.
fn quoted_length(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    for (index, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return Some(index + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lifetime_of(values: &[&str]) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for value in values {
            let value = HeaderValue::from_str(value).expect("a valid value");
            headers.append(header::CACHE_CONTROL, value);
        }
        lifetime(&headers).map(|lifetime| lifetime.as_secs())
    }

    #[test]
    fn immutable_public_responses_are_fresh() {
        for (values, seconds) in [
            (&["public, max-age=31536000, immutable"][..], 31_536_000),
            (&["Public,Immutable,,Max-Age=1"], 1),
            (&["public", "immutable", "max-age=5"], 5),
            (&["public, immutable, max-age=\"7\""], 7),
            (&["public, immutable, max-age=5, s-maxage=3"], 3),
            (&["public, immutable, s-maxage=3"], 3),
            (&["public, immutable, max-age=5, max-age=5"], 5),
            (&["public, immutable, max-age=0, s-maxage=9"], 9),
            (
                &["public, immutable, max-age=99999999999999999999"],
                1 << 31,
            ),
            (
                &["public, immutable, max-age=2, x=\"no-store, private\""],
                2,
            ),
            (&["public, immutable, max-age=2, x=\"a\\\", private\""], 2),
        ] {
            assert_eq!(lifetime_of(values), Some(seconds), "{values:?}");
        }
    }

    #[test]
    fn everything_else_is_not_stored() {
        for values in [
            &[][..],
            &["max-age=31536000, immutable"],
            &["public, max-age=31536000"],
            &["public, immutable"],
            &["public, immutable, max-age=0"],
            &["public, immutable, max-age=5, s-maxage=0"],
            &["public, immutable, max-age=5, max-age=6"],
            &["public, immutable, max-age=5", "private"],
            &["public, immutable, max-age=5, no-store"],
            &["public, immutable, max-age=5, No-Cache"],
            &["public, immutable, max-age=5, private=\"x-a, x-b\""],
            &["public, immutable, max-age=5, no-cache=\"set-cookie\""],
            &["public, immutable, max-age=-1"],
            &["public, immutable, max-age=1.5"],
            &["public, immutable, max-age="],
            &["public, immutable, max-age"],
            &["public, immutable, max-age=5, x=\"open"],
            &["public, immutable, max-age=5, x=\"a\"b"],
            &["public\", immutable, max-age=5"],
            &["public immutable max-age=5"],
        ] {
            assert_eq!(lifetime_of(values), None, "{values:?}");
        }
    }

    #[test]
    fn an_invalid_age_is_detected() {
        let age = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AGE, HeaderValue::from_str(value).expect("valid"));
            age(&headers).map(|age| age.as_secs())
        };
        assert_eq!(age("5"), Some(5));
        assert_eq!(age("5, 6"), Some(5));
        assert_eq!(age("-5"), None);
        assert_eq!(age(""), None);
        assert_eq!(super::age(&HeaderMap::new()), Some(Duration::ZERO));
    }

    proptest! {
        #[test]
        fn any_list_is_parsed(list in "(public|immutable|private|max-age=5|x=\"|\"|,|=| |\\\\|no-store){0,12}") {
            let parsed: Vec<_> = Directives(&list).collect();
            let is_private = parsed.iter().flatten().any(|(name, _)| ["private", "no-store"].contains(name));
            if is_private || parsed.contains(&None) {
                prop_assert_eq!(lifetime_of(&[&list]), None);
            }
        }
    }
}
