//! Responses that the host sends by itself: a status and, where Spin has no such response, a line of
//! text.

use std::time::Duration;

use http::{HeaderValue, Response, StatusCode, header};
use spin_runtime::backend::{BackendError, Body, RequestBodyError, empty, full};

use crate::http::validate::Refusal;

/// When clients may try again after a limit on what is open was reached.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(5);

/// When they may try again after a backend has had too many requests.
const BUSY_RETRY_AFTER: Duration = Duration::from_secs(2);

/// Marks a response of [`backend_error_response`], as an extension.
#[derive(Clone, Copy)]
pub(crate) struct BackendFailure;

/// Marks a response to a request that is refused, as an extension. It ends a connection of HTTP/1.1:
/// what follows may not be what the client meant to send.
#[derive(Clone, Copy)]
pub(crate) struct Refused;

/// Returns the response for a path that the application does not serve: 404, and no body, as in
/// Spin.
pub(crate) fn not_found() -> Response<Body> {
    empty_response(StatusCode::NOT_FOUND)
}

/// Returns the response to a request whose handler has panicked: 500.
pub(crate) fn internal_error() -> Response<Body> {
    empty_response(StatusCode::INTERNAL_SERVER_ERROR)
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

/// Returns a plain-text response that asks the client to try again after this time.
pub(crate) fn overload_response(
    status: StatusCode,
    text: &str,
    retry_after: Duration,
) -> Response<Body> {
    let mut response = text_response(status, text);
    let seconds = retry_after.as_secs_f64().ceil().max(1.0) as u64;
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, seconds.into());
    response
}

/// Returns the response to a request that is refused.
pub(crate) fn refusal_response(Refusal(status, text): Refusal) -> Response<Body> {
    let mut response = text_response(status, text);
    response.extensions_mut().insert(Refused);
    response
}

/// Returns the response to a request whose body could not be received.
pub(crate) fn request_body_error_response(error: RequestBodyError) -> Response<Body> {
    let status = match error {
        RequestBodyError::Malformed | RequestBodyError::Incomplete => StatusCode::BAD_REQUEST,
        RequestBodyError::TooSlow => StatusCode::REQUEST_TIMEOUT,
        RequestBodyError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
    };
    let mut response = text_response(status, &error.to_string());
    response.extensions_mut().insert(Refused);
    response
}

/// Returns the response to a request that the backend failed to answer.
///
/// It reveals no details. They are in the log.
pub(crate) fn backend_error_response(error: &BackendError) -> Response<Body> {
    let text = text_response;
    let mut response = match error {
        BackendError::RequestBody(error) => return request_body_error_response(*error),
        BackendError::Busy { cause, .. } => {
            let text = format!("{cause}, try again later");
            overload_response(StatusCode::SERVICE_UNAVAILABLE, &text, BUSY_RETRY_AFTER)
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
