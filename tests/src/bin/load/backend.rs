//! A minimal GRIP backend on hyper, to measure proxies in front of.
//!
//! It accepts and subscribes WebSockets, replies to their pings or leaves that to the proxy, and holds `GET /stream`. Other
//! requests get a small response.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use anyhow::{Context, Result};
use bytes::Bytes;
use grip::{
    ControlMessage, Event, Extension, Limits, control, event,
    header::{
        FEATURE_AUTO_RESPONSE, GRIP_FEATURE, SEC_WEBSOCKET_EXTENSIONS, WEBSOCKET_EVENTS,
        has_feature, is_websocket_events,
    },
};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
};

use crate::sockets::{PING, PONG, Responder};

/// Serves until it receives SIGTERM.
pub fn serve(address: SocketAddr, channel: String) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("starting the backend")?;
    let channel: Arc<str> = channel.into();
    runtime.block_on(async {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("listening on {address}"))?;
        let mut terminated = signal(SignalKind::terminate())?;
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (stream, _) = accepted.context("accepting")?;
                    tokio::spawn(serve_connection(stream, channel.clone()));
                }
                _ = terminated.recv() => return Ok(()),
            }
        }
    })
}

async fn serve_connection(stream: TcpStream, channel: Arc<str>) {
    // Only an optimization: small responses would be delayed.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| respond(request, channel.clone()));
    // The proxy handles connection errors.
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn respond(
    request: Request<Incoming>,
    channel: Arc<str>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let has_events = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(is_websocket_events);
    let can_auto_respond = request
        .headers()
        .get(GRIP_FEATURE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|features| has_feature(features, FEATURE_AUTO_RESPONSE));
    let is_stream = request.uri().path() == "/stream";
    let mut response = Response::new(Full::default());
    if has_events {
        let events = match request.into_body().collect().await {
            Ok(body) => event::decode_all(body.to_bytes(), Limits::default()).ok(),
            Err(_) => None,
        };
        match events {
            Some(events) => respond_to_events(&events, &channel, can_auto_respond, &mut response),
            None => *response.status_mut() = StatusCode::BAD_REQUEST,
        }
    } else if is_stream {
        let headers = response.headers_mut();
        headers.insert("grip-hold", HeaderValue::from_static("stream"));
        if let Ok(channel) = HeaderValue::from_str(&channel) {
            headers.insert("grip-channel", channel);
        }
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/event-stream"),
        );
        *response.body_mut() = Full::new(Bytes::from_static(b":\n\n"));
    } else {
        *response.body_mut() = Full::new(Bytes::from_static(b"hello\n"));
    }
    Ok(response)
}

/// Writes the response to a WebSocket's events.
fn respond_to_events(
    events: &[Event],
    channel: &str,
    can_auto_respond: bool,
    response: &mut Response<Full<Bytes>>,
) {
    let mut replies = Vec::new();
    for event in events {
        match event {
            Event::Open => {
                if let Ok(extension) = HeaderValue::from_str(&Extension::default().header_value()) {
                    response
                        .headers_mut()
                        .insert(SEC_WEBSOCKET_EXTENSIONS, extension);
                }
                replies.push(Event::Open);
                replies.push(ControlMessage::subscribe(channel).into_event());
                if can_auto_respond {
                    replies.push(ControlMessage::auto_response(PING, PONG).into_event());
                }
            }
            Event::Text(text)
                if [Responder::Application, Responder::Host]
                    .iter()
                    .any(|responder| responder.ping() == &**text) =>
            {
                replies.push(control::content(PONG));
            }
            Event::Close(close) => replies.push(Event::Close(close.clone())),
            _ => {}
        }
    }
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(WEBSOCKET_EVENTS),
    );
    *response.body_mut() = Full::new(event::encode_all(&replies));
}
