//! Routes in routefinder's notation, taken apart as Spin does and checked before they are used.

use routefinder::{RouteSpec, Segment};

/// A route that can be matched.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    /// The route with a leading slash and without a trailing one; empty for `/`.
    pub(crate) based: String,
    /// What routefinder matches.
    pub(crate) spec: RouteSpec,
}

impl Pattern {
    /// Reads a route: `/exact`, `/:name/x`, `/under/...`.
    ///
    /// # Errors
    /// Says what is wrong with it. routefinder itself accepts some routes that it panics on when
    /// it matches them; they are refused here.
    pub(crate) fn parse(route: &str) -> Result<Self, String> {
        if let Some(other) = route.chars().find(|c| !c.is_ascii_graphic()) {
            return Err(format!(
                "{other:?} cannot stand in a route: paths arrive percent-encoded"
            ));
        }
        let absolute = match route.starts_with('/') {
            true => route.to_owned(),
            false => format!("/{route}"),
        };
        let based = absolute.strip_suffix('/').unwrap_or(&absolute).to_owned();
        let written = match based.strip_suffix("/...") {
            Some(prefix) => format!("{prefix}/*"),
            None => based.clone(),
        };
        if written.split('/').any(|part| part.ends_with("...")) {
            return Err("`...` stands at the end of a route, after a slash, only".to_owned());
        }
        let spec: RouteSpec = written.parse()?;
        let mut segments = spec.segments().iter().peekable();
        while let Some(segment) = segments.next() {
            match (segment, segments.peek()) {
                (Segment::Wildcard, Some(_)) => {
                    return Err("a wildcard stands at the end of a route only".to_owned());
                }
                (
                    Segment::Param(name),
                    Some(Segment::Exact(_) | Segment::Param(_) | Segment::Wildcard),
                ) => {
                    return Err(format!("`:{name}` must be followed by `/`, `.` or the end"));
                }
                _ => {}
            }
        }
        Ok(Self { based, spec })
    }

    /// The route with its parameters' names left out: two routes of one shape match the same paths.
    pub(crate) fn shape(&self) -> String {
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

    /// A path that the route matches, for a look at whether two routes meet.
    pub(crate) fn example(&self) -> String {
        self.shape().replace([':', '*'], "x")
    }

    /// Whether a path matches.
    pub(crate) fn matches(&self, path: &str) -> bool {
        self.spec.matches(path).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn routes_are_read() {
        for (route, based, shape) in [
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
            let pattern = Pattern::parse(route).unwrap();
            assert_eq!(
                (pattern.based.as_str(), pattern.shape().as_str()),
                (based, shape),
                "{route}"
            );
            assert!(pattern.matches(&pattern.example()), "{route}");
        }
    }

    #[test]
    fn routes_that_cannot_be_matched_are_refused() {
        for route in ["/*/x", "/.../x", "/x/*y", "/:", "/é", "/a b", "/foo..."] {
            assert!(Pattern::parse(route).is_err(), "{route}");
        }
    }

    proptest! {
        /// What is accepted can be matched against anything.
        #[test]
        fn accepted_routes_never_panic(route in "[/:.*ax~%é]{0,12}", path in "[/:.*ax%é]{0,12}") {
            if let Ok(pattern) = Pattern::parse(&route) {
                pattern.matches(&path);
                pattern.matches(&pattern.example());
            }
        }
    }
}
