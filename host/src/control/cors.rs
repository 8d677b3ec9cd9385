//! Lets pages of other sites use the control port, where that is configured: the CORS protocol of the
//! [Fetch Standard](https://fetch.spec.whatwg.org/#http-cors-protocol).

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use spin_runtime::backend::{Body, empty};

/// The headers of requests to the control port that a browser asks for first.
const REQUEST_HEADERS: HeaderValue =
    HeaderValue::from_static("accept, authorization, content-type");

/// The seconds for which a browser remembers the answer.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// The origins whose pages may use the control port.
pub(super) struct Cors {
    /// As browsers send them.
    pub(super) origins: Vec<String>,
}

impl Cors {
    /// Returns the origin of a request, if its page may use the control port.
    pub(super) fn origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        let text = origin.to_str().ok()?;
        let is_allowed = self.origins.iter().any(|allowed| allowed == text);
        is_allowed.then(|| origin.clone())
    }
}

/// Returns whether a browser asks if a page may send a request.
pub(super) fn is_preflight<B>(request: &Request<B>) -> bool {
    request.method() == Method::OPTIONS
        && request
            .headers()
            .contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// Returns the response that allows requests with these methods.
pub(super) fn preflight_response(methods: &'static str) -> Response<Body> {
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static(methods),
    );
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    response
}

/// Allows the page of this origin to read a response.
pub(super) fn allow(origin: HeaderValue, response: &mut Response<Body>) {
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
}
