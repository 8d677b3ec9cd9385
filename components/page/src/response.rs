//! The responses of this component, with the headers that all of them carry.

use bytes::Bytes;
use encoding::{Effort, Encoding};
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE,
    ETAG, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use spin_sdk::http::FullBody;

use crate::assets::Asset;
use crate::entity_tag;

/// A response with its whole body: none is large enough to be streamed.
pub(crate) type Response = http::Response<FullBody<Bytes>>;

/// The policy of the page. Scripts, styles and connections come from its own origin
/// only, so text that ends up as markup can neither run nor load anything.
///
/// `connect-src 'self'` includes the WebSocket; `data:` is for the icon, which shows
/// a number.
const DOCUMENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The headers of the page, and of the errors shown in its place.
const DOCUMENT_HEADERS: [(HeaderName, &str); 3] = [
    (CONTENT_SECURITY_POLICY, DOCUMENT_POLICY),
    (REFERRER_POLICY, "no-referrer"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

/// The policy of images and other data that a browser may show as a document. It is
/// short because headers are a large part of a small file's size.
const DATA_POLICY: &str = "default-src 'none'";

/// The page. It is never stored because it shows orders.
pub(crate) fn page(html: String, encoding: Option<Encoding>) -> Response {
    let compressed = encoding.and_then(|encoding| {
        let compressed = encoding.compress(html.as_bytes(), Effort::Fast)?;
        Some((compressed, encoding))
    });
    let (content, encoding) = match compressed {
        Some((compressed, encoding)) => (compressed, Some(encoding)),
        None => (html.into(), None),
    };
    let mut response = document(StatusCode::OK, "text/html; charset=utf-8", content);
    set(&mut response, CACHE_CONTROL, "no-store");
    set_encoding(&mut response, encoding);
    response
}

/// An asset, or 304 if the client's `If-None-Match` headers contain its tag.
///
/// A name that `is_versioned` contains the asset's fingerprint: its content never
/// changes, so browsers cache it for good. Under its plain name they revalidate it on
/// each use, so a changed file is seen at once.
pub(crate) fn asset<'a>(
    asset: &Asset,
    is_versioned: bool,
    encoding: Option<Encoding>,
    if_none_match: impl Iterator<Item = &'a HeaderValue>,
) -> Response {
    let (content, encoding) = asset.content(encoding);
    let etag = entity_tag::of(asset.fingerprint(), encoding);
    let is_unmodified = !is_versioned && entity_tag::matches(if_none_match, &etag);
    let mut response = if is_unmodified {
        without_type(StatusCode::NOT_MODIFIED, Bytes::new())
    } else {
        file(asset.content_type(), content)
    };
    if is_versioned {
        set(
            &mut response,
            CACHE_CONTROL,
            "public, max-age=31536000, immutable",
        );
    } else {
        set(&mut response, CACHE_CONTROL, "no-cache");
        response.headers_mut().insert(ETAG, etag);
    }
    set_encoding(&mut response, encoding.filter(|_| !is_unmodified));
    response
}

pub(crate) fn not_found() -> Response {
    let mut response = error(StatusCode::NOT_FOUND, "Not found\n");
    set(&mut response, CACHE_CONTROL, "no-cache");
    response
}

pub(crate) fn method_not_allowed() -> Response {
    let mut response = error(
        StatusCode::METHOD_NOT_ALLOWED,
        "Method not allowed: use GET or HEAD\n",
    );
    set(&mut response, ALLOW, "GET, HEAD");
    response
}

pub(crate) fn internal_error() -> Response {
    let mut response = error(StatusCode::INTERNAL_SERVER_ERROR, "Internal server error\n");
    set(&mut response, CACHE_CONTROL, "no-store");
    response
}

/// Turns the response to `GET` into the response to `method`: `HEAD` has no body.
///
/// It has no `Content-Length` either, which RFC 9110 §9.3.2 permits: between component
/// and host, a length without a body is an error.
pub(crate) fn for_method(mut response: Response, method: &Method) -> Response {
    if method == Method::HEAD {
        response.headers_mut().remove(CONTENT_LENGTH);
        *response.body_mut() = FullBody::default();
    }
    response
}

fn error(status: StatusCode, text: &'static str) -> Response {
    document(
        status,
        "text/plain; charset=utf-8",
        Bytes::from_static(text.as_bytes()),
    )
}

/// A page, or a text that a browser shows in its place.
fn document(status: StatusCode, content_type: &'static str, content: Bytes) -> Response {
    let mut response = with_type(status, content_type, content);
    for (name, value) in DOCUMENT_HEADERS {
        set(&mut response, name, value);
    }
    response
}

/// A file. Scripts and styles need no policy: they follow the page's.
fn file(content_type: &'static str, content: Bytes) -> Response {
    if content_type.starts_with("text/html") {
        return document(StatusCode::OK, content_type, content);
    }
    let mut response = with_type(StatusCode::OK, content_type, content);
    if !content_type.starts_with("text/javascript") && !content_type.starts_with("text/css") {
        set(&mut response, CONTENT_SECURITY_POLICY, DATA_POLICY);
    }
    response
}

fn with_type(status: StatusCode, content_type: &'static str, content: Bytes) -> Response {
    let length = content.len();
    let mut response = without_type(status, content);
    set(&mut response, CONTENT_TYPE, content_type);
    response.headers_mut().insert(CONTENT_LENGTH, length.into());
    response
}

fn without_type(status: StatusCode, content: Bytes) -> Response {
    let mut response = Response::new(FullBody::new(content));
    *response.status_mut() = status;
    set(&mut response, X_CONTENT_TYPE_OPTIONS, "nosniff");
    response
}

/// Sets the content's encoding, and declares that it depends on the request.
fn set_encoding(response: &mut Response, encoding: Option<Encoding>) {
    set(response, VARY, "accept-encoding");
    if let Some(encoding) = encoding {
        set(response, CONTENT_ENCODING, encoding.name());
    }
}

fn set(response: &mut Response, name: HeaderName, value: &'static str) {
    response
        .headers_mut()
        .insert(name, HeaderValue::from_static(value));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_have_security_headers() {
        for response in [
            page(String::new(), None),
            not_found(),
            method_not_allowed(),
            internal_error(),
        ] {
            for (name, value) in DOCUMENT_HEADERS {
                assert_eq!(response.headers()[&name], value, "{name}");
            }
            assert_eq!(response.headers()[X_CONTENT_TYPE_OPTIONS], "nosniff");
        }
        assert!(!DOCUMENT_POLICY.contains("unsafe"));
    }

    #[test]
    fn policy_of_a_file_depends_on_its_type() {
        for (content_type, policy) in [
            ("text/javascript", None),
            ("text/css; charset=utf-8", None),
            ("image/svg+xml; charset=utf-8", Some(DATA_POLICY)),
            ("text/plain; charset=utf-8", Some(DATA_POLICY)),
            ("text/html; charset=utf-8", Some(DOCUMENT_POLICY)),
        ] {
            let response = file(content_type, Bytes::new());
            let sent = response.headers().get(CONTENT_SECURITY_POLICY);
            let sent = sent.map(|value| value.to_str().expect("text"));
            assert_eq!(sent, policy, "{content_type}");
            assert_eq!(response.headers()[X_CONTENT_TYPE_OPTIONS], "nosniff");
        }
    }

    #[test]
    fn method_not_allowed_lists_methods() {
        assert_eq!(method_not_allowed().headers()[ALLOW], "GET, HEAD");
    }
}
