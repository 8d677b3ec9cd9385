//! Finds the trigger that serves a path.

mod path_variants;
mod private_routes;
mod routes;

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context as _, anyhow};
use http::HeaderValue;

pub use path_variants::escapes_root;
pub use private_routes::PrivateRoutes;
pub use routes::Routes;

use crate::{
    manifest::{Manifest, Route, Target},
    route_pattern::RoutePattern,
};

/// The routes of an application. Clones are cheap.
#[derive(Clone, Debug)]
pub(crate) struct Router {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    public: routefinder::Router<Arc<Entry>>,
    /// The entries for service chaining, by component id.
    service_chaining: BTreeMap<String, Arc<Entry>>,
}

/// A target and its route, in the forms that Spin's headers need.
#[derive(Debug)]
struct Entry {
    target: Target,
    /// The route as written.
    raw: String,
    raw_header: HeaderValue,
    /// The route with a leading slash and without a trailing one.
    normalized_header: HeaderValue,
    /// The route as written, without `/...`.
    component_header: HeaderValue,
}

impl Entry {
    fn new(target: Target, raw: &str, normalized: &str) -> anyhow::Result<Self> {
        let component = raw.strip_suffix("/...").unwrap_or(raw);
        Ok(Self {
            target,
            raw: raw.to_owned(),
            raw_header: HeaderValue::from_str(raw)?,
            normalized_header: HeaderValue::from_str(normalized)?,
            component_header: HeaderValue::from_str(component)?,
        })
    }
}

