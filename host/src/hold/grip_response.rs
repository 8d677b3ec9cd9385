//! One answer of the backend, and what it asks of the host.

use bytes::{Bytes, BytesMut};
use grip::{
    Instruct, InstructError,
    header::{is_grip, is_grip_instruct},
    hold::{HoldMode, Status},
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::ext::ReasonPhrase;
use tokio::time::timeout;
use tracing::error;

use crate::{
    http::{
        error_response::{answer, failure},
        headers::remove_headers,
    },
    pubsub::publication::PublishedResponse,
    ws::ws_over_http::REPLY_PATIENCE,
};
use spin_runtime::backend::{Backend, Body, empty, full};

/// The most bytes of an answer that has to be read whole: instructions, or what a held
/// response is answered with when nothing is published.
const MAX_WHOLE: usize = 1_000_000;

/// See the module's words.
pub(crate) struct GripResponse {
    /// `None`: it asks nothing.
    pub(crate) instruct: Option<Instruct>,
    /// As the client may see it.
    pub(crate) response: Response<Body>,
}

/// Why an answer cannot be acted on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PartError {
    /// Its instructions are wrong.
    #[error("{0}")]
    Instruct(#[from] InstructError),
    /// Its instructions' own answer is no HTTP.
    #[error("instruct.response.{0}")]
    Response(String),
    /// It has a status that instructions do not go with.
    #[error("instructions in a body need the status 200, and not {0}")]
    Status(StatusCode),
    /// It is too large.
    #[error("the body has more than {MAX_WHOLE} bytes, too much to be kept")]
    TooLarge,
    /// It ended early.
    #[error("the body ended early: {0}")]
    Body(spin_runtime::backend::BodyError),
    /// It did not come to its end.
    #[error("the body did not end within {REPLY_PATIENCE:?}")]
    Stalled,
}

impl GripResponse {
    /// Reads what an answer asks, and takes it out.
    ///
    /// # Errors
    /// It cannot be acted on; the client should be told 502.
    pub(crate) async fn read(response: Response<Body>) -> Result<Self, PartError> {
        let is_instruct = has_instructions(&response);
        let is_plain = !response.headers().keys().any(|name| is_grip(name.as_str()));
        if is_plain && !is_instruct {
            return Ok(Self {
                instruct: None,
                response,
            });
        }
        let (mut parts, body) = response.into_parts();
        let headers = parts.headers.iter();
        let headers = headers.map(|(name, value)| (name.as_str(), value.as_bytes()));
        let mut instruct = Instruct::from_headers(headers)?;
        let mut body = body;
        if is_instruct {
            if parts.status != StatusCode::OK {
                return Err(PartError::Status(parts.status));
            }
            let json = whole(body).await?;
            let mut read = instruct.unwrap_or_default().with_json(&json)?;
            let own = read.response.take().map(PublishedResponse::new).transpose();
            let own = own.map_err(PartError::Response)?;
            let (status, reason);
            (status, reason, parts.headers, body) = match own {
                Some(own) => (own.status, own.reason, own.headers, full(own.body)),
                None => (StatusCode::OK, None, HeaderMap::new(), full(Bytes::new())),
            };
            parts.status = status;
            parts.extensions.extend(reason_phrase(reason));
            instruct = Some(read);
        } else {
            keep_exposed(&mut parts.headers, instruct.as_ref());
            if let Some(Status { code, reason }) = instruct.as_ref().and_then(|i| i.status.clone())
            {
                // The instructions' reader has checked it.
                parts.status = StatusCode::from_u16(code).unwrap_or(parts.status);
                parts.extensions.extend(reason_phrase(reason));
            }
        }
        Ok(Self {
            instruct,
            response: Response::from_parts(parts, body),
        })
    }

    /// Returns how the response asks to be held, if it does.
    pub(crate) fn hold_mode(&self) -> Option<HoldMode> {
        let instruct = self.instruct.as_ref()?;
        // A response with a next part is a stream whose parts are fetched one after another.
        let next = instruct.next.as_ref().map(|_| HoldMode::Stream);
        instruct.hold.or(next)
    }

    /// Asks the backend and reads its answer.
    ///
    /// # Errors
    /// What the client is to be told when there is none.
    pub(crate) async fn fetch(
        backend: &dyn Backend,
        request: Request<Body>,
    ) -> Result<Self, Response<Body>> {
        let path = request.uri().path().to_owned();
        let is_head = request.method() == Method::HEAD;
        let response = backend.call(request).await;
        let response = response.map_err(|error| failure(&error))?;
        if is_head && has_instructions(&response) {
            // They are in the body that it does not have.
            return Ok(Self {
                instruct: None,
                response: Response::new(empty()),
            });
        }
        Self::read(response).await.map_err(|problem| {
            error!(
                route = path,
                "the backend's answer cannot be acted on: {problem}"
            );
            refusal()
        })
    }
}

/// Whether a body is instructions.
fn has_instructions(response: &Response<Body>) -> bool {
    let content_type = response.headers().get(header::CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok());
    content_type.is_some_and(is_grip_instruct)
}

/// Whether a body is not what it says, but compressed or the like.
pub(crate) fn is_coded(response: &Response<Body>) -> bool {
    let codings = response.headers().get_all(header::CONTENT_ENCODING);
    codings
        .iter()
        .any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// What the client is told when the backend's instructions cannot be followed.
pub(crate) fn refusal() -> Response<Body> {
    answer(
        StatusCode::BAD_GATEWAY,
        "the backend asks for something that cannot be done",
    )
}

/// The whole of a body.
///
/// # Errors
/// It is too large, ends early, or does not end in time.
pub(crate) async fn whole(mut body: Body) -> Result<Bytes, PartError> {
    let read = async {
        let mut whole = BytesMut::new();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.map_err(PartError::Body)?.into_data() {
                if whole.len() + data.len() > MAX_WHOLE {
                    return Err(PartError::TooLarge);
                }
                whole.extend_from_slice(&data);
            }
        }
        Ok(whole.freeze())
    };
    let read = timeout(REPLY_PATIENCE, read).await;
    read.unwrap_or(Err(PartError::Stalled))
}

/// A reason phrase as an extension of a response, which HTTP/1 sends.
pub(crate) fn reason_phrase(reason: Option<String>) -> http::Extensions {
    let mut extensions = http::Extensions::new();
    let reason = reason.and_then(|reason| ReasonPhrase::try_from(reason.into_bytes()).ok());
    if let Some(reason) = reason {
        extensions.insert(reason);
    }
    extensions
}

fn keep_exposed(headers: &mut HeaderMap<HeaderValue>, instruct: Option<&Instruct>) {
    let exposed = |name: &str| match instruct {
        Some(instruct) => instruct.exposes(name),
        None => !is_grip(name),
    };
    remove_headers(headers, |name| !exposed(name.as_str()));
}
