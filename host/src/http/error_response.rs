//! Responses that the host sends by itself: a status and, where Spin has no such response, a line of
//! text.

use http::{HeaderValue, Response, StatusCode, header};
use spin_runtime::backend::{BackendError, Body, RequestBodyError, empty, full};

use crate::http::validate::Refusal;

/// The value of `Retry-After` in responses of a backend that has too many requests.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("2");

/// Marks a response of [`backend_error_response`], as an extension.
#[derive(Clone, Copy)]
pub(crate) struct BackendFailure;

/// Returns the response for a path that the application does not serve: 404, and no body, as in
/// Spin.
pub(crate) fn not_found() -> Response<Body> {
    empty_response(StatusCode::NOT_FOUND)
}

fn empty_response(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(empty());
    *response.status_mut() = status;
    response
}

/// Returns a plain-text response.
pub(crate) fn text_response(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(full(format!("{text}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

/// Returns the response to a request that is refused.
pub(crate) fn refusal_response(Refusal(status, text): Refusal) -> Response<Body> {
    text_response(status, text)
}

/// Returns the response to a request whose body could not be received.
pub(crate) fn request_body_error_response(error: RequestBodyError) -> Response<Body> {
    let status = match error {
        RequestBodyError::Malformed | RequestBodyError::Incomplete => StatusCode::BAD_REQUEST,
        RequestBodyError::TooSlow => StatusCode::REQUEST_TIMEOUT,
    };
    text_response(status, &error.to_string())
}

/// Returns the response to a request that the backend failed to answer.
///
/// It reveals no details. They are in the log.
pub(crate) fn backend_error_response(error: &BackendError) -> Response<Body> {
    let text = text_response;
    let mut response = match error {
        BackendError::RequestBody(error) => return request_body_error_response(*error),
        BackendError::Busy { cause, .. } => {
            let mut response = text(
                StatusCode::SERVICE_UNAVAILABLE,
                &format!("{cause}, try again later"),
            );
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, RETRY_AFTER_SECONDS);
            response
        }
        BackendError::NoRoute { .. } => not_found(),
        BackendError::Failed { .. } => empty_response(StatusCode::INTERNAL_SERVER_ERROR),
        BackendError::Deadline { .. } => text(StatusCode::GATEWAY_TIMEOUT, "request timed out"),
        BackendError::Unreachable { .. } => text(StatusCode::BAD_GATEWAY, "upstream unreachable"),
        BackendError::Broken { .. } => text(StatusCode::BAD_GATEWAY, "upstream failed"),
    };
    response.extensions_mut().insert(BackendFailure);
    response
}
