//! The head of an upgrade request, in a compact form that is kept while the WebSocket is open.
//!
//! hyper's header values are slices of its read buffer, and a `HeaderMap` has spare capacity:
//! keeping either would cost an idle socket kilobytes.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Uri, uri::PathAndQuery};

use crate::http::headers::remove_headers;

/// A request target and headers, without spare capacity.
#[derive(Debug)]
pub(super) struct RequestHead {
    target: PathAndQuery,
    /// Each header's name, and where its value ends in `values`.
    names: Box<[(HeaderName, u32)]>,
    values: Bytes,
}

/// Headers about caches and the page, which do not concern messages of the client.
const BROWSER_HEADERS: [&str; 5] = [
    "cache-control",
    "pragma",
    "priority",
    "upgrade-insecure-requests",
    "dnt",
];
const BROWSER_PREFIXES: [&str; 3] = ["sec-fetch-", "sec-ch-", "sec-gpc"];

impl RequestHead {
    /// Copies a request's target and headers.
    pub(super) fn new(uri: &Uri, headers: &HeaderMap) -> Self {
        let target = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let target = PathAndQuery::from_maybe_shared(Bytes::copy_from_slice(target.as_bytes()))
            .unwrap_or_else(|_| PathAndQuery::from_static("/"));
        let mut values = BytesMut::with_capacity(headers.values().map(HeaderValue::len).sum());
        let names = headers
            .iter()
            .map(|(name, value)| {
                values.extend_from_slice(value.as_bytes());
                // hyper limits a request's head to far less than 4 GiB.
                (name.clone(), values.len() as u32)
            })
            .collect();
        Self {
            target,
            names,
            values: values.freeze(),
        }
    }

    /// Returns the head without the headers that only describe how a browser made the request.
    ///
    /// The backend gets them once, with OPEN. Sending them with each event would multiply what a
    /// client sent once.
    pub(super) fn without_browser_headers(&self) -> Self {
        let mut headers = self.headers(0);
        remove_headers(&mut headers, |name| {
            let name = name.as_str();
            BROWSER_HEADERS.contains(&name)
                || BROWSER_PREFIXES
                    .iter()
                    .any(|prefix| name.starts_with(prefix))
        });
        Self::new(&self.uri(), &headers)
    }

    /// Returns the head with the target alone.
    pub(super) fn without_headers(&self) -> Self {
        Self::new(&self.uri(), &HeaderMap::new())
    }

    /// Returns the path and query, as a URI in origin form.
    pub(super) fn uri(&self) -> Uri {
        Uri::from(self.target.clone())
    }

    /// Returns the path.
    pub(super) fn path(&self) -> &str {
        self.target.path()
    }

    /// Returns the headers, with capacity for `additional` ones.
    pub(super) fn headers(&self, additional: usize) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(self.names.len() + additional);
        let mut start = 0;
        for (name, end) in &self.names {
            let end = *end as usize;
            // Never fails: the values come from a `HeaderMap`.
            if let Ok(value) = HeaderValue::from_maybe_shared(self.values.slice(start..end)) {
                headers.append(name, value);
            }
            start = end;
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_and_headers_are_preserved() {
        let mut headers = HeaderMap::new();
        headers.append("host", HeaderValue::from_static("example.com"));
        headers.append("cookie", HeaderValue::from_static("a=1"));
        headers.append("cookie", HeaderValue::from_static("b=2"));
        headers.append("x-empty", HeaderValue::from_static(""));
        let head = RequestHead::new(&Uri::from_static("/api/ws?room=1"), &headers);
        assert_eq!(head.headers(3), headers);
        assert_eq!(head.uri(), Uri::from_static("/api/ws?room=1"));
        assert_eq!(head.path(), "/api/ws");
    }

    #[test]
    fn headers_about_the_page_are_sent_once() {
        let mut headers = HeaderMap::new();
        for name in [
            "host",
            "origin",
            "cookie",
            "authorization",
            "user-agent",
            "accept-language",
            "x-own",
            "cache-control",
            "pragma",
            "sec-fetch-site",
            "sec-ch-ua-platform",
            "sec-gpc",
        ] {
            headers.insert(name, HeaderValue::from_static("1"));
        }
        let head = RequestHead::new(&Uri::from_static("/ws?a"), &headers);
        let later = head.without_browser_headers();
        assert_eq!(later.uri(), head.uri());
        let later = later.headers(0);
        let mut names: Vec<_> = later.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "accept-language",
                "authorization",
                "cookie",
                "host",
                "origin",
                "user-agent",
                "x-own"
            ]
        );
    }
}
