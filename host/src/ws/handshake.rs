//! The WebSocket handshake: from an upgrade request to a session, or to a refusal.

use std::{net::SocketAddr, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
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
use tokio::{net::TcpStream, sync::oneshot};
use tracing::{debug, error};
use tungstenite::handshake::derive_accept_key;
use uuid::Uuid;

use crate::config::AllowedOrigins;
use crate::{
    http::{
        error_response::{backend_error_response, text_response},
        headers::{list_items, remove_hop_headers, remove_private_headers},
    },
    metrics::registry::Dropped,
    net::connection::{ConnectionHandle, Io},
    state::{Services, sessions::SessionGuard},
    ws::{
        driver,
        outbox::Outbox,
        request_head::RequestHead,
        session::Session,
        ws_over_http::{ExchangeError, Identity, Reply, exchange},
    },
};
use spin_runtime::backend::{Body, Caller, empty};

/// Whether a request asks for a WebSocket. Other upgrades are not offered, and so ignored.
pub(crate) fn is_upgrade<B>(request: &Request<B>) -> bool {
    request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && lists(request.headers(), &header::CONNECTION, "upgrade")
        && lists(request.headers(), &header::UPGRADE, "websocket")
}

/// Opens a WebSocket, or says why not. The private headers must be gone from the request.
pub(crate) async fn open(
    services: &Arc<Services>,
    mut request: Request<Incoming>,
    client: SocketAddr,
) -> Response<Body> {
    let accept = match accept_key(&request, &services.allowed_origins) {
        Ok(accept) => accept,
        Err(refusal) => return *refusal,
    };
    let outbox = Outbox::new(services.limits.max_outgoing_buffer_bytes);
    let Some(registration) = services.sessions.register(outbox.clone()) else {
        services.metrics.dropped(Dropped::Full).inc();
        return text_response(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many WebSockets are open, try again later",
        );
    };
    let upgraded = hyper::upgrade::on(&mut request);
    let identity = Identity {
        head: RequestHead::new(request.uri(), &forwarded(request.headers())),
        id: id(),
        caller: Caller::Client(client),
        meta: Vec::new(),
    };
    let connection = ConnectionHandle::of(&request);
    drop(request);
    let (answer_to, answered) = oneshot::channel();
    let opening = Opening {
        services: services.clone(),
        identity,
        outbox,
        registration,
        accept,
        answer_to,
    };
    // A task of its own: with the client this future goes too, and a backend that has accepted
    // must hear of that.
    tokio::spawn(ConnectionHandle::run_upgraded(
        connection,
        opening.serve(upgraded),
    ));
    answered.await.unwrap_or_else(|_| {
        text_response(
            StatusCode::INTERNAL_SERVER_ERROR,
            "opening the WebSocket failed",
        )
    })
}

/// A WebSocket whose backend is asked.
struct Opening {
    services: Arc<Services>,
    identity: Identity,
    outbox: Arc<Outbox>,
    registration: SessionGuard,
    /// The accept key.
    accept: String,
    answer_to: oneshot::Sender<Response<Body>>,
}

impl Opening {
    /// Asks the backend, answers the client, and serves the socket to its end.
    async fn serve(self, upgraded: OnUpgrade) {
        let Self {
            services,
            identity,
            outbox,
            registration,
            accept,
            answer_to,
        } = self;
        let opening = identity.request(&services.signer, &[Event::Open], 0);
        // In a box of its own, or an open socket's task would keep the room for it.
        let reply = Box::pin(exchange(services.backend.clone(), opening)).await;
        let reply = match reply.and_then(opened) {
            Ok(reply) => reply,
            Err(error) => {
                // The client may be gone: then nobody is to be told.
                let _ = answer_to.send(refusal(error, identity.head.path()));
                return;
            }
        };
        let response = switching(&accept, &reply.headers);
        let metrics = services.metrics.clone();
        let session = Session::new(services, identity, outbox, registration, reply);
        let ending = match answer_to.send(response) {
            Ok(()) => match upgraded.await.map(stream) {
                Ok(Some((stream, early))) => driver::serve(session, Arc::new(stream), early).await,
                Ok(None) => {
                    error!("an upgraded connection is not a TCP stream");
                    Box::pin(driver::abandon(session)).await
                }
                // The client was gone before its handshake was through.
                Err(_) => Box::pin(driver::abandon(session)).await,
            },
            Err(_) => Box::pin(driver::abandon(session)).await,
        };
        debug!(ending = ending.name(), "a session ended");
        metrics.session_ended(ending);
    }
}

/// Checks the handshake's own headers (RFC 6455, 4.2.1) and the origin; gives the accept key.
fn accept_key<B>(
    request: &Request<B>,
    origins: &AllowedOrigins,
) -> Result<String, Box<Response<Body>>> {
    let headers = request.headers();
    let refuse = |status, text: &str| Err(Box::new(text_response(status, text)));
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
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .map_or(&b""[..], HeaderValue::as_bytes);
    if BASE64_STANDARD.decode(key).map_or(0, |key| key.len()) != 16 {
        return refuse(
            StatusCode::BAD_REQUEST,
            "Sec-WebSocket-Key must be 16 bytes in base64",
        );
    }
    if let Some(origin) = headers.get(header::ORIGIN)
        && !is_allowed(origins, origin, headers.get(header::HOST))
    {
        return refuse(
            StatusCode::FORBIDDEN,
            "WebSockets are not open to pages of this origin",
        );
    }
    Ok(derive_accept_key(key))
}

/// Whether a page of `origin` may open a WebSocket on `host`.
fn is_allowed(origins: &AllowedOrigins, origin: &HeaderValue, host: Option<&HeaderValue>) -> bool {
    if origins.any {
        return true;
    }
    let Ok(origin) = origin.to_str() else {
        return false;
    };
    let origin = origin.to_ascii_lowercase();
    let Some((scheme, authority)) = origin.split_once("://") else {
        return false;
    };
    let port = match scheme {
        "http" | "ws" => ":80",
        "https" | "wss" => ":443",
        _ => "",
    };
    // The host cannot know the scheme that the client used with a proxy before it, so a
    // default port is the same as none.
    let bare = |authority: &str| {
        authority
            .strip_suffix(port)
            .unwrap_or(authority)
            .to_ascii_lowercase()
    };
    let same = origins.same_origin
        && host
            .and_then(|host| host.to_str().ok())
            .is_some_and(|host| bare(host) == bare(authority));
    same || origins
        .exact
        .iter()
        .any(|exact| *exact == format!("{scheme}://{}", bare(authority)))
}

/// The headers that go along: not those of the handshake, nor hop by hop.
fn forwarded(headers: &HeaderMap) -> HeaderMap {
    let mut kept = headers.clone();
    remove_hop_headers(&mut kept);
    for name in OF_THE_HANDSHAKE {
        kept.remove(name);
    }
    kept
}

/// Headers about the handshake, or about the body of a request that has none.
const OF_THE_HANDSHAKE: [HeaderName; 12] = [
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

/// Takes the OPEN event out of an answer to OPEN, where it must be the first. An answer
/// without events is allowed for a connection that is kept alive.
fn opened(mut reply: Reply) -> Result<Reply, ExchangeError> {
    match reply.events.first() {
        Some(Event::Open) => {
            reply.events.remove(0);
            Ok(reply)
        }
        None if reply.keep_alive().flatten().is_some() => Ok(reply),
        None => Err(ExchangeError::NotOpened(
            "is empty and sets no Keep-Alive-Interval",
        )),
        Some(_) => Err(ExchangeError::NotOpened("does not begin with OPEN")),
    }
}

/// What a client gets whose OPEN was not accepted.
fn refusal(error: ExchangeError, route: &str) -> Response<Body> {
    match error {
        // The component answered as if to any POST, or that it takes none: it does not know of
        // WebSockets, and the client has sent no POST.
        ExchangeError::Refused(response)
            if response.status().is_success()
                || response.status() == StatusCode::METHOD_NOT_ALLOWED =>
        {
            text_response(StatusCode::UPGRADE_REQUIRED, "there is no WebSocket here")
        }
        ExchangeError::Refused(mut response) => {
            remove_private_headers(response.headers_mut());
            *response
        }
        ExchangeError::Backend(error) => backend_error_response(&error),
        other => {
            error!(route, "opening a WebSocket: {other}");
            text_response(
                StatusCode::BAD_GATEWAY,
                "the backend does not speak WebSocket-over-HTTP as it should",
            )
        }
    }
}

/// The 101, with what the backend's answer has for the client.
fn switching(accept: &str, reply: &HeaderMap) -> Response<Body> {
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    // A chosen Sec-WebSocket-Protocol is among those that stay.
    *headers = forwarded(reply);
    remove_private_headers(headers);
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

/// A new connection's id.
fn id() -> HeaderValue {
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    let text = Uuid::new_v4().hyphenated().encode_lower(&mut text);
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

/// The socket of an upgraded connection, and what was read of it too far.
fn stream(upgraded: Upgraded) -> Option<(TcpStream, Bytes)> {
    let parts = upgrade::downcast::<Io<TokioIo<TcpStream>>>(upgraded).ok()?;
    // Copied, since it may be the tail of hyper's whole read buffer.
    let early = if parts.read_buf.is_empty() {
        Bytes::new()
    } else {
        Bytes::copy_from_slice(&parts.read_buf)
    };
    Some((parts.io.into_inner().into_inner(), early))
}

/// Whether a comma-separated header has this item, in any case.
fn lists(headers: &HeaderMap, name: &HeaderName, item: &str) -> bool {
    list_items(headers, name).any(|token| token.eq_ignore_ascii_case(item))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(any: bool, same_origin: bool, exact: &[&str]) -> AllowedOrigins {
        AllowedOrigins {
            any,
            same_origin,
            exact: exact.iter().map(|&origin| origin.into()).collect(),
        }
    }

    #[test]
    fn origins_that_may_and_may_not() {
        let may = |origins: &AllowedOrigins, origin: &'static str, host: &'static str| {
            is_allowed(
                origins,
                &HeaderValue::from_static(origin),
                Some(&HeaderValue::from_static(host)),
            )
        };
        let same = origins(false, true, &[]);
        for (origin, host) in [
            ("http://localhost:3000", "localhost:3000"),
            ("https://burger.example", "burger.example"),
            ("https://Burger.example:443", "burger.example"),
            ("https://burger.example", "burger.example:443"),
            ("http://[::1]:3000", "[::1]:3000"),
        ] {
            assert!(may(&same, origin, host), "{origin} {host}");
        }
        for (origin, host) in [
            ("http://evil.example", "localhost:3000"),
            ("http://localhost:3001", "localhost:3000"),
            ("http://localhost:3000.evil.example", "localhost:3000"),
            ("null", "localhost:3000"),
            ("", ""),
        ] {
            assert!(!may(&same, origin, host), "{origin} {host}");
        }
        let exact = origins(false, false, &["https://app.example"]);
        assert!(may(&exact, "https://app.example:443", "other"));
        assert!(!may(&exact, "http://app.example", "app.example"));
        assert!(may(&origins(true, false, &[]), "null", "x"));
    }

    #[test]
    fn handshakes_that_are_not() {
        let request = |version: &str, key: &str| {
            Request::get("/")
                .header("sec-websocket-version", version)
                .header("sec-websocket-key", key)
                .body(())
                .unwrap()
        };
        let origins = origins(false, true, &[]);
        let status = |request| accept_key(&request, &origins).map_err(|refusal| refusal.status());
        // The example of RFC 6455, 1.3.
        assert_eq!(
            status(request("13", "dGhlIHNhbXBsZSBub25jZQ==")),
            Ok("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".into())
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
    fn headers_of_the_connection_stay_behind() {
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
        let kept: Vec<_> = forwarded(&headers)
            .keys()
            .map(|name| name.as_str().to_owned())
            .collect();
        assert_eq!(kept, ["host", "cookie", "sec-websocket-protocol"]);
    }
}
