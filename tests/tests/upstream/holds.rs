//! Held requests of HTTP/2 clients.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    body::Incoming,
    client::conn::http2::{Builder, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use spin_runtime::backend::{Body, full};
use tests::{Server, TIMEOUT, eventually};
use tokio::{net::TcpStream, time::timeout};

use super::{
    backend::{Backend, data, text},
    sockets::publish_formats,
};

/// Holds each request on the channel `room`. The path is the mode: `stream` or `response`.
async fn hold(request: Request<Incoming>) -> Response<Body> {
    let mut response = Response::new(full("first\n"));
    let mode = request.uri().path().trim_start_matches('/');
    let headers = response.headers_mut();
    headers.insert("grip-channel", HeaderValue::from_static("room"));
    if let Ok(mode) = HeaderValue::from_str(mode) {
        headers.insert("grip-hold", mode);
    }
    response
}

/// Starts a host in front of that backend.
async fn start() -> Result<(Backend, Server)> {
    let backend = Backend::serve(hold).await?;
    let host = Server::in_front_of(&backend.url("http"), &["--grip-key", "secret"])?;
    Ok((backend, host))
}

/// Opens a connection with small flow-control windows.
async fn connect(host: &Server) -> Result<SendRequest<Empty<Bytes>>> {
    let stream = TokioIo::new(TcpStream::connect(host.address).await?);
    let (sender, connection) = Builder::new(TokioExecutor::new())
        .initial_stream_window_size(WINDOW)
        .handshake(stream)
        .await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// The initial flow-control window, in bytes.
const WINDOW: u32 = 64 << 10;

fn get(host: &Server, path: &str) -> Result<Request<Empty<Bytes>>> {
    let uri = format!("http://{}{path}", host.address);
    Ok(Request::get(uri).body(Empty::new())?)
}

/// Opens a held stream and reads the backend's own part.
async fn stream(host: &Server, client: &mut SendRequest<Empty<Bytes>>) -> Result<Incoming> {
    let response = timeout(TIMEOUT, client.send_request(get(host, "/stream")?)).await??;
    ensure!(response.status() == 200, "{response:?}");
    ensure!(
        !response.headers().contains_key("grip-hold"),
        "{response:?}"
    );
    let mut body = response.into_body();
    ensure!(data(&mut body).await? == "first\n");
    Ok(body)
}

/// Waits until `count` requests are held and subscribed.
async fn held(host: &Server, mode: &str, count: u64) -> Result<()> {
    eventually(&format!("{count} held as {mode}"), async || {
        let health = host.health().await.ok()?;
        let counts = [&health["holds"][mode], &health["subscriptions"]];
        counts.iter().all(|have| **have == count).then_some(())
    })
    .await
}

#[tokio::test]
async fn streams_receive_items_and_are_released_on_reset() -> Result<()> {
    let (_backend, host) = start().await?;
    let mut client = connect(&host).await?;
    let (mut one, mut other) = (
        stream(&host, &mut client).await?,
        stream(&host, &mut client).await?,
    );
    held(&host, "stream", 2).await?;
    for text in ["second\n", "third\n"] {
        publish_formats(&host, json!({"http-stream": {"content": text}})).await?;
        ensure!(data(&mut one).await? == text && data(&mut other).await? == text);
    }
    drop(one);
    held(&host, "stream", 1).await?;
    // The other stream of the connection is not affected.
    publish_formats(&host, json!({"http-stream": {"content": "fourth\n"}})).await?;
    ensure!(data(&mut other).await? == "fourth\n");
    publish_formats(&host, json!({"http-stream": {"action": "close"}})).await?;
    ensure!(text(other).await?.is_empty());
    held(&host, "stream", 0).await
}

#[tokio::test]
async fn responses_receive_items_and_are_released_on_reset() -> Result<()> {
    let (_backend, host) = start().await?;
    let mut client = connect(&host).await?;
    let mut send = || anyhow::Ok(client.send_request(get(&host, "/response")?));
    let (cancelled, waiting) = (tokio::spawn(send()?), tokio::spawn(send()?));
    held(&host, "response", 2).await?;
    cancelled.abort();
    held(&host, "response", 1).await?;
    let response = json!({"code": 201, "headers": {"x-by": "publisher"}, "body": "news"});
    publish_formats(&host, json!({"http-response": response})).await?;
    let response = timeout(TIMEOUT, waiting).await???;
    ensure!(response.status() == 201, "{response:?}");
    ensure!(response.headers()["x-by"] == "publisher", "{response:?}");
    ensure!(text(response.into_body()).await? == "news");
    held(&host, "response", 0).await
}

#[tokio::test]
async fn an_unread_stream_has_a_bounded_buffer_and_is_reset() -> Result<()> {
    let (_backend, host) = start().await?;
    let mut client = connect(&host).await?;
    let mut slow = stream(&host, &mut client).await?;
    let mut other = stream(&host, &mut client).await?;
    held(&host, "stream", 2).await?;
    let before = host.resident_kib()?;
    let piece = "x".repeat(64 << 10);
    let (mut published, mut resident) = (0, before);
    // Many times the host's buffer for a client, which is 1 MiB.
    while published < 24 << 20 {
        publish_formats(&host, json!({"http-stream": {"content": piece}})).await?;
        published += piece.len();
        let mut read = 0;
        while read < piece.len() {
            read += data(&mut other).await?.len();
        }
        resident = resident.max(host.resident_kib()?);
    }
    ensure!(
        resident < before + (8 << 10),
        "{before} KiB before, {resident} KiB after {published} bytes"
    );
    // The stream is reset when it is read. It must not look complete.
    let reading = async {
        let mut read = 0;
        while let Some(piece) = slow.frame().await {
            match piece {
                Ok(piece) => read += piece.data_ref().map_or(0, Bytes::len),
                Err(_) => return Some(read),
            }
        }
        None
    };
    let read = timeout(TIMEOUT, reading)
        .await
        .context("the stream does not end")?;
    let read = read.context("the stream looks complete")?;
    ensure!(read < published / 2, "{read} bytes were buffered");
    publish_formats(&host, json!({"http-stream": {"content": "on\n"}})).await?;
    ensure!(data(&mut other).await? == "on\n");
    held(&host, "stream", 1).await
}
