//! Routes that are not reachable from outside, however their paths are spelled.

use super::path_variants::{self, PATH_DECODE_PASSES, decode};
use crate::route_pattern::RoutePattern;

/// The routes that only timers and components may call.
///
/// A path is private if any interpretation of it is private, in any letter case. A component or an
/// upstream may decode and normalize the path, or ignore its case.
#[derive(Clone, Debug, Default)]
pub struct PrivateRoutes {
    patterns: Vec<RoutePattern>,
    /// The number of segments of a path that decide whether a pattern matches.
    relevant_segments: usize,
}

impl PrivateRoutes {
    /// Creates the set from routes in routefinder's notation.
    ///
    /// # Errors
    /// Fails if a route is invalid, which is not possible for a manifest that was parsed.
    pub fn new(routes: &[String]) -> anyhow::Result<Self> {
        let mut patterns = Vec::new();
        for route in routes {
            let parse = |text: &str| {
                RoutePattern::parse(text)
                    .map_err(|reason| anyhow::anyhow!("invalid private route {route:?}: {reason}"))
            };
            let folded = route.to_ascii_lowercase();
            patterns.push(parse(&folded)?);
            // A route with escapes also matches the decoded path.
            let decoded = ascii(&fold(&decode(route.as_bytes())));
            if decoded != folded {
                patterns.extend(parse(&decoded).ok());
            }
        }
        // One more than the longest pattern has, so that longer paths do not match exact patterns.
        let segments = |pattern: &RoutePattern| pattern.normalized().split('/').count();
        let relevant_segments = patterns.iter().map(segments).max().unwrap_or_default() + 1;
        Ok(Self {
            patterns,
            relevant_segments,
        })
    }

    /// Returns whether a path without its query is private.
    pub fn matches(&self, path: &str) -> bool {
        if self.patterns.is_empty() {
            return false;
        }
        if self.matches_any(&path.to_ascii_lowercase()) {
            return true;
        }
        !path_variants::is_unambiguous(path)
            && path_variants::any(path, |segments| self.matches_resolved(segments))
    }

    /// Returns whether a pattern matches a path in lower case.
    fn matches_any(&self, path: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(path))
    }

    /// Returns whether the path of these segments is private at any step of resolving its dots.
    fn matches_resolved(&self, mut segments: Vec<&[u8]>) -> bool {
        segments.retain(|segment| !segment.is_empty());
        if self.matches_segments(&segments) {
            return true;
        }
        segments.retain(|segment| *segment != b".");
        for _ in 0..PATH_DECODE_PASSES {
            if self.matches_segments(&segments) {
                return true;
            }
            let Some(parent) = segments.iter().position(|segment| *segment == b"..") else {
                return false;
            };
            segments.drain(parent.saturating_sub(1)..=parent);
        }
        true
    }

    fn matches_segments(&self, segments: &[&[u8]]) -> bool {
        let mut path = String::new();
        for segment in segments.iter().take(self.relevant_segments) {
            path.push('/');
            path.push_str(&ascii(&fold(segment)));
        }
        self.matches_any(&path)
    }
}

/// Converts letters to lower case. Converting to upper case first also folds characters such as
/// the Kelvin sign, which others may treat as a letter.
fn fold(bytes: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_ascii() => text.to_uppercase().to_lowercase().into_bytes(),
        _ => bytes.to_ascii_lowercase(),
    }
}

