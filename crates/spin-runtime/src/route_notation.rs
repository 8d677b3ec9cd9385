//! Routes in the notation of other routers, which mean something else here.

use crate::route_pattern::RoutePattern;

/// The brackets that other routers put around parameters.
const BRACKETS: [(char, char); 3] = [('{', '}'), ('<', '>'), ('[', ']')];

/// Returns a warning about a valid route that is not in Spin's notation, with the right spelling.
///
/// Most of these routes match literally, which is rarely intended.
pub fn notation_warning(route: &str) -> Option<String> {
    let absolute = if route.starts_with('/') {
        route.to_owned()
    } else {
        format!("/{route}")
    };
    let last = absolute.trim_end_matches('/').split('/').count() - 1;
    let mut foreign = None;
    let mut spelling = Some(Vec::new());
    for (index, segment) in absolute.split('/').enumerate() {
        let translated = match translate(segment, index == last) {
            Translation::None => Some(segment.to_owned()),
            Translation::To(translated) => {
                foreign.get_or_insert(segment);
                Some(translated)
            }
            Translation::Unknown => {
                foreign.get_or_insert(segment);
                None
            }
        };
        spelling = spelling.zip(translated).map(|(mut segments, translated)| {
            segments.push(translated);
            segments
        });
    }
    let spelling = spelling
        .map(|segments| segments.join("/"))
        .filter(|spelling| RoutePattern::parse(spelling).is_ok());
    let foreign = foreign?;
    let effect = if foreign == "*" {
        String::new()
    } else {
        format!(", so `{foreign}` matches literally")
    };
    let spelling = spelling.unwrap_or_else(|| {
        "a parameter as `:name`, and a wildcard at the end as `/...`".to_owned()
    });
    Some(format!(
        "route {route} is not in Spin's notation{effect}: write {spelling}"
    ))
}

/// What a segment is in Spin's notation.
enum Translation {
    /// The same: it is not foreign.
    None,
    To(String),
    /// It is foreign, and has no equivalent.
    Unknown,
}

/// Translates a segment: `{id}`, `<int:id>`, `[id]`, `{id}.json`, `[...rest]`, `{*rest}`, `*`.
fn translate(segment: &str, is_last: bool) -> Translation {
    if segment == "*" {
        return Translation::To("...".to_owned());
    }
    let bracketed = BRACKETS.into_iter().find_map(|(open, close)| {
        let (before, rest) = segment.split_once(open)?;
        let (inner, after) = rest.rsplit_once(close)?;
        Some((open, before, inner, after))
    });
    let Some((open, before, inner, after)) = bracketed else {
        return Translation::None;
    };
    let inner = inner.trim_matches(['[', ']', '{', '}', '<', '>']);
    // `<int:id>` has the type first, and `{id:int}` last.
    let (name, kind) = match inner.split_once(':') {
        Some((kind, name)) if open == '<' => (name, kind),
        Some((name, kind)) => (name, kind),
        None => (inner, ""),
    };
    let is_wildcard = kind == "path"
        || name.starts_with('*')
        || name.ends_with('*')
        || name.starts_with("...")
        || name.ends_with("...");
    let is_name = !name.is_empty()
        && name
            .trim_end_matches('?')
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    match (before, after) {
        ("", "") if is_wildcard && is_last => Translation::To("...".to_owned()),
        ("", _) if is_name && !is_wildcard && (after.is_empty() || after.starts_with('.')) => {
            Translation::To(format!(":{}{after}", name.trim_end_matches('?')))
        }
        _ => Translation::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn foreign_notations_are_translated() {
        for (route, spelling) in [
            ("/chat/{room}", "/chat/:room"),
            ("/chat/<room>", "/chat/:room"),
            ("/chat/[room]", "/chat/:room"),
            ("chat/{room}", "/chat/:room"),
            ("/chat/<int:room>/log", "/chat/:room/log"),
            ("/chat/{room:[0-9]+}", "/chat/:room"),
            ("/chat/{room}.json", "/chat/:room.json"),
            ("/{a}/<b>", "/:a/:b"),
            ("/chat/{room?}", "/chat/:room"),
            ("/chat/*", "/chat/..."),
            ("/*", "/..."),
            ("/chat/[...rest]", "/chat/..."),
            ("/chat/[[...rest]]", "/chat/..."),
            ("/chat/{*rest}", "/chat/..."),
            ("/chat/{rest...}", "/chat/..."),
            ("/chat/<path:rest>", "/chat/..."),
            ("/chat/{rest:path}", "/chat/..."),
        ] {
            let warning = notation_warning(route).expect(route);
            let written = warning.rsplit_once(": write ").map(|(_, written)| written);
            assert_eq!(written, Some(spelling), "{route}");
        }
        let warning = notation_warning("/chat/{room}").unwrap();
        assert!(warning.contains("`{room}` matches literally"), "{warning}");
    }

    #[test]
    fn notations_without_an_equivalent_are_warnings() {
        for route in ["/chat/room-{id}", "/{*rest}/x", "/chat/{}", "/{a}{b}"] {
            let warning = notation_warning(route).expect(route);
            assert!(warning.contains("a parameter as `:name`"), "{warning}");
        }
    }

    #[test]
    fn routes_of_spin_are_no_warnings() {
        for route in [
            "/",
            "/chat",
            "/chat/",
            "/chat/:room",
            "/chat/...",
            "/...",
            "/:file.:ext",
            // As in Spin, the leading slash is optional.
            "chat/:room",
            "chat",
            "/a-b_c~d/e.html",
            "/%7Broom%7D",
        ] {
            assert_eq!(notation_warning(route), None, "{route}");
        }
    }

    proptest! {
        #[test]
        fn any_route_is_checked_without_panicking(route in "[/:.*a<>{}\\[\\]é]{0,16}") {
            notation_warning(&route);
        }
    }
}
