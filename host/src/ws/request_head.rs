//! The head of an upgrade request, in a compact form that is kept while the WebSocket is open.
//!
//! hyper's header values are slices of its read buffer, and a `HeaderMap` has spare capacity:
//! keeping either would cost an idle socket kilobytes.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Uri, uri::PathAndQuery};

/// A request target and headers, without spare capacity.
#[derive(Debug)]
pub(super) struct RequestHead {
    target: PathAndQuery,
    /// Each header's name, and where its value ends in `values`.
    names: Box<[(HeaderName, u32)]>,
    values: Bytes,
}

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
}
