//! The head of a WebSocket's opening request, kept small for as long as it is open.
//!
//! hyper's header values are slices of its read buffer, and a `HeaderMap` has
//! room to grow: keeping either would cost an idle socket kilobytes.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Uri, uri::PathAndQuery};

/// See the module's words.
#[derive(Debug)]
pub(crate) struct RequestHead {
    target: PathAndQuery,
    /// Name and end of the value in `values`, in order.
    names: Box<[(HeaderName, u32)]>,
    values: Bytes,
}

impl RequestHead {
    /// Copies what is needed of a request's head.
    pub(crate) fn new(uri: &Uri, headers: &HeaderMap) -> Self {
        let target = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let target = PathAndQuery::from_maybe_shared(Bytes::copy_from_slice(target.as_bytes()))
            .unwrap_or_else(|_| PathAndQuery::from_static("/"));
        let mut values = BytesMut::with_capacity(headers.values().map(HeaderValue::len).sum());
        let names = headers
            .iter()
            .map(|(name, value)| {
                values.extend_from_slice(value.as_bytes());
                // hyper bounds a request's head far below 4 GiB.
                (name.clone(), values.len() as u32)
            })
            .collect();
        Self {
            target,
            names,
            values: values.freeze(),
        }
    }

    /// The path and query, as a URI in origin form.
    pub(crate) fn uri(&self) -> Uri {
        Uri::from(self.target.clone())
    }

    /// The path.
    pub(crate) fn path(&self) -> &str {
        self.target.path()
    }

    /// The headers again, with room for `more`.
    pub(crate) fn headers(&self, more: usize) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(self.names.len() + more);
        let mut start = 0;
        for (name, end) in &self.names {
            let end = *end as usize;
            // They were valid when they came.
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
    fn comes_back_as_it_was() {
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
