//! Entity tags of assets.

use encoding::Encoding;
use http::HeaderValue;

use crate::fingerprint::Fingerprint;

/// Returns the tag of an asset in an encoding.
///
/// It is a strong validator (RFC 9110 §8.8.1), so it differs between encodings.
pub(crate) fn of(fingerprint: Fingerprint, encoding: Option<Encoding>) -> HeaderValue {
    let tag = match encoding {
        Some(encoding) => format!("\"{fingerprint}-{}\"", encoding.name()),
        None => format!("\"{fingerprint}\""),
    };
    HeaderValue::try_from(tag).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
}

/// Returns whether the `If-None-Match` headers contain `etag`.
///
/// This is the weak comparison of RFC 9110 §13.1.2. The lists are not split at commas
/// because a tag may contain them.
pub(crate) fn matches<'a>(
    mut if_none_match: impl Iterator<Item = &'a HeaderValue>,
    etag: &HeaderValue,
) -> bool {
    if_none_match.any(|list| list_matches(list.as_bytes(), etag.as_bytes()))
}

fn list_matches(mut list: &[u8], etag: &[u8]) -> bool {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn contains(list: &str, tag: &str) -> bool {
        let header = |text| HeaderValue::from_str(text).expect("a header");
        matches([&header(list)].into_iter(), &header(tag))
    }

    #[test]
    fn lists_of_tags_are_searched() {
        let tag = "\"0123\"";
        for list in [
            "\"0123\"",
            "W/\"0123\"",
            "\"other\", \"0123\"",
            "\"with, comma\",W/\"0123\" , \"b\"",
            "*",
        ] {
            assert!(contains(list, tag), "{list}");
        }
        for list in ["", "\"other\"", "0123", "\"0123", "W/", ",,", "\"0123-br\""] {
            assert!(!contains(list, tag), "{list}");
        }
    }

    #[test]
    fn each_encoding_has_its_own_tag() {
        let fingerprint = Fingerprint::of(b"");
        let plain = of(fingerprint, None);
        let [brotli, gzip] = [Encoding::Brotli, Encoding::Gzip].map(|it| of(fingerprint, Some(it)));
        assert!(![&brotli, &gzip].contains(&&plain));
        assert_ne!(brotli, gzip);
    }

    proptest! {
        #[test]
        fn any_list_can_be_searched(list in "[ -~]{0,40}") {
            let found = contains(&list, "\"0123\"");
            prop_assert!(!found || list.contains('*') || list.contains("\"0123\""));
        }
    }
}
