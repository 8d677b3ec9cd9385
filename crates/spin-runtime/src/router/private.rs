//! Paths that are closed to the outside, however they are spelled.

use super::readings::{self, LIMIT, decode};
use crate::manifest::pattern::Pattern;

/// The routes that only timers and components may call.
///
/// A path is private as soon as one of its [`readings`] is, in any letter case: what stands behind
/// a route, or behind an upstream, may not tell cases apart.
#[derive(Clone, Debug, Default)]
pub struct Private {
    patterns: Vec<Pattern>,
    /// How many parts of a path are enough to tell whether one of the patterns matches it.
    enough: usize,
}

impl Private {
    /// Takes routes in routefinder's notation (see
    /// [`HostTable::private`](crate::manifest::HostTable::private)).
    ///
    /// # Errors
    /// A route that cannot be matched; there is none in a manifest that was read from text.
    pub fn new(routes: &[String]) -> anyhow::Result<Self> {
        let mut patterns = Vec::new();
        for route in routes {
            let parse = |text: &str| {
                Pattern::parse(text)
                    .map_err(|reason| anyhow::anyhow!("private route {route:?}: {reason}"))
            };
            let folded = route.to_ascii_lowercase();
            patterns.push(parse(&folded)?);
            // A route with escapes also covers what they stand for.
            let decoded = ascii(&fold(&decode(route.as_bytes())));
            if decoded != folded {
                patterns.extend(parse(&decoded).ok());
            }
        }
        // One more than the longest pattern has, so that a longer path is seen to be longer.
        let parts = |pattern: &Pattern| pattern.based.split('/').count();
        let enough = patterns.iter().map(parts).max().unwrap_or_default() + 1;
        Ok(Self { patterns, enough })
    }

    /// Whether a path, without its query, is closed to the outside.
    pub fn matches(&self, path: &str) -> bool {
        if self.patterns.is_empty() {
            return false;
        }
        if self.covers(&path.to_ascii_lowercase()) {
            return true;
        }
        !readings::is_plain(path) && readings::any(path, |parts| self.resolves(parts))
    }

    /// Whether one of the patterns matches a path, whose letters are small.
    fn covers(&self, path: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(path))
    }

    /// Whether the path of these parts is private at any step of the resolution of its dots.
    fn resolves(&self, mut parts: Vec<&[u8]>) -> bool {
        parts.retain(|part| !part.is_empty());
        if self.covers_parts(&parts) {
            return true;
        }
        parts.retain(|part| *part != b".");
        for _ in 0..LIMIT {
            if self.covers_parts(&parts) {
                return true;
            }
            let Some(up) = parts.iter().position(|part| *part == b"..") else {
                return false;
            };
            parts.drain(up.saturating_sub(1)..=up);
        }
        true
    }

    fn covers_parts(&self, parts: &[&[u8]]) -> bool {
        let mut path = String::new();
        for part in parts.iter().take(self.enough) {
            path.push('/');
            path.push_str(&ascii(&fold(part)));
        }
        self.covers(&path)
    }
}

/// The bytes with their letters small. Those that are small or large in more than one way, like
/// the sign for kelvin, become what somebody may take them for.
fn fold(bytes: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_ascii() => text.to_uppercase().to_lowercase().into_bytes(),
        _ => bytes.to_ascii_lowercase(),
    }
}

