//! The answers this component gives, with the headers that all of them carry.

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use spin_sdk::http::FullBody;

/// A whole answer; nothing here is large enough to be streamed.
pub type Reply = Response<FullBody<Bytes>>;

/// Everything the page uses comes from its own origin and from files: a text
/// that slipped through as markup could neither run nor load anything.
/// `connect-src 'self'` includes the WebSocket.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const ALWAYS: [(HeaderName, &str); 4] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

/// The page: never stored, since it shows orders.
pub fn page(html: String) -> Reply {
    let mut reply = whole(StatusCode::OK, "text/html; charset=utf-8", html.into());
    set(&mut reply, CACHE_CONTROL, "no-store");
    reply
}

/// An asset: stored by browsers, and asked about each time by its `etag`, so
/// that a changed file is seen at once without a name of its own.
pub fn asset(content_type: &'static str, etag: &HeaderValue, content: Bytes) -> Reply {
    let mut reply = whole(StatusCode::OK, content_type, content);
    set(&mut reply, CACHE_CONTROL, "no-cache");
    reply.headers_mut().insert(ETAG, etag.clone());
    reply
}

/// The browser's copy of an asset is still right.
pub fn not_modified(etag: &HeaderValue) -> Reply {
    let mut reply = bare(StatusCode::NOT_MODIFIED, Bytes::new());
    set(&mut reply, CACHE_CONTROL, "no-cache");
    reply.headers_mut().insert(ETAG, etag.clone());
    reply
}

/// There is nothing at this address.
pub fn not_found() -> Reply {
    let text = Bytes::from_static(b"Not found\n");
    let mut reply = whole(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", text);
    set(&mut reply, CACHE_CONTROL, "no-cache");
    reply
}

/// The method is not one of those this component knows.
pub fn method_not_allowed() -> Reply {
    let text = Bytes::from_static(b"Method not allowed: use GET or HEAD\n");
    let status = StatusCode::METHOD_NOT_ALLOWED;
    let mut reply = whole(status, "text/plain; charset=utf-8", text);
    set(&mut reply, ALLOW, "GET, HEAD");
    reply
}

/// Something here failed; the log says what.
pub fn internal_error() -> Reply {
    let text = Bytes::from_static(b"Internal server error\n");
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    let mut reply = whole(status, "text/plain; charset=utf-8", text);
    set(&mut reply, CACHE_CONTROL, "no-store");
    reply
}

/// The answer to `GET` made into the answer to `method`: `HEAD` gets no body.
/// Nor does it get `Content-Length` (RFC 9110 §9.3.2 leaves that open): between
/// component and host a length without its bytes is a broken body.
pub fn for_method(mut reply: Reply, method: &Method) -> Reply {
    if method == Method::HEAD {
        reply.headers_mut().remove(CONTENT_LENGTH);
        *reply.body_mut() = FullBody::default();
    }
    reply
}

fn whole(status: StatusCode, content_type: &'static str, content: Bytes) -> Reply {
    let length = content.len();
    let mut reply = bare(status, content);
    set(&mut reply, CONTENT_TYPE, content_type);
    reply.headers_mut().insert(CONTENT_LENGTH, length.into());
    reply
}

fn bare(status: StatusCode, content: Bytes) -> Reply {
    let mut reply = Response::new(FullBody::new(content));
    *reply.status_mut() = status;
    for (name, value) in ALWAYS {
        set(&mut reply, name, value);
    }
    reply
}

fn set(reply: &mut Reply, name: HeaderName, value: &'static str) {
    reply
        .headers_mut()
        .insert(name, HeaderValue::from_static(value));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_is_guarded() {
        let etag = HeaderValue::from_static("\"a\"");
        for reply in [
            page(String::new()),
            asset("text/css; charset=utf-8", &etag, Bytes::new()),
            not_modified(&etag),
            not_found(),
            method_not_allowed(),
            internal_error(),
        ] {
            for (name, value) in ALWAYS {
                assert_eq!(reply.headers()[&name], value, "{name}");
            }
        }
        assert!(!POLICY.contains("unsafe"));
    }

    #[test]
    fn methods_are_told() {
        assert_eq!(method_not_allowed().headers()[ALLOW], "GET, HEAD");
    }
}
