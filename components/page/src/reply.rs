//! The answers this component gives, with the headers that all of them carry.

use bytes::Bytes;
use encoding::{Effort, Encoding};
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE,
    ETAG, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use spin_sdk::http::FullBody;

use crate::assets::Asset;
use crate::entity_tag;

/// A whole answer; nothing here is large enough to be streamed.
pub type Reply = Response<FullBody<Bytes>>;

/// Everything the page uses comes from its own origin and from files: a text
/// that slipped through as markup could neither run nor load anything.
/// `connect-src 'self'` includes the WebSocket; `data:` is the icon, which shows
/// a number.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// With the page, and with what stands in its place.
const DOCUMENT: [(HeaderName, &str); 3] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (REFERRER_POLICY, "no-referrer"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

/// Of a picture or other data that a browser shows by itself: it loads and runs
/// nothing. Short, since headers are a large part of what small files weigh.
const DATA_POLICY: &str = "default-src 'none'";

/// The page: never stored, since it shows orders.
pub fn page(html: String, encoding: Option<Encoding>) -> Reply {
    let packed = encoding.and_then(|encoding| {
        let packed = encoding.compress(html.as_bytes(), Effort::Fast)?;
        Some((packed, encoding))
    });
    let (content, encoding) = match packed {
        Some((packed, encoding)) => (packed, Some(encoding)),
        None => (html.into(), None),
    };
    let mut reply = document(StatusCode::OK, "text/html; charset=utf-8", content);
    set(&mut reply, CACHE_CONTROL, "no-store");
    encoded(&mut reply, encoding);
    reply
}

/// An asset, unless the client's `If-None-Match` headers, `known`, name it.
///
/// Under a name that `is_fixed`, one with its fingerprint, it is the same for
/// ever, and nobody has to ask about it. Under its plain name browsers store it
/// too, and ask each time, by its tag, so that a changed file is seen at once.
pub fn asset<'a>(
    asset: &Asset,
    is_fixed: bool,
    encoding: Option<Encoding>,
    known: impl Iterator<Item = &'a HeaderValue>,
) -> Reply {
    let (content, encoding) = asset.content(encoding);
    let etag = entity_tag::of(asset.fingerprint(), encoding);
    let is_known = !is_fixed && entity_tag::is_among(known, &etag);
    let mut reply = match is_known {
        true => bare(StatusCode::NOT_MODIFIED, Bytes::new()),
        false => file(asset.content_type(), content),
    };
    let cache = match is_fixed {
        true => "max-age=31536000, immutable",
        false => "no-cache",
    };
    set(&mut reply, CACHE_CONTROL, cache);
    if !is_fixed {
        reply.headers_mut().insert(ETAG, etag);
    }
    encoded(&mut reply, encoding.filter(|_| !is_known));
    reply
}

/// There is nothing at this address.
pub fn not_found() -> Reply {
    let text = Bytes::from_static(b"Not found\n");
    let mut reply = document(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", text);
    set(&mut reply, CACHE_CONTROL, "no-cache");
    reply
}

/// The method is not one of those this component knows.
pub fn method_not_allowed() -> Reply {
    let text = Bytes::from_static(b"Method not allowed: use GET or HEAD\n");
    let status = StatusCode::METHOD_NOT_ALLOWED;
    let mut reply = document(status, "text/plain; charset=utf-8", text);
    set(&mut reply, ALLOW, "GET, HEAD");
    reply
}

/// Something here failed; the log says what.
pub fn internal_error() -> Reply {
    let text = Bytes::from_static(b"Internal server error\n");
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    let mut reply = document(status, "text/plain; charset=utf-8", text);
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

/// A page, or a text that a browser shows in place of one.
fn document(status: StatusCode, content_type: &'static str, content: Bytes) -> Reply {
    let mut reply = whole(status, content_type, content);
    for (name, value) in DOCUMENT {
        set(&mut reply, name, value);
    }
    reply
}

/// What a page is made of. Scripts and styles are parts of it, whose policy holds
/// for them; and all of it is public.
fn file(content_type: &'static str, content: Bytes) -> Reply {
    let mut reply = match content_type.starts_with("text/html") {
        true => return document(StatusCode::OK, content_type, content),
        false => whole(StatusCode::OK, content_type, content),
    };
    if !content_type.starts_with("text/javascript") && !content_type.starts_with("text/css") {
        set(&mut reply, CONTENT_SECURITY_POLICY, DATA_POLICY);
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
    set(&mut reply, X_CONTENT_TYPE_OPTIONS, "nosniff");
    reply
}

/// Says which coding the content is in, and that another client may get another.
fn encoded(reply: &mut Reply, encoding: Option<Encoding>) {
    set(reply, VARY, "accept-encoding");
    if let Some(encoding) = encoding {
        set(reply, CONTENT_ENCODING, encoding.name());
    }
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
        for reply in [
            page(String::new(), None),
            not_found(),
            method_not_allowed(),
            internal_error(),
        ] {
            for (name, value) in DOCUMENT {
                assert_eq!(reply.headers()[&name], value, "{name}");
            }
            assert_eq!(reply.headers()[X_CONTENT_TYPE_OPTIONS], "nosniff");
        }
        assert!(!POLICY.contains("unsafe"));
    }

    #[test]
    fn a_file_is_guarded_as_what_it_is() {
        for (content_type, policy) in [
            ("text/javascript", None),
            ("text/css; charset=utf-8", None),
            ("image/svg+xml; charset=utf-8", Some(DATA_POLICY)),
            ("text/plain; charset=utf-8", Some(DATA_POLICY)),
            ("text/html; charset=utf-8", Some(POLICY)),
        ] {
            let reply = file(content_type, Bytes::new());
            let sent = reply.headers().get(CONTENT_SECURITY_POLICY);
            let sent = sent.map(|value| value.to_str().expect("text"));
            assert_eq!(sent, policy, "{content_type}");
            assert_eq!(reply.headers()[X_CONTENT_TYPE_OPTIONS], "nosniff");
        }
    }

    #[test]
    fn methods_are_told() {
        assert_eq!(method_not_allowed().headers()[ALLOW], "GET, HEAD");
    }
}
