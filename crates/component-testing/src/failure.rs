//! Failed calls of components, and the responses to them.

use http::{HeaderValue, Response, StatusCode, header};
use spin_runtime::backend::{BackendError, Body, RequestBodyError, empty, full};

/// Why a request, a timer or a WebSocket failed on the side of the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The path of the request, or the id of the component that a cron trigger has called.
    pub target: String,
    /// What went wrong, with the cause.
    pub error: String,
}

/// Returns the response that a host sends for an error.
pub(crate) fn error_response(error: &BackendError) -> Response<Body> {
    let (status, text) = match error {
        BackendError::NoRoute { .. } => (StatusCode::NOT_FOUND, None),
        BackendError::RequestBody(error) => {
            let status = match error {
                RequestBodyError::Malformed | RequestBodyError::Incomplete => {
                    StatusCode::BAD_REQUEST
                }
                RequestBodyError::TooSlow => StatusCode::REQUEST_TIMEOUT,
                RequestBodyError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            };
            (status, Some(error.to_string()))
        }
        BackendError::Busy { cause, .. } => (
            StatusCode::SERVICE_UNAVAILABLE,
            Some(format!("{cause}, try again later")),
        ),
        BackendError::Failed { .. } => (StatusCode::INTERNAL_SERVER_ERROR, None),
        BackendError::Deadline { .. } => (
            StatusCode::GATEWAY_TIMEOUT,
            Some("request timed out".to_owned()),
        ),
        BackendError::Unreachable { .. } | BackendError::Broken { .. } => {
            (StatusCode::BAD_GATEWAY, Some("upstream failed".to_owned()))
        }
    };
    match text {
        Some(text) => text_response(status, &text),
        None => empty_response(status),
    }
}

/// Returns the response for a path that the application does not serve.
pub(crate) fn not_found() -> Response<Body> {
    empty_response(StatusCode::NOT_FOUND)
}

fn empty_response(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(empty());
    *response.status_mut() = status;
    response
}

/// Returns a response with a line of text.
pub(crate) fn text_response(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(full(format!("{text}\n")));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}
