//! WebSocket-over-HTTP: sends events to the component and parses its response.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use grip::{
    Event, event,
    header::{
        CONNECTION_ID, CONTENT_BYTES_ACCEPTED, GRIP_LAST, KEEP_ALIVE_INTERVAL,
        SEC_WEBSOCKET_EXTENSIONS, WEBSOCKET_EVENTS, is_websocket_events,
    },
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use spin_runtime::backend::{Body, WaitsForCapacity, full};
use tokio::time::timeout;

use super::metadata::Metadata;
use crate::{
    failure::{error_response, text_response},
    host::Host,
    request::ClientRequest,
};

/// The shortest interval between empty requests.
const MIN_KEEP_ALIVE: Duration = Duration::from_secs(20);

/// How long the body of a response may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// The most bytes of events in a response: the default of the host.
const MAX_EVENTS_BYTES: usize = 1_000_000;

/// What the requests of a WebSocket have in common.
pub(super) struct Connection {
    pub(super) host: Arc<Host>,
    pub(super) head: ClientRequest,
    id: HeaderValue,
    pub(super) metadata: Metadata,
    /// The channels whose items the component must send itself.
    pub(super) grip_last: Vec<HeaderValue>,
}

/// A response that consists of events.
pub(super) struct EventsResponse {
    pub(super) headers: HeaderMap,
    pub(super) events: Vec<Event>,
}

/// Why a request has not resulted in an [`EventsResponse`].
pub(super) enum RequestError {
    /// The response consists of something else.
    Refused(Response<Body>),
    /// The component has failed, which is recorded.
    Failed(Response<Body>),
}

impl Connection {
    /// Prepares the requests of a new WebSocket.
    pub(super) fn new(host: Arc<Host>, head: ClientRequest) -> Self {
        Self {
            id: host.connection_id(),
            host,
            head,
            metadata: Metadata::default(),
            grip_last: Vec::new(),
        }
    }

    /// Sends events to the component.
    pub(super) async fn send(&mut self, events: &[Event]) -> Result<EventsResponse, RequestError> {
        let request = self.request(events);
        let response = self.host.call(request).await;
        let response = response.map_err(|error| RequestError::Failed(error_response(&error)))?;
        self.grip_last.clear();
        let content_type = response.headers().get(header::CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok());
        if response.status() != StatusCode::OK || !content_type.is_some_and(is_websocket_events) {
            return Err(RequestError::Refused(response));
        }
        let failed = |error: String| {
            self.fail(&error);
            let text = "invalid response with events";
            RequestError::Failed(text_response(StatusCode::BAD_GATEWAY, text))
        };
        let (parts, body) = response.into_parts();
        let body = timeout(BODY_TIMEOUT, read_body(body)).await;
        let body = body.unwrap_or_else(|_| Err(format!("took longer than {BODY_TIMEOUT:?}")));
        let body = body.map_err(|error| failed(format!("response: {error}")))?;
        let limits = event::Limits {
            content: MAX_EVENTS_BYTES,
            events: MAX_EVENTS_BYTES,
        };
        let events_of_response =
            event::decode_all(body, limits).map_err(|error| failed(error.to_string()))?;
        let offered: usize = events.iter().map(Event::content_len).sum();
        if let Some(accepted) = parts.headers.get(CONTENT_BYTES_ACCEPTED)
            && accepted.to_str().ok() != Some(offered.to_string().as_str())
        {
            return Err(failed(
                "Content-Bytes-Accepted of a part of the content is not simulated".to_owned(),
            ));
        }
        Ok(EventsResponse {
            headers: parts.headers,
            events: events_of_response,
        })
    }

    fn request(&self, events: &[Event]) -> Request<Body> {
        let body: Bytes = event::encode_all(events);
        let mut request = self.head.to_backend();
        let headers = request.headers_mut();
        self.host.sign(headers);
        let mut set = |name: &'static str, value: HeaderValue| {
            headers.insert(HeaderName::from_static(name), value);
        };
        set("content-type", HeaderValue::from_static(WEBSOCKET_EVENTS));
        set("accept", HeaderValue::from_static(WEBSOCKET_EVENTS));
        set("content-length", body.len().into());
        set(CONNECTION_ID, self.id.clone());
        set(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static("grip"));
        for value in &self.grip_last {
            headers.append(HeaderName::from_static(GRIP_LAST), value.clone());
        }
        self.metadata.add_to(headers);
        *request.method_mut() = Method::POST;
        if events.first() != Some(&Event::Open) {
            request.extensions_mut().insert(WaitsForCapacity);
        }
        request.map(|_| full(body))
    }

    pub(super) fn fail(&self, error: &str) {
        self.host.fail(self.head.uri.path(), error);
    }
}

impl EventsResponse {
    /// Returns the keep-alive interval that the response sets. `None` leaves it unchanged, and
    /// `Some(None)` turns keep-alive off.
    pub(super) fn keep_alive(&self) -> Option<Option<Duration>> {
        let value = self.headers.get(KEEP_ALIVE_INTERVAL)?.to_str();
        let seconds: u64 = value
            .ok()
            .and_then(|it| it.trim().parse().ok())
            .unwrap_or(0);
        Some((seconds > 0).then(|| Duration::from_secs(seconds).max(MIN_KEEP_ALIVE)))
    }
}

/// Reads the body of a response with events.
///
/// # Errors
/// Fails if the body ends early or is too large.
async fn read_body(mut body: Body) -> Result<Bytes, String> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| error.to_string())?;
        bytes.extend_from_slice(&frame.into_data().unwrap_or_default());
        if bytes.len() > MAX_EVENTS_BYTES {
            return Err(format!("more than {MAX_EVENTS_BYTES} bytes"));
        }
    }
    Ok(bytes.freeze())
}
