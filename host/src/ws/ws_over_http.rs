//! WebSocket-over-HTTP: sends events to the backend and parses its response.
//!
//! The protocol is described at <https://pushpin.org/docs/protocols/websocket-over-http/>.

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use grip::{
    Event, EventError,
    header::{
        CONNECTION_ID, CONTENT_BYTES_ACCEPTED, CONTENT_BYTES_REPLAYED, GRIP_FEATURE, GRIP_LAST,
        GRIP_SIG, KEEP_ALIVE_INTERVAL, META_PREFIX, SEC_WEBSOCKET_EXTENSIONS, SET_META_PREFIX,
        WEBSOCKET_EVENTS, is_websocket_events,
    },
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use spin_runtime::backend::{self, Backend, BackendError, Body, Caller, WaitsForCapacity};

use crate::{
    config::Limits,
    http::{
        body::{ReadBodyError, read_body},
        signer::Signer,
    },
    pubsub::filter::{MAX_METADATA_ENTRIES, MetaFull},
    telemetry::{
        access_log::WebSocketLine,
        trace_context::SpanContext,
        tracer::{Span, SpanKind, Tracer},
    },
    ws::request_head::RequestHead,
};

const BODY_TIMEOUT: Duration = Limits::DEFAULT.response_body_timeout;

/// The value of `Grip-Feature`, which lists the supported GRIP features: those of Pushpin, and the
/// host's extensions.
const FEATURES: &str = "status, session, link:next, filter:skip-self, filter:skip-users, \
                        filter:require-sub, filter:build-id, filter:var-subst, subscribe:recover, \
                        presence, user, auto-response";

const MIN_KEEP_ALIVE: Duration = Limits::DEFAULT.min_keep_alive_interval;

/// What each request to the backend repeats about a connection.
#[derive(Debug)]
pub(super) struct ConnectionInfo {
    /// The head of the upgrade request.
    pub(super) head: RequestHead,
    /// The value of `Connection-Id`.
    pub(super) id: HeaderValue,
    /// The client's address.
    pub(super) caller: Caller,
    /// The values of `Grip-Last`: the channels whose subscription could not begin where the backend
    /// wanted. Repeated until it has responded.
    pub(super) grip_last: Vec<HeaderValue>,
    /// The `Meta-NAME` headers that the backend has set with `Set-Meta-NAME`.
    pub(super) echoed_headers: Vec<(HeaderName, HeaderValue)>,
    /// The span of the handshake, if the host records spans.
    pub(super) handshake: Option<Box<SpanContext>>,
}

/// A response that consists of events.
#[derive(Debug, Default)]
pub(super) struct EventsResponse {
    pub(super) headers: HeaderMap,
    pub(super) events: Vec<Event>,
}

/// Why a request did not result in an [`EventsResponse`].
#[derive(Debug, thiserror::Error)]
pub(super) enum RoundTripError {
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The response is complete, but does not consist of events.
    #[error("expected status 200 with content type {WEBSOCKET_EVENTS}, got {}", describe(.0))]
    Refused(Box<Response<Body>>),
    #[error("response {0}")]
    Body(#[from] ReadBodyError),
    #[error("malformed events in the response: {0}")]
    Malformed(#[from] EventError),
    /// The response to OPEN neither accepts nor refuses the connection.
    #[error("invalid response to OPEN: {0}")]
    NotOpened(&'static str),
}

/// Returns the status and content type of a response.
fn describe(response: &Response<Body>) -> String {
    let status = response.status();
    match response.headers().get(header::CONTENT_TYPE) {
        Some(content_type) => format!("{status} with {content_type:?}"),
        None => format!("{status} without a content type"),
    }
}

/// Sends a request with events and reads the response, whose body may have `max_bytes`.
pub(super) async fn round_trip(
    backend: Arc<dyn Backend>,
    request: Request<Body>,
    max_bytes: usize,
) -> Result<EventsResponse, RoundTripError> {
    let response = backend.call(request).await?;
    let is_events = response.status() == StatusCode::OK
        && response
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(is_websocket_events);
    if !is_events {
        return Err(RoundTripError::Refused(Box::new(response)));
    }
    let (parts, body) = response.into_parts();
    let body = read_body(body, max_bytes, BODY_TIMEOUT).await?;
    // The size of the body bounds both.
    let limits = grip::Limits {
        content: max_bytes,
        events: max_bytes,
    };
    let events = grip::event::decode_all(body, limits)?;
    Ok(EventsResponse {
        headers: parts.headers,
        events,
    })
}

impl RoundTripError {
    /// Returns whether the request cannot have reached the backend, and so is safe to retry.
    pub(super) fn is_unreachable(&self) -> bool {
        self.is_busy() || matches!(self, Self::Backend(BackendError::Unreachable { .. }))
    }

    /// Returns whether the backend had too many requests to receive this one.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self, Self::Backend(BackendError::Busy { .. }))
    }
}

impl ConnectionInfo {
    /// Builds the upgrade request for a component that handles typed frames.
    pub(super) fn upgrade_request(&self) -> Request<Body> {
        let mut request = Request::new(backend::empty());
        *request.uri_mut() = self.head.uri();
        *request.headers_mut() = self.head.headers(0);
        request.extensions_mut().insert(self.caller);
        request
    }

    /// Builds the request for `events`, of which the first `replayed` bytes of content were sent
    /// before.
    pub(super) fn request(
        &self,
        signer: &Signer,
        events: &[Event],
        replayed: usize,
    ) -> Request<Body> {
        let mut body = BytesMut::new();
        for event in events {
            event.encode(&mut body);
        }
        let mut headers = self
            .head
            .headers(9 + self.grip_last.len() + self.echoed_headers.len());
        let mut set = |name: &'static str, value: HeaderValue| {
            headers.insert(HeaderName::from_static(name), value);
        };
        set("content-type", HeaderValue::from_static(WEBSOCKET_EVENTS));
        set("accept", HeaderValue::from_static(WEBSOCKET_EVENTS));
        set("content-length", HeaderValue::from(body.len()));
        set(CONNECTION_ID, self.id.clone());
        set(GRIP_SIG, signer.token());
        set(GRIP_FEATURE, HeaderValue::from_static(FEATURES));
        set(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static("grip"));
        if replayed > 0 {
            set(CONTENT_BYTES_REPLAYED, HeaderValue::from(replayed));
        }
        for value in &self.grip_last {
            headers.append(HeaderName::from_static(GRIP_LAST), value.clone());
        }
        for (name, value) in &self.echoed_headers {
            headers.insert(name.clone(), value.clone());
        }
        let mut request = Request::new(backend::full(body.freeze()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.head.uri();
        *request.headers_mut() = headers;
        request.extensions_mut().insert(self.caller);
        if events.first() != Some(&Event::Open) {
            // An open WebSocket has at most one request in flight, and must not lose events.
            request.extensions_mut().insert(WaitsForCapacity);
        }
        request
    }

    /// Returns the line of the access log for the WebSocket, which is open now.
    pub(super) fn access_line(&self) -> Box<WebSocketLine> {
        let client = match self.caller {
            Caller::Client(client) => Some(client.address.ip()),
            Caller::Host => None,
        };
        let handshake = match &self.handshake {
            Some(span) => Some(**span),
            None => SpanContext::of(&self.head.headers(0)),
        };
        let trace_id = handshake.map(|span| span.trace_id);
        Box::new(WebSocketLine::new(client, self.head.path(), trace_id))
    }

    /// Starts the span of a request with events, whose backend gets its ids.
    pub(super) fn start_request_span(
        &self,
        tracer: &Tracer,
        request: &mut Request<Body>,
    ) -> Option<Span> {
        let span = self.start_span(tracer)?;
        request.extensions_mut().insert(span.context());
        Some(span)
    }

    /// Starts the span of events for the backend. It begins a trace of its own, since a WebSocket may be
    /// open for days, and has a link to the handshake.
    pub(super) fn start_span(&self, tracer: &Tracer) -> Option<Span> {
        let mut span = tracer.start(SpanKind::Internal, "WebSocket events", None)?;
        span.record(|record| {
            record.link = self.handshake.as_deref().copied();
            record.text("url.path", self.head.path());
            record.text("connection", String::from_utf8_lossy(self.id.as_bytes()));
        });
        Some(span)
    }

    /// Applies the `Set-Meta-NAME` headers of a response; an empty value removes the name.
    ///
    /// # Errors
    /// Fails at the first name that exceeds the limit; the headers before it are applied.
    pub(super) fn update_meta(&mut self, headers: &HeaderMap) -> Result<(), MetaFull> {
        for (name, value) in headers {
            let Some(name) = name.as_str().strip_prefix(SET_META_PREFIX) else {
                continue;
            };
            // Never fails: the suffix of a valid name is valid after another prefix.
            let Ok(name) = HeaderName::try_from(format!("{META_PREFIX}{name}")) else {
                continue;
            };
            self.echoed_headers
                .retain(|(existing, _)| *existing != name);
            // Copied, since the value may be a slice of the response's whole head.
            if !value.is_empty()
                && let Ok(value) = HeaderValue::from_bytes(value.as_bytes())
            {
                if self.echoed_headers.len() == MAX_METADATA_ENTRIES {
                    return Err(MetaFull);
                }
                self.echoed_headers.push((name, value));
            }
        }
        Ok(())
    }
}

impl EventsResponse {
    /// Returns the keep-alive interval that the response sets. `None` leaves it unchanged and
    /// `Some(None)` turns keep-alive off, as does a value that is not a number.
    pub(super) fn keep_alive(&self) -> Option<Option<Duration>> {
        self.headers.get(KEEP_ALIVE_INTERVAL)?;
        let seconds = self.number(KEEP_ALIVE_INTERVAL).unwrap_or(0);
        Some((seconds > 0).then(|| Duration::from_secs(seconds).max(MIN_KEEP_ALIVE)))
    }

    /// Returns how many bytes of the request's content were accepted; `None` means all.
    pub(super) fn accepted(&self) -> Option<usize> {
        self.number(CONTENT_BYTES_ACCEPTED)?.try_into().ok()
    }

    fn number(&self, header: &str) -> Option<u64> {
        self.headers.get(header)?.to_str().ok()?.trim().parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pubsub::filter::Filter;

    #[test]
    fn short_keep_alive_intervals_are_raised_to_the_minimum() {
        let interval = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(KEEP_ALIVE_INTERVAL, HeaderValue::from_static(value));
            let response = EventsResponse {
                headers,
                events: Vec::new(),
            };
            response
                .keep_alive()
                .map(|set| set.map(|interval| interval.as_secs()))
        };
        assert_eq!(
            [interval("30"), interval("1"), interval(" 20 ")],
            [Some(Some(30)), Some(Some(20)), Some(Some(20))]
        );
        for off in ["0", "soon", "-1"] {
            assert_eq!(interval(off), Some(None), "{off}");
        }
    }

    #[test]
    fn missing_headers_accept_everything_and_keep_the_interval() {
        let mut response = EventsResponse {
            headers: HeaderMap::new(),
            events: Vec::new(),
        };
        assert_eq!((response.accepted(), response.keep_alive()), (None, None));
        for (value, accepted) in [("7", Some(7)), ("0", Some(0)), ("-1", None), ("x", None)] {
            let value = HeaderValue::from_static(value);
            response.headers.insert(CONTENT_BYTES_ACCEPTED, value);
            assert_eq!(response.accepted(), accepted);
        }
    }

    #[test]
    fn every_filter_is_a_feature() {
        for (name, _) in Filter::NAMES {
            assert!(FEATURES.contains(&format!("filter:{name}")), "{name}");
        }
    }
}
