//! The WebSocket handshake: turns an upgrade request into a session, or refuses it.

use std::sync::Arc;

use base64::{
    Engine, alphabet,
    engine::{GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use grip::Event;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header,
};
use hyper::{
    body::Incoming,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::{rt::TokioIo, server::conn::auto::upgrade};
use spin_runtime::{
    backend::{Body, Caller, Client, empty},
    websocket::Opening,
};
use tokio::sync::oneshot;
use tracing::{Instrument, debug, debug_span, error, warn};
use tungstenite::handshake::derive_accept_key;
use uuid::Uuid;

use crate::{
    config::AllowedOrigins,
    http::{
        error_response::{RETRY_AFTER, backend_error_response, overload_response, text_response},
        extended_connect::is_extended_connect,
        headers::{list_items, remove_hop_headers, remove_private_headers},
        origin::is_allowed,
    },
    metrics::registry::Dropped,
    net::{
        addresses::{AddressGuard, AtLimit},
        connection::ConnectionHandle,
        io::Io,
        stream::Stream,
    },
    state::{
        Services,
        sessions::{SessionGuard, SessionInfo},
    },
    ws::{
        deflate::Deflate,
        driver,
        outbox::{Connection, Outbox},
        request_head::RequestHead,
        session::Session,
        shared_stream::SharedStream,
        typed_link::TypedLink,
        ws_over_http::{ConnectionInfo, EventsResponse, RoundTripError, round_trip},
    },
};

/// Returns whether a request asks for a WebSocket: by an HTTP/1.1 upgrade, or by an HTTP/2 extended
/// CONNECT (RFC 8441). Other upgrades are ignored.
pub(crate) fn is_upgrade<B>(request: &Request<B>) -> bool {
    is_extended_connect(request)
        || request.method() == Method::GET
            && request.version() == Version::HTTP_11
            && contains_token(request.headers(), &header::CONNECTION, "upgrade")
            && contains_token(request.headers(), &header::UPGRADE, "websocket")
}

/// Opens a WebSocket, or refuses it. The caller must have removed the private headers.
pub(crate) async fn open(
    services: &Arc<Services>,
    mut request: Request<Incoming>,
    client: Client,
) -> Response<Body> {
    let acceptance = match validate(&request, &services.allowed_origins) {
        Ok(acceptance) => acceptance,
        Err(refusal) => {
            if refusal.status() == StatusCode::FORBIDDEN {
                record_refused_origin(services, &request);
            }
            return *refusal;
        }
    };
    let address_guard = match admit(services, client) {
        Ok(guard) => guard,
        Err(refusal) => return *refusal,
    };
    let deflate = services
        .limits
        .compression
        .then(|| Deflate::negotiate(request.headers()));
    let (deflate, extensions) = deflate.flatten().unzip();
    let outbox = Outbox::new(
        services.limits.max_outgoing_buffer_bytes,
        services.limits.max_response_events_bytes,
        deflate,
    );
    let connection_id = Uuid::new_v4();
    let session_info = SessionInfo {
        connection: connection_id,
        path: request.uri().path().into(),
        address: client.limited_address.unwrap_or(client.address.ip()),
    };
    let Some(guard) = services.sessions.register(outbox.clone(), session_info) else {
        services.metrics.dropped(Dropped::Full).inc();
        let text = "too many open WebSockets, try again later";
        return overload_response(StatusCode::SERVICE_UNAVAILABLE, text, RETRY_AFTER);
    };
    let upgraded = hyper::upgrade::on(&mut request);
    let info = ConnectionInfo {
        head: RequestHead::new(request.uri(), &end_to_end(request.headers())),
        id: header_value(connection_id),
        caller: Caller::Client(client),
        grip_last: Vec::new(),
        echoed_headers: Vec::new(),
        handshake: request.extensions().get().copied().map(Box::new),
    };
    let span = debug_span!("session", connection = ?info.id, route = info.head.path());
    let connection = ConnectionHandle::of(&request);
    drop(request);
    let (response_sender, response) = oneshot::channel();
    let handshake = Handshake {
        services: services.clone(),
        info,
        outbox,
        guard,
        address_guard,
        acceptance,
        extensions,
        response_sender,
    };
    // Runs in its own task: this future is dropped when the client disconnects, but a backend
    // that has accepted must then receive a DISCONNECT.
    let session = handshake.serve(upgraded).instrument(span);
    tokio::spawn(ConnectionHandle::run_upgraded(connection, session));
    response.await.unwrap_or_else(|_| {
        text_response(
            StatusCode::INTERNAL_SERVER_ERROR,
            "WebSocket handshake failed",
        )
    })
}

/// Counts the WebSocket or the tunnel that a client opens.
///
/// # Errors
/// At a limit of the client's address, returns the response for it.
pub(crate) fn admit(
    services: &Services,
    client: Client,
) -> Result<Option<AddressGuard>, Box<Response<Body>>> {
    let address = client.limited_address;
    let refuse = |reason, text, wait| {
        services.metrics.dropped(reason).inc();
        let refusal = overload_response(StatusCode::TOO_MANY_REQUESTS, text, wait);
        Err(Box::new(refusal))
    };
    if let Err(wait) = services.addresses.handshake(address) {
        let text = "too many handshakes of one address, try again later";
        return refuse(Dropped::AddressHandshakes, text, wait);
    }
    services.addresses.hold(address).or_else(|AtLimit| {
        let text = "too many WebSockets of one address, try again later";
        refuse(Dropped::AddressHolds, text, RETRY_AFTER)
    })
}

/// Accepts an upgrade request without a backend, if it does not come from a page of another origin.
pub(crate) fn accept_same_origin<B>(
    request: &Request<B>,
) -> Result<Response<Body>, Box<Response<Body>>> {
    let acceptance = validate(request, &AllowedOrigins::default())?;
    Ok(acceptance.response(&HeaderMap::new(), None))
}

/// How a WebSocket is accepted.
#[derive(Debug, PartialEq, Eq)]
enum Acceptance {
    /// With status 101 and this value of `Sec-WebSocket-Accept`.
    Upgrade { accept_key: String },
    /// With status 200, on an HTTP/2 stream.
    Stream,
}

/// A valid upgrade request that the backend has yet to accept.
struct Handshake {
    services: Arc<Services>,
    info: ConnectionInfo,
    outbox: Arc<Outbox>,
    guard: SessionGuard,
    address_guard: Option<AddressGuard>,
    acceptance: Acceptance,
    /// The value of `Sec-WebSocket-Extensions` in the response.
    extensions: Option<HeaderValue>,
    response_sender: oneshot::Sender<Response<Body>>,
}

impl Handshake {
    /// Asks the backend, responds to the client, and serves the socket until it is closed.
    async fn serve(self, upgraded: OnUpgrade) {
        let Self {
            services,
            info,
            outbox,
            guard,
            address_guard: _address_guard,
            acceptance,
            extensions,
            response_sender,
        } = self;
        let metrics = services.metrics.clone();
        // Boxed, since otherwise the task of an open socket would keep the space for it.
        let opened = Box::pin(ask_backend(services, info, outbox, guard)).await;
        let (mut session, headers) = match opened {
            Ok(opened) => opened,
            Err(refusal) => {
                // Fails only if the client has disconnected.
                let _ = response_sender.send(*refusal);
                return;
            }
        };
        let accepted = acceptance.response(&headers, extensions);
        let access_log = session.services.telemetry.access_log;
        let line = access_log.then(|| session.info.access_line());
        if session.typed.is_some() {
            // Only requests repeat the headers.
            session.info.head = session.info.head.without_headers();
        }
        session.applied().await;
        debug!("session opened");
        let reason = match response_sender.send(accepted) {
            Ok(()) => match upgraded.await.map(into_connection) {
                Ok((connection, early)) => driver::serve(session, connection, early).await,
                // The client disconnected before the handshake was complete.
                Err(_) => Box::pin(driver::abandon(session)).await,
            },
            Err(_) => Box::pin(driver::abandon(session)).await,
        };
        debug!(reason = reason.name(), "session closed");
        metrics.session_ended(reason);
        if let Some(line) = line {
            line.closed(reason);
        }
    }
}

/// A session that the backend has accepted, and the headers of its response.
type Opened = Result<(Session, HeaderMap), Box<Response<Body>>>;

/// Asks the backend, in the way in which its component handles WebSockets.
///
/// # Errors
/// If the backend refuses or fails, returns the response for the client.
async fn ask_backend(
    services: Arc<Services>,
    info: ConnectionInfo,
    outbox: Arc<Outbox>,
    guard: SessionGuard,
) -> Opened {
    let path = info.head.path();
    if let Some(starting) = services.backend.starting(path) {
        let started = starting.await;
        started.map_err(|error| Box::new(backend_error_response(&error)))?;
    }
    match services.backend.websocket_component(path) {
        Some(_) => open_typed(services, info, outbox, guard).await,
        None => open_over_http(services, info, outbox, guard).await,
    }
}

/// Asks the backend with an OPEN event.
///
/// # Errors
/// If the backend refuses or fails, returns the response for the client.
async fn open_over_http(
    services: Arc<Services>,
    mut info: ConnectionInfo,
    outbox: Arc<Outbox>,
    guard: SessionGuard,
) -> Opened {
    let mut request = info.request(&services.signer, &[Event::Open], 0);
    if let Some(span) = &info.handshake {
        request.extensions_mut().insert(**span);
    }
    let max_bytes = services.limits.max_response_events_bytes;
    let response = round_trip(services.backend.clone(), request, max_bytes).await;
    let response = response.and_then(take_open);
    let response = response.map_err(|error| Box::new(refusal(error, &info)))?;
    info.head = info.head.without_browser_headers();
    let headers = response.headers.clone();
    let session = Session::new(services, info, outbox, guard, response);
    Ok((session, headers))
}

/// Passes the upgrade request to a component that handles typed frames.
///
/// # Errors
/// If the component refuses or fails, returns the response for the client.
async fn open_typed(
    services: Arc<Services>,
    info: ConnectionInfo,
    outbox: Arc<Outbox>,
    guard: SessionGuard,
) -> Opened {
    let token = services.socket_tokens.register(outbox.clone());
    let mut request = info.upgrade_request();
    if let Some(span) = &info.handshake {
        request.extensions_mut().insert(**span);
    }
    let opening = services
        .backend
        .open_websocket(token.token().clone(), request)
        .await;
    let opening = opening.map_err(|error| Box::new(backend_error_response(&error)))?;
    let Opening {
        component,
        mut response,
        call,
    } = opening;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        remove_private_headers(response.headers_mut());
        return Err(Box::new(response));
    }
    let headers = std::mem::take(response.headers_mut());
    let link = TypedLink::new(component, token, call);
    Ok((Session::typed(services, info, outbox, guard, link), headers))
}

/// Ignores the unused bits at the end of a key, as other servers do: some clients set them.
const KEY_BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// Validates the handshake's headers (RFC 6455, 4.2.1) and the origin, and returns how to accept the
/// WebSocket.
fn validate<B>(
    request: &Request<B>,
    origins: &AllowedOrigins,
) -> Result<Acceptance, Box<Response<Body>>> {
    let headers = request.headers();
    let refuse = |status, text: &str| Err(Box::new(text_response(status, text)));
    // This host and a server behind it could each use another of several values (RFC 6455, sections
    // 11.3.1 and 11.3.5; RFC 6454, section 7.3).
    for name in [
        header::SEC_WEBSOCKET_KEY,
        header::SEC_WEBSOCKET_VERSION,
        header::ORIGIN,
    ] {
        if headers.get_all(&name).iter().nth(1).is_some() {
            let text = format!("more than one header {name}");
            return refuse(StatusCode::BAD_REQUEST, &text);
        }
    }
    if headers
        .get(header::SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        let mut refusal = text_response(
            StatusCode::UPGRADE_REQUIRED,
            "Sec-WebSocket-Version must be 13",
        );
        refusal.headers_mut().insert(
            header::SEC_WEBSOCKET_VERSION,
            HeaderValue::from_static("13"),
        );
        return Err(Box::new(refusal));
    }
    let acceptance = if is_extended_connect(request) {
        // HTTP/2 does not use the key (RFC 8441, section 5).
        Acceptance::Stream
    } else {
        let key = headers
            .get(header::SEC_WEBSOCKET_KEY)
            .map_or(&b""[..], HeaderValue::as_bytes);
        if KEY_BASE64.decode(key).map_or(0, |key| key.len()) != 16 {
            return refuse(
                StatusCode::BAD_REQUEST,
                "Sec-WebSocket-Key must be 16 bytes in base64",
            );
        }
        Acceptance::Upgrade {
            accept_key: derive_accept_key(key),
        }
    };
    if let Some(origin) = headers.get(header::ORIGIN)
        && !is_allowed(origins, origin, headers.get(header::HOST))
    {
        return refuse(
            StatusCode::FORBIDDEN,
            "WebSockets are not allowed from this origin",
        );
    }
    Ok(acceptance)
}

/// Logs and counts a handshake that was refused for its origin.
fn record_refused_origin<B>(services: &Services, request: &Request<B>) {
    services.metrics.dropped(Dropped::Origin).inc();
    services.refused_origins.log(|| {
        let headers = request.headers();
        warn!(
            origin = ?headers.get(header::ORIGIN),
            host = ?headers.get(header::HOST),
            route = request.uri().path(),
            key = "application.tool.socket-host.websocket.allowed-origins",
            "WebSocket refused: origin not allowed"
        );
    });
}

/// Returns the headers to pass on: neither hop-by-hop headers nor those of the handshake.
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    remove_hop_headers(&mut headers);
    for name in HANDSHAKE_HEADERS {
        headers.remove(name);
    }
    headers
}

