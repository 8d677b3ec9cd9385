//! Which trigger answers a path, and what the component is told about that.

mod private;
mod readings;
mod routes;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use anyhow::{Context as _, anyhow};
use http::{HeaderMap, HeaderName, HeaderValue};

pub use private::Private;
pub use readings::climbs;
pub use routes::Routes;

use crate::manifest::{Manifest, Route, Target, pattern::Pattern};

/// The routes of an application. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Router {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    public: routefinder::Router<Arc<Entry>>,
    /// For calls by `NAME.spin.internal`, by the component's id.
    chained: BTreeMap<String, Arc<Entry>>,
}

/// A trigger, and its route in the forms that a component is told.
#[derive(Debug)]
struct Entry {
    trigger: usize,
    target: Target,
    /// As it was written.
    raw: String,
    /// With a leading slash, without a trailing one.
    matched: HeaderValue,
    raw_value: HeaderValue,
    /// As it was written, without `/...`.
    component: HeaderValue,
}

impl Entry {
    fn new(trigger: usize, target: Target, raw: &str, based: &str) -> anyhow::Result<Self> {
        let component = raw.strip_suffix("/...").unwrap_or(raw);
        Ok(Self {
            trigger,
            target,
            raw: raw.to_owned(),
            matched: HeaderValue::from_str(based)?,
            raw_value: HeaderValue::from_str(raw)?,
            component: HeaderValue::from_str(component)?,
        })
    }
}

impl Router {
    /// Takes the routes of a manifest.
    ///
    /// # Errors
    /// A route that cannot be matched; there is none in a manifest that was read from text.
    pub fn new(manifest: &Manifest) -> anyhow::Result<Self> {
        let mut public = routefinder::Router::new();
        let mut chained = BTreeMap::new();
        for (index, trigger) in manifest.triggers.iter().enumerate() {
            if let Target::Component(id) = &trigger.target
                && !chained.contains_key(id)
            {
                let entry = Entry::new(index, trigger.target.clone(), "/...", "/...")?;
                chained.insert(id.clone(), Arc::new(entry));
            }
            let Route::Path(route) = &trigger.route else {
                continue;
            };
            let wrong = || format!("trigger.http[{index}].route: {route:?}");
            let pattern = Pattern::parse(route)
                .map_err(|reason| anyhow!(reason))
                .with_context(wrong)?;
            let entry = Entry::new(index, trigger.target.clone(), route, &pattern.based)
                .with_context(wrong)?;
            public.add(pattern.spec, Arc::new(entry))?;
        }
        Ok(Self {
            inner: Arc::new(Inner { public, chained }),
        })
    }

    /// The trigger that answers a path (without its query), the most specific first: exact parts
    /// before parameters before the wildcard. The path is taken as it came, escapes and all;
    /// slashes at its ends do not count.
    pub fn route(&self, path: &str) -> Option<Match> {
        let found = self.inner.public.best_match(path)?;
        let captures = found.captures();
        // Spin keeps the slashes around the wildcard's part, which routefinder leaves out.
        let path_info = match captures.wildcard() {
            None => String::new(),
            Some(rest) => {
                let before = if rest.is_empty() { "" } else { "/" };
                let after = if path.ends_with('/') { "/" } else { "" };
                format!("{before}{rest}{after}")
            }
        };
        let captured = captures
            .iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        Some(Match {
            entry: Arc::clone(found.handler()),
            path_info,
            captures: captured.collect(),
        })
    }

    /// The match for a call by `NAME.spin.internal`: the component, as if its route were `/...`.
    /// None when no trigger, private ones included, names the component.
    pub fn chain(&self, component: &str, path: &str) -> Option<Match> {
        let entry = Arc::clone(self.inner.chained.get(component)?);
        Some(Match {
            entry,
            path_info: path.to_owned(),
            captures: Vec::new(),
        })
    }
}

/// What a path led to.
#[derive(Clone, Debug)]
pub struct Match {
    entry: Arc<Entry>,
    path_info: String,
    captures: Vec<(String, String)>,
}

impl Match {
    /// The trigger's place in [`Manifest::triggers`].
    pub fn trigger(&self) -> usize {
        self.entry.trigger
    }

