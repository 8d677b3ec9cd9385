//! The few kinds of HTTP response that there are.

use bytes::Bytes;
use encoding::{Effort, Encoding};
use http_body_util::Full;
use spin_sdk::http::{HeaderName, HeaderValue, Response, StatusCode};

use crate::order::Order;

/// A response whose body is all there.
pub type Reply = Response<Full<Bytes>>;

const CONTENT_TYPE: HeaderName = HeaderName::from_static("content-type");
const CONTENT_LENGTH: HeaderName = HeaderName::from_static("content-length");
const CACHE_CONTROL: HeaderName = HeaderName::from_static("cache-control");
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
const CONTENT_ENCODING: HeaderName = HeaderName::from_static("content-encoding");
const VARY: HeaderName = HeaderName::from_static("vary");
const ALLOW: HeaderName = HeaderName::from_static("allow");

/// With all that browsers get: they neither take it for something else than it says
/// it is, nor show it to pages of other origins.
const GUARDS: [(HeaderName, &str); 2] = [
    (HeaderName::from_static("x-content-type-options"), "nosniff"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

/// A line of text: what is wrong, and what would be right.
pub fn text(status: StatusCode, message: &str) -> Reply {
    let body = Bytes::from(format!("{message}\n"));
    guarded(reply(status, "text/plain; charset=utf-8", body))
}

/// Data, which is new at each request.
pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    let mut reply = guarded(reply(status, "application/json", body.into()));
    let headers = reply.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

/// The same in the coding that the client takes, if any, and if that makes it shorter.
pub fn packed_json(status: StatusCode, body: Vec<u8>, encoding: Option<Encoding>) -> Reply {
    let packed = encoding.and_then(|it| Some((it.compress(&body, Effort::Always)?, it.name())));
    let mut reply = match packed {
        Some((packed, name)) => {
            let mut reply = json(status, packed);
            let headers = reply.headers_mut();
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(name));
            reply
        }
        None => json(status, body),
    };
    let headers = reply.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    reply
}

/// One order.
pub fn order(status: StatusCode, order: &Order) -> Reply {
    let body = serde_json::to_vec(order);
    let body = body.expect("strings, numbers and lists have a form in JSON");
    json(status, body)
}

/// WebSocket events, for the host.
pub fn events(body: Bytes) -> Reply {
    reply(StatusCode::OK, grip::header::WEBSOCKET_EVENTS, body)
}

/// Server-sent events, or the first of them.
pub fn event_stream(body: String) -> Reply {
    let mut reply = guarded(reply(StatusCode::OK, "text/event-stream", body.into()));
    let headers = reply.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that would wait for more before they pass anything on know this one.
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    reply
}

/// The path is right and the method is not.
pub fn method_not_allowed(allow: &'static str) -> Reply {
    let message = format!("allowed here: {allow}");
    let mut reply = text(StatusCode::METHOD_NOT_ALLOWED, &message);
    let headers = reply.headers_mut();
    headers.insert(ALLOW, HeaderValue::from_static(allow));
    reply
}

fn reply(status: StatusCode, content_type: &'static str, body: Bytes) -> Reply {
    let length = HeaderValue::from(body.len());
    let mut reply = Reply::new(Full::new(body));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    // Without it the body would go out in chunks, and a HEAD would not tell its length.
    headers.insert(CONTENT_LENGTH, length);
    reply
}

fn guarded(mut reply: Reply) -> Reply {
    for (name, value) in GUARDS {
        let headers = reply.headers_mut();
        headers.insert(name, HeaderValue::from_static(value));
    }
    reply
}