/// Headers of the handshake, and headers that describe a body, which an upgrade request lacks.
const HANDSHAKE_HEADERS: [HeaderName; 12] = [
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_EXTENSIONS,
    header::SEC_WEBSOCKET_ACCEPT,
    header::TE,
    header::TRAILER,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::EXPECT,
    header::ACCEPT,
    header::ACCEPT_ENCODING,
];

/// Removes the OPEN event from a response to OPEN, where it must be the first event. A response
/// without events is allowed if it sets a keep-alive interval.
fn take_open(mut response: EventsResponse) -> Result<EventsResponse, RoundTripError> {
    match response.events.first() {
        Some(Event::Open) => {
            response.events.remove(0);
            Ok(response)
        }
        None if response.keep_alive().flatten().is_some() => Ok(response),
        None => Err(RoundTripError::NotOpened(
            "no events and no Keep-Alive-Interval",
        )),
        Some(_) => Err(RoundTripError::NotOpened("the first event is not OPEN")),
    }
}

/// Returns the response for a client whose OPEN was not accepted.
fn refusal(error: RoundTripError, info: &ConnectionInfo) -> Response<Body> {
    match error {
        // The component does not know about WebSockets: it answered like any other POST, or
        // accepts no POST, which the client has not sent.
        RoundTripError::Refused(response)
            if response.status().is_success()
                || response.status() == StatusCode::METHOD_NOT_ALLOWED =>
        {
            text_response(
                StatusCode::UPGRADE_REQUIRED,
                "this route does not accept WebSockets",
            )
        }
        RoundTripError::Refused(mut response) => {
            remove_private_headers(response.headers_mut());
            *response
        }
        RoundTripError::Backend(error) => backend_error_response(&error),
        error => {
            let route = info.head.path();
            error!(connection = ?info.id, route, %error, "WebSocket handshake failed");
            text_response(
                StatusCode::BAD_GATEWAY,
                "invalid WebSocket-over-HTTP response from the backend",
            )
        }
    }
}

