//! The variants of a path: how a component or an upstream may interpret it.
//!
//! The host routes a path without decoding it. A component or an upstream may decode it, resolve
//! its dots, remove `;parameters`, or treat `\` as `/`. Checks of paths therefore consider all of
//! these variants.

use crate::limits::Limits;

/// The most passes of decoding a path, or of resolving its dots. Legitimate paths need far fewer,
/// and the limit bounds the work.
pub(super) const PATH_DECODE_PASSES: usize = Limits::DEFAULT.path_decode_passes;

/// Returns whether the segments of a variant of the path satisfy the predicate, or whether the path
/// is too complex to check.
///
/// The predicate resolves dots.
pub(super) fn any(path: &str, predicate: impl Fn(Vec<&[u8]>) -> bool) -> bool {
    let mut path = path.as_bytes().to_vec();
    for _ in 0..PATH_DECODE_PASSES {
        if any_undecoded(&path, &predicate) {
            return true;
        }
        let decoded = decode(&path);
        if decoded == path {
            return false;
        }
        path = decoded;
    }
    true
}

/// Like [`any`], without decoding.
fn any_undecoded(path: &[u8], predicate: &impl Fn(Vec<&[u8]>) -> bool) -> bool {
    // A decoded `?`, `#` or NUL may end the path.
    let end = path.iter().position(|byte| b"?#\0".contains(byte));
    let truncated = &path[..end.unwrap_or(path.len())];
    let separators: [&[u8]; 2] = [b"/", b"/\\"];
    separators.iter().any(|separators| {
        let split = |path| <[u8]>::split(path, |byte| separators.contains(byte));
        predicate(split(path).collect())
            || predicate(split(truncated).map(without_parameters).collect())
    })
}

/// Returns whether a path has only one variant.
pub(super) fn is_unambiguous(path: &str) -> bool {
    let special = |byte: u8| !byte.is_ascii_graphic() || b"%\\;?#".contains(&byte);
    !path.bytes().any(special) && !path.contains("//") && !path.contains("/.")
}

/// Returns whether a variant of the path escapes its root: `/../x`, `/a/%2e%2e/../x`.
///
/// Appended to the base path of an upstream, such a path would leave it.
pub fn escapes_root(path: &str) -> bool {
    !is_unambiguous(path) && any(path, |segments| resolves_above_root(&segments))
}

fn resolves_above_root(segments: &[&[u8]]) -> bool {
    let mut depth = 0_usize;
    segments.iter().any(|segment| {
        match *segment {
            b"" | b"." => {}
            b".." => match depth.checked_sub(1) {
                Some(parent) => depth = parent,
                None => return true,
            },
            _ => depth += 1,
        }
        false
    })
}

/// Removes `;parameters` from a segment.
fn without_parameters(segment: &[u8]) -> &[u8] {
    let end = segment.iter().position(|byte| *byte == b';');
    &segment[..end.unwrap_or(segment.len())]
}

/// Decodes percent-escapes once. Invalid escapes are kept. Overlong UTF-8 encodings, which are used
/// to bypass checks like this one, are replaced with the character.
pub(super) fn decode(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&first, after)) = rest.split_first() {
        let hex = |byte: &u8| (*byte as char).to_digit(16);
        let escape = match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                hex(high).zip(hex(low)).map(|digits| (digits, after))
            }
            _ => None,
        };
        let (byte, after) = match escape {
            Some(((high, low), after)) => ((high * 16 + low) as u8, after),
            None => (first, after),
        };
        decoded.push(byte);
        shorten_overlong(&mut decoded);
        rest = after;
    }
    decoded
}

/// Replaces an overlong encoding of an ASCII character at the end.
fn shorten_overlong(bytes: &mut Vec<u8>) {
    let (length, lead, last) = match bytes.as_slice() {
        [.., lead @ 0xC0..=0xC1, last @ 0x80..=0xBF] => (2, *lead, *last),
        [.., 0xE0, lead @ 0x80..=0x81, last @ 0x80..=0xBF] => (3, *lead, *last),
        [.., 0xF0, 0x80, lead @ 0x80..=0x81, last @ 0x80..=0xBF] => (4, *lead, *last),
        _ => return,
    };
    bytes.truncate(bytes.len() - length);
    bytes.push((lead & 1) << 6 | (last & 0x3F));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_above_the_root_escape_it() {
        for path in [
            "/..",
            "/../",
            "/../app/internal/orders",
            "/%2e%2e/app/internal",
            "/.%2E/x",
            "/%252e%252e/x",
            "/a/../../x",
            "/a/./../%2e%2e/x",
            "/a//../../x",
            "/..;a=b/x",
            "/a/..;/..;/x",
            "/\\..\\x",
            "\\..\\x",
            "/%5c..%5c..",
            "/a%2f..%2f..%2fx",
            "/%c0%ae%c0%ae/x",
            "/../a/b/c",
            "/a%3F/../../x",
        ] {
            assert!(escapes_root(path), "{path}");
        }
        assert!(escapes_root(&format!(
            "/%{}41",
            "25".repeat(PATH_DECODE_PASSES)
        )));
    }

    #[test]
    fn other_paths_do_not_escape_the_root() {
        for path in [
            "",
            "*",
            "/",
            "/a/..",
            "/a/../b/../c",
            "/a%2Fb/.././c//d;e",
            "/a/b/%2e%2e/..",
            "/...",
            "/..a/b",
            "/a..",
            "/.well-known/x",
            "/./.",
            "/%2e",
            "/static/%E2%82%AC",
            "/%zz",
        ] {
            assert!(!escapes_root(path), "{path}");
        }
    }

    proptest! {
        #[test]
        fn other_paths_stay_below_a_base_path(path in "(/(a|b|\\.|\\.\\.|%2e%2e|%2E|)){0,8}") {
            prop_assume!(!escapes_root(&path));
            let base = "http://host/base/of/it";
            let url = url::Url::parse(&format!("{base}{path}")).unwrap();
            prop_assert!(url.path().starts_with("/base/of/it"), "{} from {}", url, path);
        }

        #[test]
        fn checking_never_panics(path in "[/.%\\\\;?#0-9a-fA-Fé\\u{0}-\\u{ff}]{0,60}") {
            escapes_root(&path);
        }
    }
}
