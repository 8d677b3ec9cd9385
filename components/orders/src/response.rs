//! Constructors for the HTTP responses of this component.

use bytes::Bytes;
use encoding::{Effort, Encoding};
use http_body_util::Full;
use spin_sdk::http::{self, HeaderName, HeaderValue, StatusCode};

use crate::order::Order;

/// A response with a complete body.
pub(crate) type Response = http::Response<Full<Bytes>>;

const CONTENT_TYPE: HeaderName = HeaderName::from_static("content-type");
const CONTENT_LENGTH: HeaderName = HeaderName::from_static("content-length");
const CACHE_CONTROL: HeaderName = HeaderName::from_static("cache-control");
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
const CONTENT_ENCODING: HeaderName = HeaderName::from_static("content-encoding");
const VARY: HeaderName = HeaderName::from_static("vary");
const ALLOW: HeaderName = HeaderName::from_static("allow");

/// Headers of every response to a browser. They disable content sniffing, and keep pages of
/// other origins from embedding the response.
const SECURITY_HEADERS: [(HeaderName, &str); 2] = [
    (HeaderName::from_static("x-content-type-options"), "nosniff"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

/// Returns a plain-text response with one line.
pub(crate) fn text(status: StatusCode, message: &str) -> Response {
    let body = Bytes::from(format!("{message}\n"));
    browser_response(status, "text/plain; charset=utf-8", body)
}

/// Returns a JSON response that must not be cached.
pub(crate) fn json(status: StatusCode, body: impl Into<Bytes>) -> Response {
    let mut response = browser_response(status, "application/json", body.into());
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Returns a JSON response, compressed if `encoding` makes the body smaller.
pub(crate) fn compressed_json(
    status: StatusCode,
    body: Vec<u8>,
    encoding: Option<Encoding>,
) -> Response {
    let compressed = encoding
        .and_then(|encoding| Some((encoding.compress(&body, Effort::Fast)?, encoding.name())));
    let mut response = match compressed {
        Some((compressed, name)) => {
            let mut response = json(status, compressed);
            let headers = response.headers_mut();
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(name));
            response
        }
        None => json(status, body),
    };
    let headers = response.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    response
}

/// Returns an order in JSON.
pub(crate) fn order(status: StatusCode, order: &Order) -> Response {
    json(status, order.to_json())
}

/// Returns a stream of server-sent events, or its beginning.
pub(crate) fn event_stream(body: String) -> Response {
    let mut response = browser_response(StatusCode::OK, "text/event-stream", body.into());
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Disables response buffering in nginx and in proxies that follow it.
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

/// Returns a 405 response that lists the allowed methods.
pub(crate) fn method_not_allowed(allow: &'static str) -> Response {
    let message = format!("method not allowed: expected {allow}");
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, &message);
    let headers = response.headers_mut();
    headers.insert(ALLOW, HeaderValue::from_static(allow));
    response
}

fn browser_response(status: StatusCode, content_type: &'static str, body: Bytes) -> Response {
    let mut response = response(status, content_type, body);
    for (name, value) in SECURITY_HEADERS {
        let headers = response.headers_mut();
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn response(status: StatusCode, content_type: &'static str, body: Bytes) -> Response {
    let length = HeaderValue::from(body.len());
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    // Without it, the body would be chunked and the response to a HEAD would have no length.
    headers.insert(CONTENT_LENGTH, length);
    response
}