impl Acceptance {
    /// Returns the response that opens the WebSocket, with the end-to-end headers of the backend's
    /// response.
    fn response(
        &self,
        backend_headers: &HeaderMap,
        extensions: Option<HeaderValue>,
    ) -> Response<Body> {
        let mut response = Response::new(empty());
        let headers = response.headers_mut();
        // These include Sec-WebSocket-Protocol, which the backend may choose.
        *headers = end_to_end(backend_headers);
        remove_private_headers(headers);
        if let Some(extensions) = extensions {
            headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, extensions);
        }
        if let Self::Upgrade { accept_key } = self {
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            if let Ok(accept_key) = HeaderValue::from_str(accept_key) {
                headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept_key);
            }
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        }
        response
    }
}

/// Returns the value of `Connection-Id` for an id.
fn header_value(id: Uuid) -> HeaderValue {
    let mut buffer = [0; uuid::fmt::Hyphenated::LENGTH];
    let id = id.hyphenated().encode_lower(&mut buffer);
    HeaderValue::from_str(id).unwrap_or(HeaderValue::from_static(""))
}

/// Returns the connection of a WebSocket, and the bytes already read from it.
fn into_connection(upgraded: Upgraded) -> (Arc<dyn Connection>, Bytes) {
    let parts = match upgrade::downcast::<Io<TokioIo<Stream>>>(upgraded) {
        Ok(parts) => parts,
        // An HTTP/2 stream.
        Err(upgraded) => {
            let stream = SharedStream::new(TokioIo::new(upgraded));
            return (Arc::new(stream), Bytes::new());
        }
    };
    // Copied, since it may be the tail of hyper's whole read buffer.
    let early = if parts.read_buf.is_empty() {
        Bytes::new()
    } else {
        Bytes::copy_from_slice(&parts.read_buf)
    };
    let connection: Arc<dyn Connection> = match parts.io.into_inner().into_inner() {
        Stream::Plain(stream) => Arc::new(stream),
        Stream::Tls(stream) => Arc::new(SharedStream::new(*stream)),
    };
    (connection, early)
}