    /// What answers.
    pub fn target(&self) -> &Target {
        &self.entry.target
    }

    /// The id of the component that answers, if it is one.
    pub fn component(&self) -> Option<&str> {
        match &self.entry.target {
            Target::Component(id) => Some(id),
            Target::Static { .. } => None,
        }
    }

    /// The route as the manifest has it.
    pub fn route(&self) -> &str {
        &self.entry.raw
    }

    /// What the wildcard stands for, with its slashes: `/b/` for `/a/b/` at `/a/...`, nothing for
    /// `/a`. Empty for a route without one.
    pub fn path_info(&self) -> &str {
        &self.path_info
    }

    /// What the parameters stand for: `("id", "7")` for `/a/7` at `/a/:id`.
    pub fn captures(&self) -> impl Iterator<Item = (&str, &str)> {
        self.captures
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// The prefix of the headers that only the host sets.
const PREFIX: &str = "spin-";

/// The headers that tell a component how it was reached, as Spin sets them. `full_url` is
/// `scheme://host/path?query`, the host as the client named it. What came from the client under
/// these names is removed first, with [`strip_spin_headers`].
pub fn spin_headers(found: &Match, full_url: &str, client: SocketAddr) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(7 + found.captures.len());
    let mut set = |name, value| headers.insert(HeaderName::from_static(name), value);
    set("spin-path-info", header_value(&found.path_info));
    set("spin-full-url", header_value(full_url));
    set("spin-matched-route", found.entry.matched.clone());
    set("spin-base-path", HeaderValue::from_static("/"));
    set("spin-raw-component-route", found.entry.raw_value.clone());
    set("spin-component-route", found.entry.component.clone());
    set("spin-client-addr", header_value(&client.to_string()));
    for (name, value) in &found.captures {
        let name = format!(
            "spin-path-match-{}",
            name.replace('_', "-").to_ascii_lowercase()
        );
        // A parameter whose name cannot be a header's is left out, as in Spin.
        if let Ok(name) = HeaderName::try_from(name) {
            headers.insert(name, header_value(value));
        }
    }
    headers
}

/// Removes every header that only the host may set, so that a client cannot pretend to be it.
pub fn strip_spin_headers(headers: &mut HeaderMap) {
    let forged: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with(PREFIX))
        .cloned()
        .collect();
    for name in forged {
        headers.remove(name);
    }
}

