//! The plain backend that proxies are measured in front of: hyper, and the least that a GRIP
//! backend does. WebSockets are accepted and subscribed, their pings answered; `GET /stream`
//! is held; everything else is a small answer.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use anyhow::{Context, Result};
use bytes::Bytes;
use grip::{
    ControlMessage, Event, Extension, Limits, control, event,
    header::{SEC_WEBSOCKET_EXTENSIONS, WEBSOCKET_EVENTS, is_websocket_events},
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

use crate::sockets::{PING, PONG};

/// Serves until SIGTERM.
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
                    tokio::spawn(connection(stream, channel.clone()));
                }
                _ = terminated.recv() => return Ok(()),
            }
        }
    })
}

async fn connection(stream: TcpStream, channel: Arc<str>) {
    // Without it small answers wait for the other side's acknowledgement; they still come.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| answer(request, channel.clone()));
    // A connection that breaks is its proxy's affair.
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(
    request: Request<Incoming>,
    channel: Arc<str>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let tells_events = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(is_websocket_events);
    let is_stream = request.uri().path() == "/stream";
    let mut response = Response::new(Full::default());
    if tells_events {
        let events = match request.into_body().collect().await {
            Ok(body) => event::decode_all(body.to_bytes(), Limits::default()).ok(),
            Err(_) => None,
        };
        match events {
            Some(events) => tell(&events, &channel, &mut response),
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

/// Answers a WebSocket's events.
fn tell(events: &[Event], channel: &str, response: &mut Response<Full<Bytes>>) {
    let mut answers = Vec::new();
    for event in events {
        match event {
            Event::Open => {
                if let Ok(extension) = HeaderValue::from_str(&Extension::default().header_value()) {
                    response
                        .headers_mut()
                        .insert(SEC_WEBSOCKET_EXTENSIONS, extension);
                }
                answers.push(Event::Open);
                answers.push(ControlMessage::subscribe(channel).into_event());
            }
            Event::Text(text) if text.as_bytes().as_ref() == PING => {
                let mut pong = String::from_utf8_lossy(PONG).into_owned();
                pong.push('}');
                answers.push(control::content(pong));
            }
            Event::Close(close) => answers.push(Event::Close(close.clone())),
            _ => {}
        }
    }
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(WEBSOCKET_EVENTS),
    );
    *response.body_mut() = Full::new(event::encode_all(&answers));
}
