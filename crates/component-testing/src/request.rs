//! Requests of clients.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::Bytes;
use grip::header::{CONNECTION_ID, META_PREFIX, SET_META_PREFIX, is_grip, is_websocket_events};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use spin_runtime::backend::{Body, Caller, Client, full};

/// The address of all clients, from a network for documentation (RFC 5737).
const CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 50_000);

/// Returns the sender of the requests and the WebSocket frames of clients.
pub(crate) fn caller() -> Caller {
    Caller::Client(Client::plain(CLIENT))
}

/// A request whose body is complete, so that it can be sent again.
#[derive(Clone, Debug)]
pub(crate) struct ClientRequest {
    pub(crate) method: Method,
    /// In origin form.
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl ClientRequest {
    /// Prepares a request as a GRIP host does: without headers that only the host may send.
    pub(crate) fn new<B: Into<Bytes>>(request: Request<B>) -> Self {
        let (parts, body) = request.into_parts();
        let body = body.into();
        let mut headers = parts.headers;
        remove_private_headers(&mut headers);
        if !headers.contains_key(header::HOST) {
            let authority = parts.uri.authority().map(|authority| authority.as_str());
            let host = HeaderValue::from_str(authority.unwrap_or("localhost"));
            let host = host.unwrap_or(HeaderValue::from_static("localhost"));
            headers.insert(header::HOST, host);
        }
        let has_body = matches!(parts.method, Method::POST | Method::PUT | Method::PATCH);
        let has_body = has_body || !body.is_empty();
        if has_body && !headers.contains_key(header::CONTENT_LENGTH) {
            headers.insert(header::CONTENT_LENGTH, body.len().into());
        }
        let path = parts.uri.path_and_query().cloned();
        Self {
            method: parts.method,
            uri: path.map_or(Uri::from_static("/"), Uri::from),
            headers,
            body,
        }
    }

    /// Returns the request for the application.
    pub(crate) fn to_backend(&self) -> Request<Body> {
        let mut request = Request::new(full(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request.extensions_mut().insert(caller());
        request
    }

    /// Returns whether the client claims to send the events of a WebSocket, as only the host does.
    pub(crate) fn has_websocket_events(&self) -> bool {
        let content_types = self.headers.get_all(header::CONTENT_TYPE).iter();
        let mut content_types = content_types.filter_map(|value| value.to_str().ok());
        content_types.any(is_websocket_events)
    }
}

/// Removes the headers that only the host and its components send.
pub(crate) fn remove_private_headers(headers: &mut HeaderMap) {
    remove_headers(headers, is_private);
}

/// Removes headers whose name matches the predicate.
pub(crate) fn remove_headers(headers: &mut HeaderMap, is_removed: impl Fn(&str) -> bool) {
    let names = headers.keys().filter(|name| is_removed(name.as_str()));
    for name in names.cloned().collect::<Vec<_>>() {
        headers.remove(name);
    }
}

/// Returns whether only the host and its components send a header.
fn is_private(name: &str) -> bool {
    is_grip(name)
        || name == CONNECTION_ID
        || name.starts_with(META_PREFIX)
        || name.starts_with(SET_META_PREFIX)
}
