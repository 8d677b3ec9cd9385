//! WebSockets and timers with an upstream.

use std::{sync::Arc, time::SystemTime};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use grip::{
    ControlMessage, Event, Limits,
    event::{decode_all, encode_all},
    signature::{Key, verify},
};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use spin_runtime::backend::{Body, empty, full};
use tests::{Client, Server, TIMEOUT, app_with_manifest};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
};

use super::backend::{Backend, read_head};

/// A request to a GRIP backend: path, headers and events.
pub type Sent = (String, HeaderMap, Vec<Event>);

/// Subscribes each WebSocket to `room` and replies to texts in upper case. Requests are sent to `log`.
pub async fn chat(request: Request<Incoming>, log: mpsc::UnboundedSender<Sent>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        return Response::new(empty());
    };
    let events = decode_all(body.to_bytes(), Limits::default()).unwrap_or_default();
    let _ = log.send((parts.uri.to_string(), parts.headers.clone(), events.clone()));
    if parts
        .headers
        .get("content-type")
        .is_none_or(|kind| kind != "application/websocket-events")
    {
        return Response::new(full("no events"));
    }
    let mut replies = Vec::new();
    for event in events {
        match event {
            Event::Open => {
                replies.push(Event::Open);
                replies.push(ControlMessage::subscribe("room").into_event());
            }
            Event::Text(text) => replies.push(Event::text(format!("m:{}", text.to_uppercase()))),
            Event::Close(close) => replies.push(Event::Close(close)),
            _ => {}
        }
    }
    events_response(&replies)
}

/// Returns a response with events, which enables GRIP.
pub fn events_response(events: &[Event]) -> Response<Body> {
    let mut response = Response::new(full(encode_all(events)));
    let headers = response.headers_mut();
    for (name, value) in [
        ("content-type", "application/websocket-events"),
        ("sec-websocket-extensions", "grip; message-prefix=\"m:\""),
    ] {
        headers.insert(name, http::HeaderValue::from_static(value));
    }
    response
}

/// Starts a backend with [`chat`] and returns the requests that it receives.
pub async fn chat_backend() -> Result<(Backend, mpsc::UnboundedReceiver<Sent>)> {
    let (log, sent) = mpsc::unbounded_channel();
    let backend = Backend::serve(move |request| chat(request, log.clone())).await?;
    Ok((backend, sent))
}

/// Publishes a text to the sockets on the channel `room`.
pub async fn publish(host: &Server, text: &str) -> Result<()> {
    publish_formats(host, json!({"ws-message": {"content": text}})).await
}

/// Publishes to the channel `room`.
pub async fn publish_formats(host: &Server, formats: Value) -> Result<()> {
    let body = json!({"items": [{"channel": "room", "formats": formats}]}).to_string();
    let token = grip::signature::sign(&Key::parse("secret")?, "test", SystemTime::now(), TIMEOUT);
    let authorization = format!("Authorization: Bearer {token}\r\n");
    let response = host.publish(&authorization, &body).await?;
    ensure!(response.status == 200, "{response:?}");
    Ok(())
}

/// Returns the next message, which must be a text.
pub async fn text(client: &mut Client) -> Result<String> {
    let message = client.next().await?.context("the socket was closed")?;
    Ok(message.into_text()?.to_string())
}

