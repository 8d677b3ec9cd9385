//! A lookup table by route.

use crate::route_pattern::RoutePattern;

/// Values by route, in routefinder's notation.
#[derive(Debug)]
pub struct Routes<T> {
    inner: routefinder::Router<T>,
}

impl<T> Routes<T> {
    /// Creates a table from routes and their values.
    ///
    /// # Errors
    /// Fails if a route is invalid, which is not possible for a manifest that was parsed.
    pub fn new<'r>(routes: impl IntoIterator<Item = (&'r str, T)>) -> anyhow::Result<Self> {
        let mut inner = routefinder::Router::new();
        for (route, value) in routes {
            let pattern = RoutePattern::parse(route)
                .map_err(|reason| anyhow::anyhow!("invalid route {route:?}: {reason}"))?;
            inner.add(pattern.into_spec(), value)?;
        }
        Ok(Self { inner })
    }

    /// Returns the value of the most specific route that matches a path without its query. The path
    /// is not decoded.
    pub fn find(&self, path: &str) -> Option<&T> {
        let found = self.inner.best_match(path)?;
        Some(found.handler())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_route_wins() {
        let routes = Routes::new([("/a/...", 1), ("/a/b", 2), ("/:x", 3)]).unwrap();
        for (path, value) in [
            ("/a/b", Some(&2)),
            ("/a/c/d", Some(&1)),
            ("/z", Some(&3)),
            ("/", None),
            ("/z/z", None),
        ] {
            assert_eq!(routes.find(path), value, "{path}");
        }
        assert!(Routes::new([("/*/x", 0)]).is_err());
    }
}
