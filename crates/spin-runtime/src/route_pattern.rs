//! Routes in routefinder's notation, split as Spin does and validated before they are used.

use routefinder::{RouteSpec, Segment};

/// A validated route: `/exact`, `/:name/x`, `/prefix/...`.
#[derive(Clone, Debug)]
pub struct RoutePattern {
    normalized: String,
    spec: RouteSpec,
}

impl RoutePattern {
    /// Parses a route.
    ///
    /// # Errors
    /// Returns the reason why the route is invalid. Some routes that routefinder accepts, but
    /// panics on when it matches a path, are invalid here.
    pub fn parse(route: &str) -> Result<Self, String> {
        if let Some(other) = route.chars().find(|c| !c.is_ascii_graphic()) {
            return Err(format!(
                "{other:?} cannot be part of a route: paths are percent-encoded"
            ));
        }
        let absolute = if route.starts_with('/') {
            route.to_owned()
        } else {
            format!("/{route}")
        };
        let normalized = absolute.strip_suffix('/').unwrap_or(&absolute).to_owned();
        let spec = match normalized.strip_suffix("/...") {
            Some(prefix) => format!("{prefix}/*"),
            None => normalized.clone(),
        };
        if spec.split('/').any(|part| part.ends_with("...")) {
            return Err("`...` is only allowed as the last segment".to_owned());
        }
        let is_named = |part: &str| part.len() > 1 && part.starts_with('*');
        if spec.split('/').any(is_named) {
            return Err("a wildcard has no name: write `/...` at the end".to_owned());
        }
        let spec: RouteSpec = spec.parse()?;
        let mut segments = spec.segments().iter().peekable();
        while let Some(segment) = segments.next() {
            match (segment, segments.peek()) {
                (Segment::Wildcard, Some(_)) => {
                    return Err("a wildcard is only allowed as the last segment".to_owned());
                }
                (
                    Segment::Param(name),
                    Some(Segment::Exact(_) | Segment::Param(_) | Segment::Wildcard),
                ) => {
                    return Err(format!(
                        "`:{name}` must be followed by `/`, `.` or the end of the route"
                    ));
                }
                _ => {}
            }
        }
        Ok(Self { normalized, spec })
    }

    /// Returns the route with a leading slash and without a trailing one; empty for `/`.
    pub fn normalized(&self) -> &str {
        &self.normalized
    }

    /// Returns the route without the names of its parameters.
    ///
    /// Two routes of the same shape match the same paths.
    pub fn shape(&self) -> String {
        let mut shape = String::from("/");
        for segment in self.spec.segments() {
            match segment {
                Segment::Slash => shape.push('/'),
                Segment::Dot => shape.push('.'),
                Segment::Exact(text) => shape.push_str(text),
                Segment::Param(_) => shape.push(':'),
                Segment::Wildcard => shape.push('*'),
            }
        }
        shape
    }

    /// Returns whether the route matches a path.
    pub fn matches(&self, path: &str) -> bool {
        self.spec.matches(path).is_some()
    }

    /// Returns whether a path is likely to match both routes.
    ///
    /// This is an approximation for warnings: it only tries one path of each route.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.matches(&other.example()) || other.matches(&self.example())
    }

    /// Returns a path that the route matches.
    fn example(&self) -> String {
        self.shape().replace([':', '*'], "x")
    }

    pub(crate) fn into_spec(self) -> RouteSpec {
        self.spec
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn valid_routes_are_normalized() {
        for (route, normalized, shape) in [
            ("/", "", "/"),
            ("", "", "/"),
            ("foo", "/foo", "/foo"),
            ("/foo/", "/foo", "/foo"),
            ("/...", "/...", "/*"),
            ("/.../", "/...", "/*"),
            ("/foo/...", "/foo/...", "/foo/*"),
            ("/foo/*", "/foo/*", "/foo/*"),
            ("/:a/x/:b", "/:a/x/:b", "/:/x/:"),
            ("/:file.:ext", "/:file.:ext", "/:.:"),
        ] {
            let pattern = RoutePattern::parse(route).unwrap();
            assert_eq!(
                (pattern.normalized(), pattern.shape().as_str()),
                (normalized, shape),
                "{route}"
            );
            assert!(pattern.matches(&pattern.example()), "{route}");
        }
    }

    #[test]
    fn routes_that_cannot_be_matched_are_invalid() {
        for route in ["/*/x", "/.../x", "/x/*y", "/:", "/é", "/a b", "/foo..."] {
            assert!(RoutePattern::parse(route).is_err(), "{route}");
        }
    }

    proptest! {
        #[test]
        fn valid_routes_match_without_panicking(route in "[/:.*ax~%é]{0,12}", path in "[/:.*ax%é]{0,12}") {
            if let Ok(pattern) = RoutePattern::parse(&route) {
                pattern.matches(&path);
                pattern.matches(&pattern.example());
            }
        }
    }
}