#[tokio::test]
async fn websocket_events_are_sent_to_the_upstream_as_requests() -> Result<()> {
    for scheme in ["http", "h2c"] {
        let (backend, mut sent) = chat_backend().await?;
        let url = backend.url(scheme) + "/app";
        let host = Server::in_front_of(&url, &["--grip-key", "secret"])?;
        let mut client = Client::open(host.address, "/ws?room=1", &[("cookie", "a=1")])
            .await
            .map_err(|failed| failed.error)?;
        let (uri, headers, events) = sent.recv().await.context("OPEN")?;
        ensure!(uri.ends_with("/app/ws?room=1"), "{uri}");
        ensure!(events == [Event::Open], "{events:?}");
        ensure!(headers["sec-websocket-extensions"] == "grip", "{headers:?}");
        ensure!(headers["cookie"] == "a=1" && headers["x-forwarded-for"] == "127.0.0.1");
        let token = headers["grip-sig"].to_str()?;
        verify(&Key::parse("secret")?, token, SystemTime::now()).context("Grip-Sig")?;
        for name in ["upgrade", "connection", "sec-websocket-key"] {
            ensure!(!headers.contains_key(name), "{name}: {headers:?}");
        }
        let id = headers["connection-id"].clone();

        client.send("hello").await?;
        ensure!(text(&mut client).await? == "HELLO");
        let (_, headers, events) = sent.recv().await.context("TEXT")?;
        ensure!(events == [Event::text("hello")] && headers["connection-id"] == id);
        publish(&host, "to all").await?;
        ensure!(text(&mut client).await? == "to all");
        client.0.close(None).await?;
        let (_, _, events) = sent.recv().await.context("CLOSE")?;
        ensure!(matches!(events[..], [Event::Close(_)]), "{events:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_socket_rejected_by_the_upstream_is_refused() -> Result<()> {
    let backend = Backend::serve(|request: Request<Incoming>| async move {
        let mut response = Response::new(full("no"));
        *response.status_mut() = match request.uri().path() {
            "/forbidden" => StatusCode::FORBIDDEN,
            _ => StatusCode::OK,
        };
        response
    })
    .await?;
    let host = Server::in_front_of(&backend.url("http"), &[])?;
    for (path, status) in [("/forbidden", 403), ("/", 426)] {
        let refused = Client::open(host.address, path, &[]).await.err();
        let actual = refused.context("the socket opens")?.status;
        ensure!(actual == Some(status), "{path}: {actual:?}");
    }
    drop(backend);
    let host = Server::in_front_of("http://127.0.0.1:9", &[])?;
    let refused = Client::open(host.address, "/", &[]).await.err();
    ensure!(refused.context("the socket opens")?.status == Some(502));
    Ok(())
}

#[tokio::test]
async fn timers_and_private_routes_of_the_manifest_apply() -> Result<()> {
    let (log, mut calls) = mpsc::unbounded_channel();
    let log = Arc::new(log);
    let backend = Backend::serve(move |request: Request<Incoming>| {
        let log = log.clone();
        async move {
            let (parts, _) = request.into_parts();
            let _ = log.send((parts.method, parts.uri.to_string(), parts.headers));
            Response::new(full(Bytes::from("fine")))
        }
    })
    .await?;
    // The component's source is not needed, since only the upstream runs it.
    let folder = app_with_manifest(
        r#"
spin_manifest_version = 2
application.name = "elsewhere"
[variables]
needed = { required = true }
[[trigger.http]]
route = "/..."
component = "all"
[component.all]
source = { url = "https://example.com/all.wasm", digest = "sha256:0000000000000000000000000000000000000000000000000000000000000000" }
[application.tool.socket-host]
private = ["/internal/..."]
timer = [{ request = "POST /internal/tick?a=b", every = "10ms" }]
"#,
    );
    let path = folder.path().to_string_lossy().into_owned();
    let host = Server::in_front_of(
        &backend.url("http"),
        &["--from", &path, "--grip-key", "secret"],
    )?;
    for _ in 0..3 {
        let (method, uri, headers) = calls.recv().await.context("a call")?;
        ensure!(
            method == "POST" && uri == "/internal/tick?a=b",
            "{method} {uri}"
        );
        let token = headers["grip-sig"].to_str()?;
        verify(&Key::parse("secret")?, token, SystemTime::now()).context("Grip-Sig")?;
        ensure!(!headers.contains_key("x-forwarded-for"), "{headers:?}");
    }
    ensure!(host.get("/internal/tick").await?.0 == 404);
    ensure!(host.get("/other").await? == (200, "fine".to_owned()));
    Ok(())
}

/// Accepts each WebSocket, and closes it with the code that a text of the client names.
async fn closing(request: Request<Incoming>, log: mpsc::UnboundedSender<Event>) -> Response<Body> {
    let body = request.into_body().collect().await.unwrap_or_default();
    let events = decode_all(body.to_bytes(), Limits::default()).unwrap_or_default();
    let mut replies = Vec::new();
    for event in events {
        let _ = log.send(event.clone());
        match event {
            Event::Open => replies.push(event),
            // As a library does that was given no code.
            Event::Close(Some(close)) if close.code == 4000 => replies.push(Event::close(0, "")),
            Event::Close(_) => replies.push(event),
            Event::Text(code) => replies.push(Event::close(code.parse().unwrap_or(1000), "")),
            _ => {}
        }
    }
    let mut response = Response::new(full(encode_all(&replies)));
    let events = http::HeaderValue::from_static("application/websocket-events");
    response.headers_mut().insert("content-type", events);
    response
}

/// Opens a WebSocket, sends a text, and returns the code that the host closes it with. The client
/// library would not tell: it takes some codes for protocol errors.
async fn close_code(host: &Server, text: &str) -> Result<u16> {
    let mut stream = TcpStream::connect(host.address).await?;
    let handshake = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(handshake.as_bytes()).await?;
    read_head(&mut stream).await;
    let mut frame = vec![0x81, 0x80 | u8::try_from(text.len())?, 0, 0, 0, 0];
    frame.extend(text.as_bytes());
    stream.write_all(&frame).await?;
    let mut close = [0; 4];
    tokio::time::timeout(TIMEOUT, stream.read_exact(&mut close)).await??;
    ensure!(close[0] == 0x88, "{close:?}");
    Ok(u16::from_be_bytes([close[2], close[3]]))
}

#[tokio::test]
async fn close_codes_are_passed_on_or_refused() -> Result<()> {
    let (log, mut sent) = mpsc::unbounded_channel();
    let backend = Backend::serve(move |request| closing(request, log.clone())).await?;
    let host = Server::in_front_of(&backend.url("http"), &[])?;
    // Of the backend.
    for (code, received) in [
        ("1012", 1012),
        ("1014", 1014),
        ("3000", 3000),
        ("1005", 1011),
        ("1006", 1011),
        ("999", 1011),
    ] {
        let closed = close_code(&host, code).await?;
        ensure!(closed == received, "{code}: {closed}");
    }
    host.wait_for_log(&["backend failed, closing with 1011", "1005"])
        .await?;
    // Of the client.
    for code in [1000, 1014, 4000, 4999] {
        while sent.try_recv().is_ok() {}
        let mut client = host.socket("/").await?;
        let frame = tokio_tungstenite::tungstenite::protocol::CloseFrame {
            code: code.into(),
            reason: "so".into(),
        };
        client.0.close(Some(frame)).await?;
        let reported = async {
            while let Some(event) = sent.recv().await {
                if matches!(event, Event::Close(_)) {
                    return Some(event);
                }
            }
            None
        };
        let reported = tokio::time::timeout(TIMEOUT, reported).await?;
        ensure!(reported == Some(Event::close(code, "so")), "{reported:?}");
        ensure!(client.closed().await? == Some(code), "{code}");
    }
    Ok(())
}