/// Returns whether a comma-separated header contains `token`, ignoring case.
fn contains_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    list_items(headers, name).any(|item| item.eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any_origin() -> AllowedOrigins {
        AllowedOrigins {
            any: true,
            ..AllowedOrigins::default()
        }
    }

    #[test]
    fn invalid_handshakes_are_refused() {
        let request = |version: &str, key: &str| {
            Request::get("/")
                .header("sec-websocket-version", version)
                .header("sec-websocket-key", key)
                .body(())
                .unwrap()
        };
        let origins = AllowedOrigins::default();
        let status = |request| validate(&request, &origins).map_err(|refusal| refusal.status());
        // The example of RFC 6455, 1.3.
        assert_eq!(
            status(request("13", "dGhlIHNhbXBsZSBub25jZQ==")),
            Ok(Acceptance::Upgrade {
                accept_key: "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".into()
            })
        );
        assert_eq!(
            status(request("8", "dGhlIHNhbXBsZSBub25jZQ==")),
            Err(StatusCode::UPGRADE_REQUIRED)
        );
        assert_eq!(
            status(request("13", "c2hvcnQ=")),
            Err(StatusCode::BAD_REQUEST)
        );
        assert_eq!(
            status(request("13", "not base64")),
            Err(StatusCode::BAD_REQUEST)
        );
    }

    #[test]
    fn headers_that_may_occur_once_are_refused_twice() {
        let origins = any_origin();
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        let status = |extra: Option<(&str, &str)>| {
            let mut request = Request::get("/")
                .header("sec-websocket-version", "13")
                .header("sec-websocket-key", key)
                .header("origin", "http://a")
                .header("sec-websocket-protocol", "chat");
            if let Some((name, value)) = extra {
                request = request.header(name, value);
            }
            let request = request.body(()).unwrap();
            validate(&request, &origins).map_err(|refusal| refusal.status())
        };
        for (name, value) in [
            ("sec-websocket-key", key),
            ("sec-websocket-key", "eHh4eHh4eHh4eHh4eHh4eA=="),
            ("sec-websocket-version", "13"),
            ("sec-websocket-version", "8"),
            ("origin", "http://b"),
        ] {
            let status = status(Some((name, value)));
            assert_eq!(status, Err(StatusCode::BAD_REQUEST), "{name}");
        }
        assert!(status(None).is_ok());
        assert!(status(Some(("sec-websocket-protocol", "superchat"))).is_ok());
    }

    #[test]
    fn unused_bits_of_a_key_are_ignored() {
        let accepts = |key: &str| {
            let request = Request::get("/")
                .header("sec-websocket-version", "13")
                .header("sec-websocket-key", key)
                .body(())
                .unwrap();
            validate(&request, &any_origin()).is_ok()
        };
        assert!(accepts("AAAAAAAAAAAAAAAAAAAAAA=="));
        assert!(accepts("AAAAAAAAAAAAAAAAAAAAAB=="));
        for invalid in [
            "AAAAAAAAAAAAAAAAAAAAAA",
            "AAAAAAAAAAAAAAAAAAAA====",
            "_AAAAAAAAAAAAAAAAAAAAA==",
        ] {
            assert!(!accepts(invalid), "{invalid}");
        }
    }

    #[test]
    fn hop_by_hop_and_handshake_headers_are_not_forwarded() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("host", "localhost"),
            ("cookie", "a=1"),
            ("sec-websocket-protocol", "chat"),
            ("connection", "keep-alive, Upgrade, X-Hop"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "x"),
            ("sec-websocket-extensions", "permessage-deflate"),
            ("x-hop", "1"),
            ("keep-alive", "5"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let names: Vec<_> = end_to_end(&headers)
            .keys()
            .map(|name| name.as_str().to_owned())
            .collect();
        assert_eq!(names, ["host", "cookie", "sec-websocket-protocol"]);
    }
}