/// Converts bytes to text. Everything but visible ASCII is percent-encoded.
fn ascii(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_graphic() {
            text.push(*byte as char);
        } else {
            text.push_str(&format!("%{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn private(routes: &[&str]) -> PrivateRoutes {
        let routes: Vec<String> = routes.iter().map(|route| route.to_string()).collect();
        PrivateRoutes::new(&routes).unwrap()
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
            "/internal%20/orders",
            "/internal%20",
            "/internal%09",
            "/internal%0d%0a/orders",
            "/internal%7f/orders",
            "/%20internal/orders",
            "/internal./orders",
            "/internal.",
            "/internal...",
            "/internal%2e/orders",
            "/internal.%20./orders",
            "/internal%2520",
            "/internal%20;a=b/orders",
            "/internal.;a=b",
            "/x/..%20/internal",
            "/x/.%09./internal",
            "/./internal. /",
            "/inter%0anal",
            "/%u0069nternal",
            "/%U0049nternal/orders",
            "/%25u0069nternal",
            "/%u002finternal",
            "/internal%u002forders",
            "/x%u005c..%u005cinternal",
            "/%u002e%u002e/internal",
            "/%uff49nternal",
            "/%u0025u0069nternal",
            "/internal%u0020",
            "/%EF%BC%8Finternal",
            "/internal%EF%BC%8Forders",
            "/ｉnternal/orders",
            "/ＩＮＴernal",
            "/%EF%BD%89nternal",
            "/x/%EF%BC%8E%EF%BC%8E/internal",
            "/x/%E2%80%A5/internal",
            "/internal%EF%BC%8E",
            "/internal%EF%BC%9Ba=b/orders",
            "/%EF%BC%8569nternal",
            "/%E2%88%95internal",
            "/%E2%81%B1nternal",
            "/inter%E2%80%8Bnal/orders",
            "/%C2%A0internal",
        ] {
            assert!(private.matches(path), "{path}");
        }
    }

    #[test]
    fn other_paths_are_public() {
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
            "/internal.html.",
            "/internals.",
            "/internal%20x",
            "/.internal",
            "/%u0069nternals",
            "/%uzzzzinternal",
            "/ｉnternals",
            "/%EF%BD%89nternal-x",
            "/a%EF%BC%8Finternal",
        ] {
            assert!(!private.matches(path), "{path}");
        }
        assert!(!PrivateRoutes::default().matches("/internal"));
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
    fn routes_with_dots_and_wide_letters_can_be_private() {
        let private = private(&["/v1./...", "/%EF%BD%89"]);
        // A server may remove the parameters before it decodes the path.
        assert!(self::private(&["/a/b"]).matches("/a;x%3Fy/b"));
        for path in ["/v1./x", "/V1%2e", "/x/../v1.", "/%ef%bd%89", "/Ｉ"] {
            assert!(private.matches(path), "{path}");
        }
        for path in ["/v1/x", "/i", "/v1.x"] {
            assert!(!private.matches(path), "{path}");
        }
    }

    #[test]
    fn paths_that_are_too_complex_are_private() {
        let private = private(&["/internal/..."]);
        assert!(private.matches(&format!("/%{}41", "25".repeat(30_000))));
        assert!(private.matches(&"/x/..".repeat(20_000)));
        assert!(!private.matches(&format!("/%{}41", "25".repeat(PATH_DECODE_PASSES - 2))));
        assert!(!private.matches(&"/x/..".repeat(PATH_DECODE_PASSES - 1)));
    }

    /// Generates spellings of a slash, with redundant segments beside it.
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
            "%u002f",
            "%u2215",
            "%EF%BC%8F",
            "%EF%BC%BC",
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
            "c|..%20",
            "d|%EF%BC%8E.",
        ]);
        (bare, filler).prop_map(|(bare, filler)| match filler {
            "" => bare.to_owned(),
            filler => format!("{bare}{}{bare}", filler.replace('|', bare)),
        })
    }

    /// Generates spellings of a segment: each character in either case, escaped up to three times.
    fn segment(text: &'static str) -> impl Strategy<Value = String> {
        let styles = prop::collection::vec((0u8..8, any::<bool>()), text.len());
        let suffix = prop::sample::select(vec![
            "",
            "",
            "",
            ";",
            ";a=b",
            "%3bv=1",
            "%20",
            ".",
            "%09",
            "%u0020",
            "%EF%BC%8E",
            ".%20;a",
        ]);
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
                    6 => format!("%u{byte:04x}"),
                    // The full-width form.
                    7 => format!("%u{:04X}", 0xFEE0 + u32::from(byte)),
                    _ => (byte as char).to_string(),
                }
            };
            let written: String = text.bytes().zip(styles).map(write).collect();
            format!("{written}{suffix}")
        })
    }

    /// Generates spellings of a path.
    fn spelling(first: &'static str) -> impl Strategy<Value = String> {
        let rest = prop::collection::vec((slash(), segment("orders")), 0..3);
        let end = prop::sample::select(vec!["", "/", "//", "%2f"]);
        (slash(), segment(first), rest, end, 0usize..4).prop_map(
            |(slash, first, rest, end, again)| {
                let rest: String = rest
                    .into_iter()
                    .map(|(slash, segment)| format!("{slash}{segment}"))
                    .collect();
                let path = format!("{slash}{first}{rest}{end}");
                (0..again).fold(path, |path, _| path.replace('%', "%25"))
            },
        )
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
        fn spellings_of_another_path_are_public(path in spelling("internals")) {
            prop_assert!(!private(&["/internal/..."]).matches(&path), "{}", path);
        }

        #[test]
        fn matching_never_panics(path in "[/.%\\\\;?#0-9a-fA-Fé\\u{0}-\\u{ff}]{0,60}") {
            private(&["/internal/...", "/:a/:b"]).matches(&path);
        }
    }
}
