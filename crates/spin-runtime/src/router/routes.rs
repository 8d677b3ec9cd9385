//! Something found by a path, where there is no more to it than that.

use crate::manifest::pattern::Pattern;

/// Values by routes in routefinder's notation.
#[derive(Debug)]
pub struct Routes<T> {
    inner: routefinder::Router<T>,
}

impl<T> Routes<T> {
    /// Takes each route with its value.
    ///
    /// # Errors
    /// A route that cannot be matched; there is none in a manifest that was read from text.
    pub fn new<'r>(routes: impl IntoIterator<Item = (&'r str, T)>) -> anyhow::Result<Self> {
        let mut inner = routefinder::Router::new();
        for (route, value) in routes {
            let pattern = Pattern::parse(route)
                .map_err(|reason| anyhow::anyhow!("route {route:?}: {reason}"))?;
            inner.add(pattern.spec, value)?;
        }
        Ok(Self { inner })
    }

    /// What stands at the most specific route that matches a path, without its query, as it came.
    pub fn find(&self, path: &str) -> Option<&T> {
        let found = self.inner.best_match(path)?;
        Some(found.handler())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_route_is_found() {
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