impl Router {
    /// Creates a router for the routes of a manifest.
    ///
    /// # Errors
    /// Fails if a route is invalid, which is not possible for a manifest that was parsed.
    pub(crate) fn new(manifest: &Manifest) -> anyhow::Result<Self> {
        let mut public = routefinder::Router::new();
        let mut service_chaining = BTreeMap::new();
        for (index, trigger) in manifest.triggers.iter().enumerate() {
            if let Target::Component(id) = &trigger.target
                && !service_chaining.contains_key(id)
            {
                let entry = Entry::new(trigger.target.clone(), "/...", "/...")?;
                service_chaining.insert(id.clone(), Arc::new(entry));
            }
            let Route::Path(route) = &trigger.route else {
                continue;
            };
            let invalid = || format!("trigger.http[{index}].route: {route:?}");
            let pattern = RoutePattern::parse(route)
                .map_err(|reason| anyhow!(reason))
                .with_context(invalid)?;
            let entry = Entry::new(trigger.target.clone(), route, pattern.normalized())
                .with_context(invalid)?;
            public.add(pattern.into_spec(), Arc::new(entry))?;
        }
        let inner = Inner {
            public,
            service_chaining,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Returns the most specific match for a path without its query.
    ///
    /// Exact segments precede parameters, which precede wildcards. The path is not decoded, and
    /// slashes at its start and end are ignored.
    pub(crate) fn route(&self, path: &str) -> Option<Match> {
        let found = self.inner.public.best_match(path)?;
        let captures = found.captures();
        // Spin keeps the slashes around the wildcard, which routefinder omits.
        let path_info = match captures.wildcard() {
            None => String::new(),
            Some(rest) => {
                let before = if rest.is_empty() { "" } else { "/" };
                let after = if path.ends_with('/') { "/" } else { "" };
                format!("{before}{rest}{after}")
            }
        };
        let captures = captures
            .iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Some(Match {
            entry: Arc::clone(found.handler()),
            path_info,
            captures,
        })
    }

    /// Returns the match for a service chaining request: the component, as if its route were `/...`.
    ///
    /// Returns `None` if no trigger names the component.
    pub(crate) fn service_chain(&self, component: &str, path: &str) -> Option<Match> {
        let entry = Arc::clone(self.inner.service_chaining.get(component)?);
        Some(Match {
            entry,
            path_info: path.to_owned(),
            captures: Vec::new(),
        })
    }
}

/// The route and the target of a request.
#[derive(Clone, Debug)]
pub(crate) struct Match {
    entry: Arc<Entry>,
    path_info: String,
    captures: Vec<(String, String)>,
}

impl Match {
    pub(crate) fn target(&self) -> &Target {
        &self.entry.target
    }

    /// Returns the route as written in the manifest.
    pub(crate) fn route(&self) -> &str {
        &self.entry.raw
    }

    /// Returns the route as written, as a header value.
    pub(crate) fn raw_header(&self) -> HeaderValue {
        self.entry.raw_header.clone()
    }

    /// Returns the route with a leading slash and without a trailing one.
    pub(crate) fn normalized_header(&self) -> HeaderValue {
        self.entry.normalized_header.clone()
    }

    /// Returns the route as written, without `/...`.
    pub(crate) fn component_header(&self) -> HeaderValue {
        self.entry.component_header.clone()
    }

    /// Returns what the wildcard matched, including its slashes: `/b/` for `/a/b/` at `/a/...`, an
    /// empty string for `/a`. Empty for a route without a wildcard.
    pub(crate) fn path_info(&self) -> &str {
        &self.path_info
    }

    /// Returns what the parameters matched: `("id", "7")` for `/a/7` at `/a/:id`.
    pub(crate) fn captures(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.captures
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::ManifestUse;
    use proptest::prelude::*;

    /// Creates a router whose triggers are static responses.
    fn router(routes: &[&str]) -> Router {
        let trigger =
            |route: &&str| format!("[[trigger.http]]\nroute = {route:?}\nstatic_response = {{}}\n");
        let triggers: String = routes.iter().map(trigger).collect();
        let text = format!("spin_manifest_version = 2\napplication.name = \"test\"\n{triggers}");
        Router::new(&Manifest::parse(&text, "/app/spin.toml", ManifestUse::Embedded).unwrap())
            .unwrap()
    }

    #[track_caller]
    fn assert_route(routes: &[&str], path: &str, expected: Option<&str>) {
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
            assert_route(&routes, "/", Some("/"));
            assert_route(&routes, "/x", Some("/..."));
            assert_route(&routes, "/one", Some("/one/..."));
            assert_route(&routes, "/one/x", Some("/one/..."));
            assert_route(&routes, "/one/two", Some("/one/two"));
            assert_route(&routes, "/one/two/", Some("/one/two"));
            assert_route(&routes, "/one/two/x", Some("/one/two/..."));
            assert_route(&routes, "/one/x/three", Some("/one/:x/three"));
        }
    }

    #[test]
    fn other_paths_do_not_match() {
        assert_route(&["/foo"], "/foobar", None);
        assert_route(&["/foo"], "/foo/bar", None);
        assert_route(&["/foo"], "/Foo", None);
        assert_route(&["/foo"], "/%66oo", None);
        assert_route(&["/foo/..."], "/foobar", None);
        assert_route(&["/foo/..."], "/", None);
        assert_route(&["/:x"], "/", None);
    }

    #[test]
    fn slashes_at_the_ends_are_ignored() {
        for path in ["/foo", "/foo/", "//foo", "///foo//", "foo"] {
            assert_route(&["/foo"], path, Some("/foo"));
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

    fn component(found: &Match) -> Option<&str> {
        match found.target() {
            Target::Component(id) => Some(id),
            Target::Static { .. } => None,
        }
    }

    #[test]
    fn private_routes_are_reachable_by_service_chaining_only() {
        let text = "spin_manifest_version = 2\napplication.name = \"test\"\n\
            trigger.http = [{ route = { private = true }, component = \"hidden\" }, { route = \"/a\", component = \"shown\" }]\n\
            component = { hidden = { source = \"a\" }, shown = { source = \"b\" }, idle = { source = \"c\" } }\n";
        let router =
            Router::new(&Manifest::parse(text, "/app/spin.toml", ManifestUse::Embedded).unwrap())
                .unwrap();
        assert!(router.route("/").is_none());
        assert_eq!(component(&router.route("/a").unwrap()), Some("shown"));
        let found = router.service_chain("hidden", "/x/y").unwrap();
        assert_eq!(
            (component(&found), found.path_info()),
            (Some("hidden"), "/x/y")
        );
        assert_eq!(router.service_chain("shown", "/").unwrap().route(), "/...");
        assert!(router.service_chain("idle", "/").is_none());
        assert!(router.service_chain("none", "/").is_none());
    }

    proptest! {
        #[test]
        fn routing_never_panics(path in "[/:.*a%é\\u{0}-\\u{7f}]{0,40}") {
            let router = router(&["/...", "/a/:x/...", "/:f.:g", "/a/b"]);
            router.route(&path);
        }
    }
}
