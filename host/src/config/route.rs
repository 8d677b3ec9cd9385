//! Routes in the host's table.

use spin_runtime::{RoutePattern, manifest::reader::Value};

/// Reads an entry of `private`.
pub(super) fn read_private(value: &Value<'_>) -> Option<String> {
    read(value, "/internal/...").map(|(route, _)| route)
}

/// Reads a route and returns it as it is written and parsed.
pub(super) fn read(value: &Value<'_>, example: &str) -> Option<(String, RoutePattern)> {
    let route = value.string()?;
    if !route.starts_with('/') {
        value.error(format!(
            "expected a route that starts with `/`, such as {example:?}, found {route:?}"
        ));
        return None;
    }
    match RoutePattern::parse(route) {
        Ok(pattern) => Some((route.to_owned(), pattern)),
        Err(reason) => {
            value.error(format!("invalid route {route:?}: {reason}"));
            None
        }
    }
}
