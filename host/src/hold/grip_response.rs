//! Parses a backend's response into GRIP instructions and a response for the client.

use bytes::Bytes;
use grip::{
    Instruct, InstructError,
    header::{is_grip, is_grip_instruct},
    hold::{HoldMode, Status},
};
use http::{Extensions, HeaderMap, Method, Request, Response, StatusCode, header, response::Parts};
use hyper::ext::ReasonPhrase;
use spin_runtime::backend::{Backend, Body, empty, full};
use tracing::error;

use crate::{
    config::Limits,
    http::{
        body::{ReadBodyError, read_body},
        error_response::{backend_error_response, text_response},
        headers::remove_headers,
    },
    pubsub::publication::PublishedResponse,
};

/// The largest response body that is kept in memory, in bytes: instructions, or the response to
/// send when a hold times out.
pub(super) const MAX_HELD_RESPONSE_BYTES: usize = Limits::DEFAULT.max_held_response_bytes;

/// A backend's response, split into instructions and what the client gets.
pub(crate) struct GripResponse {
    /// The instructions. `None` if the response has none.
    pub(crate) instruct: Option<Instruct>,
    /// The response without anything that is meant for the host.
    pub(crate) response: Response<Body>,
}

/// Why the instructions of a response cannot be followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GripResponseError {
    #[error(transparent)]
    Instruct(#[from] InstructError),
    #[error("instruct.response.{0}")]
    Response(String),
    #[error("unexpected status {0} for instructions in a body: expected 200")]
    Status(StatusCode),
    #[error(transparent)]
    Body(#[from] ReadBodyError),
}

impl GripResponse {
    /// Sends a request to the backend and parses its response.
    ///
    /// # Errors
    /// Returns the error response for the client if the backend fails or its instructions are
    /// invalid.
    pub(crate) async fn fetch(
        backend: &dyn Backend,
        request: Request<Body>,
    ) -> Result<Self, Response<Body>> {
        let path = request.uri().path().to_owned();
        let is_head = request.method() == Method::HEAD;
        let response = backend
            .call(request)
            .await
            .map_err(|error| backend_error_response(&error))?;
        if is_head && has_instruct_body(&response) {
            // A response to HEAD has no body to read them from.
            return Ok(Self {
                instruct: None,
                response: Response::new(empty()),
            });
        }
        Self::parse(response).await.map_err(|error| {
            error!(route = path, %error, "invalid GRIP response");
            invalid_response()
        })
    }

    /// Splits a response into instructions and what the client gets.
    ///
    /// # Errors
    /// Returns an error if the instructions are invalid or cannot be read.
    pub(crate) async fn parse(response: Response<Body>) -> Result<Self, GripResponseError> {
        let in_body = has_instruct_body(&response);
        let in_headers = response.headers().keys().any(|name| is_grip(name.as_str()));
        if !in_headers && !in_body {
            return Ok(Self {
                instruct: None,
                response,
            });
        }
        let (mut parts, body) = response.into_parts();
        let headers = parts.headers.iter();
        let headers = headers.map(|(name, value)| (name.as_str(), value.as_bytes()));
        let instruct = Instruct::from_headers(headers)?;
        if in_body {
            return Self::parse_body(instruct.unwrap_or_default(), parts, body).await;
        }
        remove_unexposed_headers(&mut parts.headers, instruct.as_ref());
        if let Some(Status { code, reason }) = instruct.as_ref().and_then(|i| i.status.clone()) {
            // Parsing the instructions has validated the code.
            parts.status = StatusCode::from_u16(code).unwrap_or(parts.status);
            set_reason_phrase(&mut parts.extensions, reason);
        }
        Ok(Self {
            instruct,
            response: Response::from_parts(parts, body),
        })
    }

    async fn parse_body(
        instruct: Instruct,
        mut parts: Parts,
        body: Body,
    ) -> Result<Self, GripResponseError> {
        if parts.status != StatusCode::OK {
            return Err(GripResponseError::Status(parts.status));
        }
        let json = read_body(
            body,
            MAX_HELD_RESPONSE_BYTES,
            Limits::DEFAULT.response_body_timeout,
        )
        .await?;
        let mut instruct = instruct.with_json(&json)?;
        let response = instruct
            .response
            .take()
            .map(PublishedResponse::new)
            .transpose();
        parts.headers = HeaderMap::new();
        let body = match response.map_err(GripResponseError::Response)? {
            Some(response) => {
                parts.status = response.status;
                parts.headers = response.headers;
                set_reason_phrase(&mut parts.extensions, response.reason);
                response.body
            }
            None => Bytes::new(),
        };
        Ok(Self {
            instruct: Some(instruct),
            response: Response::from_parts(parts, full(body)),
        })
    }

    /// Returns how the response asks to be held, if it does.
    pub(crate) fn hold_mode(&self) -> Option<HoldMode> {
        let instruct = self.instruct.as_ref()?;
        // A next link without a hold makes a stream of responses fetched one after another.
        let next = instruct.next.as_ref().map(|_| HoldMode::Stream);
        instruct.hold.or(next)
    }
}

/// Returns whether the body of a response consists of instructions.
fn has_instruct_body(response: &Response<Body>) -> bool {
    let content_type = response.headers().get(header::CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok());
    content_type.is_some_and(is_grip_instruct)
}

/// Returns whether a response is compressed or otherwise encoded.
pub(crate) fn has_content_encoding(response: &Response<Body>) -> bool {
    let encodings = response.headers().get_all(header::CONTENT_ENCODING);
    encodings
        .iter()
        .any(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// Returns the error response for a backend response that cannot be held as it asks.
pub(crate) fn invalid_response() -> Response<Body> {
    text_response(
        StatusCode::BAD_GATEWAY,
        "invalid GRIP response from the backend",
    )
}

/// Sets the reason phrase of a response, which only HTTP/1 sends. Invalid ones are ignored.
pub(crate) fn set_reason_phrase(extensions: &mut Extensions, reason: Option<String>) {
    let reason = reason.and_then(|reason| ReasonPhrase::try_from(reason.into_bytes()).ok());
    if let Some(reason) = reason {
        extensions.insert(reason);
    }
}

fn remove_unexposed_headers(headers: &mut HeaderMap, instruct: Option<&Instruct>) {
    let is_exposed = |name: &str| match instruct {
        Some(instruct) => instruct.exposes(name),
        None => !is_grip(name),
    };
    remove_headers(headers, |name| !is_exposed(name.as_str()));
}
