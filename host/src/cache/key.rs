//! The keys of the cache: the URLs of requests.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, header, request::Parts, uri::Scheme};
use spin_runtime::backend::Caller;

/// The URL of a request, with a normalized authority. Clones share it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key(Arc<str>);

impl Key {
    /// Returns the key of a request in origin form. Returns `None` if a client has not sent it, or if
    /// its host is missing.
    pub(super) fn of(request: &Parts) -> Option<Self> {
        let Some(Caller::Client(client)) = request.extensions.get() else {
            return None;
        };
        let scheme = client.scheme();
        let authority = authority(&request.headers, &scheme)?;
        let target = request.uri.path_and_query()?.as_str();
        let scheme = scheme.as_str();
        let mut url = String::with_capacity(scheme.len() + authority.len() + target.len() + 3);
        url.push_str(scheme);
        url.push_str("://");
        let start = url.len();
        url.push_str(authority);
        url[start..].make_ascii_lowercase();
        url.push_str(target);
        Some(Self(url.into()))
    }

    /// Returns the path, without the query.
    pub(super) fn path(&self) -> &str {
        let (_, url) = self.0.split_once("://").unwrap_or(("", &self.0));
        let target = url.find('/').map_or("", |start| &url[start..]);
        target.split('?').next().unwrap_or_default()
    }

    /// Returns the URL.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Returns the host of a request, without the scheme's default port.
fn authority<'h>(headers: &'h HeaderMap, scheme: &Scheme) -> Option<&'h str> {
    let host = headers.get(header::HOST).map(HeaderValue::to_str)?.ok()?;
    let default_port = if *scheme == Scheme::HTTPS {
        ":443"
    } else {
        ":80"
    };
    Some(host.strip_suffix(default_port).unwrap_or(host))
}

#[cfg(test)]
mod tests {
    use http::Request;
    use spin_runtime::backend::Client;

    use super::*;

    fn key_of(request: http::Result<Request<()>>) -> Option<Key> {
        let (request, ()) = request.expect("a valid request").into_parts();
        Key::of(&request)
    }

    fn key(target: &str, host: &str, is_secure: bool) -> Key {
        let client = Client {
            is_secure,
            ..Client::plain(([192, 0, 2, 7], 4000).into())
        };
        let request = Request::get(target).header(header::HOST, host);
        let request = request.extension(Caller::Client(client)).body(());
        key_of(request).expect("a key")
    }

    #[test]
    fn the_key_is_the_url() {
        for (target, host, is_secure, expected) in [
            ("/a?b=C", "Example.com", false, "http://example.com/a?b=C"),
            ("/A", "example.com:80", false, "http://example.com/A"),
            ("/", "example.com:80", true, "https://example.com:80/"),
            ("/", "EXAMPLE.com:443", true, "https://example.com/"),
            ("/", "[::1]:3000", false, "http://[::1]:3000/"),
        ] {
            assert_eq!(&*key(target, host, is_secure).0, expected);
        }
    }

    #[test]
    fn the_path_has_neither_authority_nor_query() {
        for (target, path) in [("/a/b?c=/d", "/a/b"), ("/", "/"), ("//x", "//x")] {
            assert_eq!(key(target, "a:1", false).path(), path);
        }
    }

    #[test]
    fn requests_of_the_host_have_no_key() {
        let request = Request::get("/").header(header::HOST, "a");
        let request = request.extension(Caller::Host).body(());
        assert_eq!(key_of(request), None);
        let request = Request::get("/")
            .extension(Caller::Client(Client::plain(([192, 0, 2, 7], 4000).into())));
        assert_eq!(key_of(request.body(())), None);
    }
}
