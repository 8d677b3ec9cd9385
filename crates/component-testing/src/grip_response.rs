//! Splits responses into GRIP instructions and what the client gets.

use bytes::Bytes;
use grip::{
    Instruct,
    header::{is_grip, is_grip_instruct},
    publish::HttpResponse,
};
use http::{HeaderMap, Response, StatusCode, header, response::Parts};
use http_body_util::BodyExt as _;
use spin_runtime::backend::{Body, empty, full};

use crate::{
    failure::{error_response, text_response},
    host::Host,
    request::{ClientRequest, remove_headers},
};

/// A response of the application, split into instructions for the host and what the client gets.
pub(crate) struct GripResponse {
    pub(crate) instruct: Option<Instruct>,
    pub(crate) response: Response<Body>,
}

/// Sends a request to the application, as the host does: signed, with these headers. An error becomes a
/// response.
pub(crate) async fn fetch(
    host: &Host,
    request: &ClientRequest,
    headers: &HeaderMap,
) -> GripResponse {
    let mut to_backend = request.to_backend();
    host.sign(to_backend.headers_mut());
    for (name, value) in headers {
        to_backend.headers_mut().append(name, value.clone());
    }
    let response = match host.call(to_backend).await {
        Ok(response) => response,
        Err(error) => error_response(&error),
    };
    split(response).await.unwrap_or_else(|error| {
        host.fail(request.uri.path(), error);
        GripResponse {
            instruct: None,
            response: text_response(StatusCode::BAD_GATEWAY, "invalid GRIP response"),
        }
    })
}

/// Splits a response.
///
/// # Errors
/// Fails if its instructions are invalid.
async fn split(response: Response<Body>) -> Result<GripResponse, String> {
    let (mut parts, body) = response.into_parts();
    let headers = parts.headers.iter();
    let headers = headers.map(|(name, value)| (name.as_str(), value.as_bytes()));
    let instruct = Instruct::from_headers(headers).map_err(|error| error.to_string())?;
    if has_instructions(&parts) {
        return split_body(instruct.unwrap_or_default(), parts, body).await;
    }
    remove_headers(&mut parts.headers, |name| match &instruct {
        Some(instruct) => !instruct.exposes(name),
        None => is_grip(name),
    });
    if let Some(status) = instruct.as_ref().and_then(|it| it.status.as_ref()) {
        parts.status = StatusCode::from_u16(status.code).unwrap_or(parts.status);
    }
    Ok(GripResponse {
        instruct,
        response: Response::from_parts(parts, body),
    })
}

fn has_instructions(parts: &Parts) -> bool {
    let content_type = parts.headers.get(header::CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok());
    content_type.is_some_and(is_grip_instruct)
}

/// Splits a response whose body has instructions.
async fn split_body(instruct: Instruct, parts: Parts, body: Body) -> Result<GripResponse, String> {
    if parts.status != StatusCode::OK {
        return Err(format!(
            "unexpected status {} for instructions in a body: expected 200",
            parts.status
        ));
    }
    let json = body.collect().await.map_err(|error| error.to_string())?;
    let mut instruct = instruct
        .with_json(&json.to_bytes())
        .map_err(|error| error.to_string())?;
    let response = match instruct.response.take() {
        Some(response) => published(&response)
            .map_err(|error| error.to_string())?
            .map(full),
        None => Response::new(empty()),
    };
    Ok(GripResponse {
        instruct: Some(instruct),
        response,
    })
}

/// Converts a published response.
///
/// # Errors
/// Fails if the status or a header is invalid.
pub(crate) fn published(response: &HttpResponse) -> http::Result<Response<Bytes>> {
    let mut published = Response::builder().status(StatusCode::from_u16(response.code)?);
    for (name, value) in &response.headers {
        published = published.header(name, value);
    }
    published.body(response.body.clone())
}
