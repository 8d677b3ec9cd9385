//! What a path may mean to whoever stands behind this host.
//!
//! The host routes a path as it came, but what stands behind a route, or behind an upstream, may
//! decode it, resolve its dots, drop `;parameters` or take `\` for `/`. A rule about paths
//! therefore looks at all these readings.

/// How many times over a path may be percent-encoded before it is given up unread: no honest path
/// comes near, and reading on would cost without end.
pub const LIMIT: usize = 8;

/// Whether the parts of a path, those between its slashes, are as `found` says in some reading;
/// also of a path that cannot be read to its end. Dots are left to `found`.
pub fn any(path: &str, found: impl Fn(Vec<&[u8]>) -> bool) -> bool {
    let mut path = path.as_bytes().to_vec();
    for _ in 0..LIMIT {
        if any_undecoded(&path, &found) {
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

/// The same without decoding.
fn any_undecoded(path: &[u8], found: &impl Fn(Vec<&[u8]>) -> bool) -> bool {
    // Without what some readers take for a query, a fragment or the end.
    let end = path.iter().position(|byte| b"?#\0".contains(byte));
    let cut = &path[..end.unwrap_or(path.len())];
    let separators: [&[u8]; 2] = [b"/", b"/\\"];
    separators.iter().any(|separators| {
        let split = |path| <[u8]>::split(path, |byte| separators.contains(byte));
        found(split(path).collect()) || found(split(cut).map(without_parameters).collect())
    })
}

/// Whether a path has one reading only.
pub fn is_plain(path: &str) -> bool {
    let special = |byte: u8| !byte.is_ascii_graphic() || b"%\\;?#".contains(&byte);
    !path.bytes().any(special) && !path.contains("//") && !path.contains("/.")
}

/// Whether the dots of a path lead above its root in some reading: `/../x`, `/a/%2e%2e/../x`.
/// Behind a path of an upstream, such a path would leave it.
pub fn climbs(path: &str) -> bool {
    !is_plain(path) && any(path, |parts| leads_above_root(&parts))
}

fn leads_above_root(parts: &[&[u8]]) -> bool {
    let mut depth = 0_usize;
    parts.iter().any(|part| {
        match *part {
            b"" | b"." => {}
            b".." => match depth.checked_sub(1) {
                Some(above) => depth = above,
                None => return true,
            },
            _ => depth += 1,
        }
        false
    })
}

/// A part of a path without what some readers take for its parameters.
fn without_parameters(part: &[u8]) -> &[u8] {
    let end = part.iter().position(|byte| *byte == b';');
    &part[..end.unwrap_or(part.len())]
}

/// Decodes percent-escapes once; what is no escape stays. UTF-8 forms longer than need be, with
/// which characters were smuggled past checks like these, become the character.
pub fn decode(path: &[u8]) -> Vec<u8> {
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
        shorten(&mut decoded);
        rest = after;
    }
    decoded
}

/// Replaces an overlong UTF-8 form of an ASCII character at the end.
fn shorten(bytes: &mut Vec<u8>) {
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
    fn paths_that_climb_above_their_root() {
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
            assert!(climbs(path), "{path}");
        }
        assert!(climbs(&format!("/%{}41", "25".repeat(LIMIT))));
    }

    #[test]
    fn other_paths_do_not() {
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
            assert!(!climbs(path), "{path}");
        }
    }

    proptest! {
        /// What a path that does not climb resolves to stays below whatever stands before it.
        #[test]
        fn what_does_not_climb_stays_below(path in "(/(a|b|\\.|\\.\\.|%2e%2e|%2E|)){0,8}") {
            prop_assume!(!climbs(&path));
            let base = "http://host/base/of/it";
            let url = url::Url::parse(&format!("{base}{path}")).unwrap();
            prop_assert!(url.path().starts_with("/base/of/it"), "{} from {}", url, path);
        }

        #[test]
        fn no_path_panics(path in "[/.%\\\\;?#0-9a-fA-Fé\\u{0}-\\u{ff}]{0,60}") {
            climbs(&path);
        }
    }
}
