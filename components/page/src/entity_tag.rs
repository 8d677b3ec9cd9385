//! Entity tags: what a client's copy of an asset is known by.

use encoding::Encoding;
use http::HeaderValue;

use crate::fingerprint::Fingerprint;

/// A strong validator (RFC 9110 §8.8.1), so another one for each coding.
pub fn of(fingerprint: Fingerprint, encoding: Option<Encoding>) -> HeaderValue {
    let tag = match encoding {
        Some(encoding) => format!("\"{fingerprint}-{}\"", encoding.name()),
        None => format!("\"{fingerprint}\""),
    };
    HeaderValue::try_from(tag).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
}

/// Whether `If-None-Match` names `etag`, by the weak comparison that RFC 9110
/// §13.1.2 asks for. A tag may hold commas, so the list is not split at them.
pub fn is_among<'a>(known: impl Iterator<Item = &'a HeaderValue>, etag: &HeaderValue) -> bool {
    fn one(mut list: &[u8], etag: &[u8]) -> bool {
        loop {
            list = list.trim_ascii_start();
            match list {
                [] => return false,
                [b',', rest @ ..] => list = rest,
                [b'*', rest @ ..] => return rest.trim_ascii().is_empty(),
                [b'W', b'/', rest @ ..] => list = rest,
                [b'"', rest @ ..] => {
                    let Some(end) = rest.iter().position(|&byte| byte == b'"') else {
                        return false;
                    };
                    if &list[..end + 2] == etag {
                        return true;
                    }
                    list = &rest[end + 1..];
                }
                _ => return false,
            }
        }
    }
    known
        .into_iter()
        .any(|list| one(list.as_bytes(), etag.as_bytes()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_in(list: &str, tag: &str) -> bool {
        let header = |text| HeaderValue::from_str(text).expect("a header");
        is_among([&header(list)].into_iter(), &header(tag))
    }

    #[test]
    fn lists() {
        let tag = "\"0123\"";
        for known in [
            "\"0123\"",
            "W/\"0123\"",
            "\"other\", \"0123\"",
            "\"with, comma\",W/\"0123\" , \"b\"",
            "*",
        ] {
            assert!(is_in(known, tag), "{known}");
        }
        for unknown in ["", "\"other\"", "0123", "\"0123", "W/", ",,", "\"0123-br\""] {
            assert!(!is_in(unknown, tag), "{unknown}");
        }
    }

    #[test]
    fn each_coding_has_its_own() {
        let fingerprint = Fingerprint::of(b"");
        let plain = of(fingerprint, None);
        let [brotli, gzip] = [Encoding::Brotli, Encoding::Gzip].map(|it| of(fingerprint, Some(it)));
        assert!(![&brotli, &gzip].contains(&&plain));
        assert_ne!(brotli, gzip);
    }

    proptest! {
        #[test]
        fn any_list_is_read(list in "[ -~]{0,40}") {
            let found = is_in(&list, "\"0123\"");
            prop_assert!(!found || list.contains('*') || list.contains("\"0123\""));
        }
    }
}