/// A header's value, with what cannot stand in one percent-encoded.
fn header_value(text: &str) -> HeaderValue {
    if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
        return value;
    }
    let escape = |byte: u8| match byte.is_ascii_control() {
        true => format!("%{byte:02X}").into_bytes(),
        false => vec![byte],
    };
    let escaped: Vec<u8> = text.bytes().flat_map(escape).collect();
    HeaderValue::from_bytes(&escaped).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A router whose triggers are static answers, or components by their id.
    fn router(routes: &[&str]) -> Router {
        let trigger =
            |route: &&str| format!("[[trigger.http]]\nroute = {route:?}\nstatic_response = {{}}\n");
        let triggers: String = routes.iter().map(trigger).collect();
        let text = format!("spin_manifest_version = 2\napplication.name = \"test\"\n{triggers}");
        Router::new(&Manifest::parse(&text, "/app/spin.toml").unwrap()).unwrap()
    }

    #[track_caller]
    fn leads(routes: &[&str], path: &str, expected: Option<&str>) {
        let found = router(routes).route(path);
        assert_eq!(
            found.as_ref().map(Match::route),
            expected,
            "{path} in {routes:?}"
        );
    }

    #[test]
    fn the_most_specific_route_wins() {
        let routes = [
            "/...",
            "/one/...",
            "/one/two/...",
            "/one/:x/three",
            "/one/two",
            "/",
        ];
        for routes in [routes.to_vec(), routes.iter().rev().copied().collect()] {
            leads(&routes, "/", Some("/"));
            leads(&routes, "/x", Some("/..."));
            leads(&routes, "/one", Some("/one/..."));
            leads(&routes, "/one/x", Some("/one/..."));
            leads(&routes, "/one/two", Some("/one/two"));
            leads(&routes, "/one/two/", Some("/one/two"));
            leads(&routes, "/one/two/x", Some("/one/two/..."));
            leads(&routes, "/one/x/three", Some("/one/:x/three"));
        }
    }

    #[test]
    fn other_paths_lead_nowhere() {
        leads(&["/foo"], "/foobar", None);
        leads(&["/foo"], "/foo/bar", None);
        leads(&["/foo"], "/Foo", None);
        leads(&["/foo"], "/%66oo", None);
        leads(&["/foo/..."], "/foobar", None);
        leads(&["/foo/..."], "/", None);
        leads(&["/:x"], "/", None);
    }

    #[test]
    fn slashes_at_the_ends_do_not_count() {
        for path in ["/foo", "/foo/", "//foo", "///foo//", "foo"] {
            leads(&["/foo"], path, Some("/foo"));
        }
    }

    #[test]
    fn path_info_keeps_its_slashes() {
        let router = router(&["/test/...", "/exact/:id"]);
        for (path, info) in [
            ("/test", ""),
            ("/test/", "/"),
            ("/test/a", "/a"),
            ("/test/a/", "/a/"),
            ("/test/%61?", "/%61?"),
            ("/exact/1", ""),
        ] {
            assert_eq!(router.route(path).unwrap().path_info(), info, "{path}");
        }
    }

    #[test]
    fn private_routes_are_reached_by_name_only() {
        let text = "spin_manifest_version = 2\napplication.name = \"test\"\n\
            trigger.http = [{ route = { private = true }, component = \"hidden\" }, { route = \"/a\", component = \"shown\" }]\n\
            component = { hidden = { source = \"a\" }, shown = { source = \"b\" }, idle = { source = \"c\" } }\n";
        let router = Router::new(&Manifest::parse(text, "/app/spin.toml").unwrap()).unwrap();
        assert!(router.route("/").is_none());
        assert_eq!(router.route("/a").unwrap().component(), Some("shown"));
        let found = router.chain("hidden", "/x/y").unwrap();
        assert_eq!(
            (found.component(), found.trigger(), found.path_info()),
            (Some("hidden"), 0, "/x/y")
        );
        assert_eq!(router.chain("shown", "/").unwrap().route(), "/...");
        assert!(router.chain("idle", "/").is_none());
        assert!(router.chain("none", "/").is_none());
    }

    #[test]
    fn components_are_told_what_spin_tells_them() {
        let router = router(&["/foo/:user_ID/...", "/", "/end/"]);
        let client: SocketAddr = "127.0.0.1:8777".parse().unwrap();
        let told = |path: &str| {
            let found = router.route(path).unwrap();
            let headers = spin_headers(&found, &format!("https://example.com{path}?k=v"), client);
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
        assert_eq!(told("/foo/42/bar"), deep);
        let root = expected(&[
            ("spin-full-url", "https://example.com/?k=v"),
            ("spin-path-info", ""),
            ("spin-matched-route", ""),
            ("spin-raw-component-route", "/"),
            ("spin-component-route", "/"),
        ]);
        assert_eq!(told("/"), root);
        let end = told("/end");
        assert_eq!(
            (
                end["spin-matched-route"].as_str(),
                end["spin-component-route"].as_str()
            ),
            ("/end", "/end/")
        );
    }

    #[test]
    fn forged_headers_are_removed() {
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
        strip_spin_headers(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["spinach", "x-spin-y"]);
    }

    #[test]
    fn control_characters_do_not_end_a_header() {
        assert_eq!(header_value("a\u{7f}\r\nb"), "a%7F%0D%0Ab");
        assert_eq!(header_value("/é"), "/é");
    }

    proptest! {
        #[test]
        fn no_path_panics(path in "[/:.*a%é\\u{0}-\\u{7f}]{0,40}", url in ".{0,40}") {
            let router = router(&["/...", "/a/:x/...", "/:f.:g", "/a/b"]);
            if let Some(found) = router.route(&path) {
                let client: SocketAddr = "[::1]:1".parse().unwrap();
                prop_assert!(spin_headers(&found, &url, client).len() >= 7);
            }
        }
    }
}
