//! The variants of a path: how a component or an upstream may interpret it.
//!
//! The host routes a path without decoding it. A component or an upstream may decode it, resolve
//! its dots, remove `;parameters`, treat `\` as `/`, or ignore spaces and dots at the end of a
//! segment. Checks of paths therefore consider all of these variants.

mod decode;

use self::decode::decode_leniently;
use crate::limits::Limits;

pub(super) use self::decode::decode;

/// The most passes of decoding a path, or of resolving its dots. Legitimate paths need far fewer,
/// and the limit bounds the work.
pub(super) const PATH_DECODE_PASSES: usize = Limits::DEFAULT.path_decode_passes;

/// Returns whether the segments of a variant of the path satisfy the predicate, or whether the path
/// is too complex to check.
///
/// The predicate resolves dots.
pub(super) fn any(path: &str, predicate: impl Fn(Vec<&[u8]>) -> bool) -> bool {
    let path = path.as_bytes();
    let predicate_for_trimmed = |mut segments: Vec<&[u8]>| {
        for segment in &mut segments {
            *segment = trimmed(segment);
        }
        predicate(segments)
    };
    any_decoded(path, decode, |path| any_undecoded(path, &predicate))
        || any_decoded(path, decode_leniently, |path| {
            any_undecoded(path, &predicate) || any_undecoded(path, &predicate_for_trimmed)
        })
}

/// Returns whether the path satisfies the predicate after any number of passes of decoding, or
/// needs too many of them.
fn any_decoded(
    path: &[u8],
    decode: impl Fn(&[u8]) -> Vec<u8>,
    predicate: impl Fn(&[u8]) -> bool,
) -> bool {
    let mut path = path.to_vec();
    for _ in 0..PATH_DECODE_PASSES {
        if predicate(&path) {
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

/// Returns whether the segments of a variant of a decoded path satisfy the predicate.
fn any_undecoded(path: &[u8], predicate: &impl Fn(Vec<&[u8]>) -> bool) -> bool {
    // A decoded `?`, `#` or NUL may end the path.
    let end = path.iter().position(|byte| b"?#\0".contains(byte));
    let truncated = &path[..end.unwrap_or(path.len())];
    let separators: [&[u8]; 2] = [b"/", b"/\\"];
    let is_match = |path: &[u8], separators: &[u8]| {
        let segments = || path.split(|byte| separators.contains(byte));
        predicate(segments().collect()) || predicate(segments().map(without_parameters).collect())
    };
    separators.iter().any(|separators| {
        is_match(path, separators) || (end.is_some() && is_match(truncated, separators))
    })
}

/// Returns whether a path has only one variant.
pub(super) fn is_unambiguous(path: &str) -> bool {
    let special = |byte: u8| !byte.is_ascii_graphic() || b"%\\;?#".contains(&byte);
    let has_dots = path.contains("/.") || path.contains("./") || path.ends_with('.');
    !path.bytes().any(special) && !path.contains("//") && !has_dots
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

/// Removes what Windows and others ignore in a segment: spaces and control characters around it, and
/// dots at its end.
fn trimmed(segment: &[u8]) -> &[u8] {
    let is_blank = |byte: &u8| *byte <= b' ' || *byte == 0x7F;
    let start = segment.iter().position(|byte| !is_blank(byte));
    let segment = &segment[start.unwrap_or(segment.len())..];
    let end = segment.iter().rposition(|byte| !is_blank(byte));
    let segment = &segment[..end.map_or(0, |end| end + 1)];
    if matches!(segment, b"." | b"..") {
        return segment;
    }
    let end = segment
        .iter()
        .rposition(|byte| !is_blank(byte) && *byte != b'.');
    &segment[..end.map_or(0, |end| end + 1)]
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
            "/..%20/x",
            "/%u002e%u002e/x",
            "/a/%u002e./%EF%BC%8E%EF%BC%8E/x",
            "/%EF%BC%8E%EF%BC%8E%EF%BC%8Fx",
            "/.%09./x",
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
            "/%u",
            "/%u00zz",
            "/a./b%20/..",
            "/%EF%BC%8E/x",
            "/%E3%83%9A%E3%83%BC%E3%82%B8",
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
