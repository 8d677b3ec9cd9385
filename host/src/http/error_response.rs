//! The host's own answers: a status and a short text.

use http::{HeaderValue, Response, StatusCode, header};

use spin_runtime::backend::{BackendError, Body, full};

/// A status with a line of text.
pub(crate) fn answer(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(full(format!("{text}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

/// An extension of answers that [`failure`] gives.
#[derive(Clone, Copy)]
pub(crate) struct Failed;

/// What a client is told of a backend that did not answer: no details, which are in the log.
pub(crate) fn failure(error: &BackendError) -> Response<Body> {
    let mut response = match error {
        BackendError::NoRoute { .. } => answer(StatusCode::NOT_FOUND, "there is nothing here"),
        BackendError::Failed { .. } => {
            answer(StatusCode::INTERNAL_SERVER_ERROR, "the component failed")
        }
        BackendError::Deadline { .. } => {
            answer(StatusCode::GATEWAY_TIMEOUT, "there was no answer in time")
        }
        BackendError::Unreachable { .. } => {
            answer(StatusCode::BAD_GATEWAY, "the upstream is not reached")
        }
        BackendError::Broken { .. } => answer(StatusCode::BAD_GATEWAY, "the upstream failed"),
    };
    response.extensions_mut().insert(Failed);
    response
}