/// The bytes as text, with what is no visible ASCII percent-encoded.
fn ascii(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte.is_ascii_graphic() {
            true => text.push(*byte as char),
            false => text.push_str(&format!("%{byte:02x}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn private(routes: &[&str]) -> Private {
        let routes: Vec<String> = routes.iter().map(|route| route.to_string()).collect();
        Private::new(&routes).unwrap()
    }

    #[test]
    fn every_spelling_of_a_private_path_is_private() {
        let private = private(&["/internal/..."]);
        for path in [
            "/internal",
            "/internal/",
            "/internal/orders",
            "/internal/orders/",
            "//internal/orders",
            "/internal//orders",
            "/%69nternal/orders",
            "/%69%6E%74%65%72%6e%61%6c",
            "/x/../internal/orders",
            "/x/y/../../internal",
            "/../internal",
            "/./internal/orders",
            "/%2e/internal",
            "/x/%2E%2e/internal",
            "/x/%252e%252e/internal",
            "/%2569nternal/orders",
            "/%252569nternal/orders",
            "/internal%2Forders",
            "/%2Finternal",
            "%2f%2finternal",
            "/x%2f..%2finternal",
            "/internal;a=b/orders",
            "/internal;/orders",
            "/x;a/..;b/internal",
            "/internal%3Ba=b",
            "\\internal\\orders",
            "/x\\..\\internal",
            "/x%5c..%5Cinternal",
            "/%c0%afinternal",
            "/%e0%80%afinternal",
            "/%f0%80%80%afinternal",
            "/%c1%a9nternal",
            "/x/%c0%ae%c0%ae/internal",
            "/x/%25c0%25ae%c0%ae/internal",
            "/internal%00/orders",
            "/internal%3Fx",
            "/internal%23x",
            "/internal/../internal/x",
            "/internal/%zz",
            "/internal/%",
            "/internal/../public",
            "/p/%2e%2e/internal/%252e%252e/x",
            "/Internal",
            "/INTERNAL/orders",
            "/iNtErNaL/Orders",
            "/%49nternal/orders",
            "/%49%4E%54ernal",
            "/x/../Internal;a=b",
            "/%2549NTERNAL",
        ] {
            assert!(private.matches(path), "{path}");
        }
    }

    #[test]
    fn other_paths_stay_open() {
        let private = private(&["/internal/..."]);
        for path in [
            "/",
            "",
            "/internals",
            "/internals/orders",
            "/internal-x",
            "/internal.html",
            "/intern",
            "/xinternal",
            "/x/internal/orders",
            "/x/../internals",
            "/x/..internal",
            "/x%2finternal",
            "/x/%2finternal",
            "/%69nternals",
            "/Internals",
            "/static/a%20b.css",
            "/static/%E2%82%AC",
            "/static/€",
            "/%zzinternal",
            "/a;internal",
        ] {
            assert!(!private.matches(path), "{path}");
        }
        assert!(!Private::default().matches("/internal"));
    }

    #[test]
    fn exact_routes_and_parameters_can_be_private() {
        let private = private(&["/Secret", "/:Tenant/admin", "/caf%C3%A9/...", "/ask"]);
        for path in [
            "/secret",
            "/secret/",
            "/secr%65t",
            "/a/admin",
            "/a/x/../admin",
            "/caf%c3%a9",
            "/café/x",
            "/CAF%C3%89",
            "/SECRET",
            "/%c5%bfecret",
            "/as%E2%84%AA",
            "/A/Admin",
        ] {
            assert!(private.matches(path), "{path}");
        }
        for path in ["/secret/public", "/a/b/admin", "/admin", "/cafe", "/caf%E9"] {
            assert!(!private.matches(path), "{path}");
        }
    }

    #[test]
    fn a_path_that_cannot_be_read_is_private() {
        let private = private(&["/internal/..."]);
        assert!(private.matches(&format!("/%{}41", "25".repeat(30_000))));
        assert!(private.matches(&"/x/..".repeat(20_000)));
        assert!(!private.matches(&format!("/%{}41", "25".repeat(LIMIT - 2))));
        assert!(!private.matches(&"/x/..".repeat(LIMIT - 1)));
    }

    /// Ways to write a slash between two parts, with what may stand beside it.
    fn slash() -> impl Strategy<Value = String> {
        let bare = prop::sample::select(vec![
            "/",
            "\\",
            "%2f",
            "%2F",
            "%5c",
            "%c0%af",
            "%e0%80%af",
            "%252f",
        ]);
        let filler = prop::sample::select(vec![
            "",
            "",
            "",
            ".",
            "%2e",
            "x|..",
            "a|%2E.",
            "y|%c0%ae%c0%ae",
            "b|.%252e",
        ]);
        (bare, filler).prop_map(|(bare, filler)| match filler {
            "" => bare.to_owned(),
            filler => format!("{bare}{}{bare}", filler.replace('|', bare)),
        })
    }

    /// Ways to write a part: each character small or large, as it is or escaped, up to three times
    /// over.
    fn part(text: &'static str) -> impl Strategy<Value = String> {
        let styles = prop::collection::vec((0u8..6, any::<bool>()), text.len());
        let suffix = prop::sample::select(vec!["", "", "", ";", ";a=b", "%3bv=1"]);
        (styles, suffix).prop_map(move |(styles, suffix)| {
            let write = |(byte, (style, large)): (u8, (u8, bool))| {
                let byte = if large {
                    byte.to_ascii_uppercase()
                } else {
                    byte
                };
                match style {
                    1 => format!("%{byte:02x}"),
                    2 => format!("%{byte:02X}"),
                    3 => format!("%25{byte:02x}"),
                    4 => format!("%{:02x}%{:02X}", 0xC0 | byte >> 6, 0x80 | byte & 0x3F),
                    5 => format!("%2525{byte:02X}"),
                    _ => (byte as char).to_string(),
                }
            };
            let written: String = text.bytes().zip(styles).map(write).collect();
            format!("{written}{suffix}")
        })
    }

    /// Any spelling of a path with these parts.
    fn spelling(first: &'static str) -> impl Strategy<Value = String> {
        let rest = prop::collection::vec((slash(), part("orders")), 0..3);
        let end = prop::sample::select(vec!["", "/", "//", "%2f"]);
        (slash(), part(first), rest, end, 0usize..4).prop_map(|(slash, first, rest, end, again)| {
            let rest: String = rest
                .into_iter()
                .map(|(slash, part)| format!("{slash}{part}"))
                .collect();
            let path = format!("{slash}{first}{rest}{end}");
            (0..again).fold(path, |path, _| path.replace('%', "%25"))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn spellings_of_a_private_path_are_private(path in spelling("internal")) {
            prop_assert!(private(&["/internal/..."]).matches(&path), "{}", path);
        }

        #[test]
        fn spellings_of_an_exact_private_path_are_private(path in spelling("internal")) {
            let private = private(&["/internal", "/internal/orders", "/internal/:name/orders"]);
            prop_assert!(private.matches(&path), "{}", path);
        }

        #[test]
        fn spellings_of_another_path_are_not(path in spelling("internals")) {
            prop_assert!(!private(&["/internal/..."]).matches(&path), "{}", path);
        }

        #[test]
        fn no_path_panics(path in "[/.%\\\\;?#0-9a-fA-Fé\\u{0}-\\u{ff}]{0,60}") {
            private(&["/internal/...", "/:a/:b"]).matches(&path);
        }
    }
}
