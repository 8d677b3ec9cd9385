//! The request headers that Spin sets for a component.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::router::Match;

/// The prefix of the headers that only the host may set.
const PREFIX: &str = "spin-";

/// Sets the headers that describe the request's route.
///
/// `full_url` is `scheme://host/path?query`, with the host of the client's request. Headers of the
/// client must first be removed with [`remove`].
pub(crate) fn set(headers: &mut HeaderMap, found: &Match, full_url: &str, client: SocketAddr) {
    headers.reserve(7 + found.captures().len());
    let mut set = |name, value| headers.insert(HeaderName::from_static(name), value);
    set("spin-path-info", header_value(found.path_info()));
    set("spin-full-url", header_value(full_url));
    set("spin-matched-route", found.normalized_header());
    set("spin-base-path", HeaderValue::from_static("/"));
    set("spin-raw-component-route", found.raw_header());
    set("spin-component-route", found.component_header());
    set("spin-client-addr", header_value(&client.to_string()));
    for (name, value) in found.captures() {
        let name = name.replace('_', "-").to_ascii_lowercase();
        // As in Spin, a parameter is omitted if its name is not valid in a header.
        if let Ok(name) = HeaderName::try_from(format!("spin-path-match-{name}")) {
            headers.insert(name, header_value(value));
        }
    }
}

/// Removes the headers that only the host may set.
pub(crate) fn remove(headers: &mut HeaderMap) {
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with(PREFIX))
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
}

/// Converts text to a header value. Control characters are percent-encoded.
fn header_value(text: &str) -> HeaderValue {
    if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
        return value;
    }
    let mut escaped = Vec::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_control() {
            escaped.extend_from_slice(format!("%{byte:02X}").as_bytes());
        } else {
            escaped.push(byte);
        }
    }
    HeaderValue::from_bytes(&escaped).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        manifest::{Manifest, ManifestUse},
        router::Router,
    };

    fn router(routes: &[&str]) -> Router {
        let trigger =
            |route: &&str| format!("[[trigger.http]]\nroute = {route:?}\nstatic_response = {{}}\n");
        let triggers: String = routes.iter().map(trigger).collect();
        let text = format!("spin_manifest_version = 2\napplication.name = \"test\"\n{triggers}");
        let manifest = Manifest::parse(&text, "/app/spin.toml", ManifestUse::Embedded).unwrap();
        Router::new(&manifest).unwrap()
    }

    #[test]
    fn headers_are_those_of_spin() {
        let router = router(&["/foo/:user_ID/...", "/", "/end/"]);
        let client: SocketAddr = "127.0.0.1:8777".parse().unwrap();
        let headers_of = |path: &str| {
            let found = router.route(path).unwrap();
            let mut headers = HeaderMap::new();
            let full_url = format!("https://example.com{path}?k=v");
            set(&mut headers, &found, &full_url, client);
            let text = |(name, value): (&HeaderName, &HeaderValue)| {
                (name.to_string(), value.to_str().unwrap().to_owned())
            };
            headers.iter().map(text).collect::<BTreeMap<_, _>>()
        };
        let expected = |pairs: &[(&str, &str)]| {
            let always = [
                ("spin-base-path", "/"),
                ("spin-client-addr", "127.0.0.1:8777"),
            ];
            always
                .iter()
                .chain(pairs)
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect()
        };
        let deep: BTreeMap<_, _> = expected(&[
            ("spin-full-url", "https://example.com/foo/42/bar?k=v"),
            ("spin-path-info", "/bar"),
            ("spin-matched-route", "/foo/:user_ID/..."),
            ("spin-raw-component-route", "/foo/:user_ID/..."),
            ("spin-component-route", "/foo/:user_ID"),
            ("spin-path-match-user-id", "42"),
        ]);
        assert_eq!(headers_of("/foo/42/bar"), deep);
        let root = expected(&[
            ("spin-full-url", "https://example.com/?k=v"),
            ("spin-path-info", ""),
            ("spin-matched-route", ""),
            ("spin-raw-component-route", "/"),
            ("spin-component-route", "/"),
        ]);
        assert_eq!(headers_of("/"), root);
        let end = headers_of("/end");
        assert_eq!(
            (
                end["spin-matched-route"].as_str(),
                end["spin-component-route"].as_str()
            ),
            ("/end", "/end/")
        );
    }

    #[test]
    fn headers_of_the_client_are_removed() {
        let mut headers = HeaderMap::new();
        for name in [
            "spin-full-url",
            "Spin-Path-Match-Id",
            "spin-x",
            "spinach",
            "x-spin-y",
        ] {
            headers.append(
                name.parse::<HeaderName>().unwrap(),
                HeaderValue::from_static("1"),
            );
            headers.append(
                name.parse::<HeaderName>().unwrap(),
                HeaderValue::from_static("2"),
            );
        }
        remove(&mut headers);
        let mut remaining: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        remaining.sort_unstable();
        assert_eq!(remaining, ["spinach", "x-spin-y"]);
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(header_value("a\u{7f}\r\nb"), "a%7F%0D%0Ab");
        assert_eq!(header_value("/é"), "/é");
    }

    proptest! {
        #[test]
        fn headers_are_always_valid(path in "[/:.*a%é\\u{0}-\\u{7f}]{0,40}", url in ".{0,40}") {
            let router = router(&["/...", "/a/:x/...", "/:f.:g", "/a/b"]);
            if let Some(found) = router.route(&path) {
                let client: SocketAddr = "[::1]:1".parse().unwrap();
                let mut headers = HeaderMap::new();
                set(&mut headers, &found, &url, client);
                prop_assert!(headers.len() >= 7);
            }
        }
    }
}
