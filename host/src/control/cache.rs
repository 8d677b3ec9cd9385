//! Reports on the cache of this host, and purges it.

use http::{Method, Request, Response, StatusCode};
use serde_json::json;
use spin_runtime::backend::Body;
use tracing::info;
use url::form_urlencoded;

use super::json_response;
use crate::{
    cache::{Cache, Purge},
    http::error_response::text_response,
    state::Services,
};

/// Reports the size of the cache, or removes responses from it if the method of the request is
/// DELETE.
pub(super) fn respond<B>(services: &Services, request: &Request<B>) -> Response<Body> {
    let Some(cache) = services.cache.get() else {
        return text_response(
            StatusCode::NOT_FOUND,
            "no cache: add [application.tool.socket-host.cache] to the manifest",
        );
    };
    if request.method() == Method::DELETE {
        purge(&cache, request.uri().query().unwrap_or_default())
    } else {
        let (entries, bytes) = cache.size();
        json_response(&json!({"entries": entries, "bytes": bytes}))
    }
}

/// Removes what a query selects.
fn purge(cache: &Cache, query: &str) -> Response<Body> {
    let purge = match parse(query) {
        Ok(purge) => purge,
        Err(problem) => return text_response(StatusCode::BAD_REQUEST, &problem),
    };
    let purged = cache.purge(&purge);
    info!(?purge, purged, "cache purged");
    json_response(&json!({"purged": purged}))
}

/// Parses a query. A parameter that is unknown is an error: ignoring it would purge everything.
fn parse(query: &str) -> Result<Purge, String> {
    let mut parameters = form_urlencoded::parse(query.as_bytes());
    let purge = match parameters.next() {
        None => Purge::All,
        Some((name, path)) => {
            let of_path = match &*name {
                "path" => Purge::Path,
                "prefix" => Purge::Prefix,
                _ => return Err(format!("{name}: expected `path` or `prefix`")),
            };
            if !path.starts_with('/') {
                return Err(format!("{name}: expected a path that starts with `/`"));
            }
            of_path(path.into_owned())
        }
    };
    match parameters.next() {
        None => Ok(purge),
        Some((name, _)) => Err(format!("{name}: expected only one of `path` and `prefix`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_selects_what_is_purged() {
        let path = |path: &str| Ok(Purge::Path(path.to_owned()));
        assert_eq!(parse(""), Ok(Purge::All));
        assert_eq!(parse("path=/a.js"), path("/a.js"));
        assert_eq!(parse("path=%2Fa%20b"), path("/a b"));
        let prefix = Purge::Prefix("/static/".to_owned());
        assert_eq!(parse("prefix=/static/"), Ok(prefix));
        for (query, problem) in [
            ("pth=/a", "pth: expected `path` or `prefix`"),
            ("path=", "path: expected a path that starts with `/`"),
            (
                "prefix=static",
                "prefix: expected a path that starts with `/`",
            ),
            (
                "path=/a&prefix=/b",
                "prefix: expected only one of `path` and `prefix`",
            ),
        ] {
            assert_eq!(parse(query), Err(problem.to_owned()), "{query}");
        }
    }
}
