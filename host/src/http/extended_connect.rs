//! WebSockets over HTTP/2: recognizes extended CONNECT requests (RFC 8441), and translates them for
//! servers that only support HTTP/1.1.

use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::ext::Protocol;
use tungstenite::handshake::{client::generate_key, derive_accept_key};

/// The only supported value of `:protocol`.
pub(crate) const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// Returns whether a request asks for a WebSocket on its stream (RFC 8441, section 5).
pub(crate) fn is_extended_connect<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_2
        && request.method() == Method::CONNECT
        && request
            .extensions()
            .get::<Protocol>()
            .is_some_and(|protocol| protocol.as_str().as_bytes() == WEBSOCKET.as_bytes())
}

/// Turns an extended CONNECT into an upgrade request of HTTP/1.1, and returns the value of
/// `Sec-WebSocket-Accept` that the response must have.
pub(crate) fn to_upgrade<B>(request: &mut Request<B>) -> String {
    let key = generate_key();
    *request.method_mut() = Method::GET;
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, WEBSOCKET);
    if let Ok(key) = HeaderValue::from_str(&key) {
        headers.insert(header::SEC_WEBSOCKET_KEY, key);
    }
    derive_accept_key(key.as_bytes())
}

/// The headers of a 101 response that do not exist in HTTP/2.
const UPGRADE_HEADERS: [HeaderName; 3] = [
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_ACCEPT,
];

/// Turns a 101 response into the 200 response that opens the stream. Returns whether its
/// `Sec-WebSocket-Accept` is valid.
pub(crate) fn from_switching_protocols<B>(response: &mut Response<B>, accept_key: &str) -> bool {
    let accepted = response.headers().get(header::SEC_WEBSOCKET_ACCEPT);
    let is_valid = accepted.is_some_and(|accepted| accepted == accept_key);
    for name in UPGRADE_HEADERS {
        response.headers_mut().remove(name);
    }
    *response.status_mut() = StatusCode::OK;
    *response.version_mut() = Version::HTTP_2;
    is_valid
}
