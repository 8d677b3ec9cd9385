//! Requests that are held for clients that speak HTTP/2.

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
use tests::{PATIENCE, Server, eventually};
use tokio::{net::TcpStream, time::timeout};

use super::{
    backend::{Backend, data, text},
    sockets::publish_formats,
};

/// Holds every request on the channel `room`: as its path says, as a stream or as a response.
async fn holding(request: Request<Incoming>) -> Response<Body> {
    let mut response = Response::new(full("first\n"));
    let mode = request.uri().path().trim_start_matches('/');
    let headers = response.headers_mut();
    headers.insert("grip-channel", HeaderValue::from_static("room"));
    if let Ok(mode) = HeaderValue::from_str(mode) {
        headers.insert("grip-hold", mode);
    }
    response
}

/// A host in front of that.
async fn start() -> Result<(Backend, Server)> {
    let backend = Backend::serve(holding).await?;
    let host = Server::in_front_of(&backend.url("http"), &["--grip-key", "secret"])?;
    Ok((backend, host))
}

/// A connection whose streams are read a little ahead only.
async fn connect(host: &Server) -> Result<SendRequest<Empty<Bytes>>> {
    let stream = TokioIo::new(TcpStream::connect(host.address).await?);
    let (sender, connection) = Builder::new(TokioExecutor::new())
        .initial_stream_window_size(WINDOW)
        .handshake(stream)
        .await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// In bytes.
const WINDOW: u32 = 64 << 10;

fn asked(host: &Server, path: &str) -> Result<Request<Empty<Bytes>>> {
    let uri = format!("http://{}{path}", host.address);
    Ok(Request::get(uri).body(Empty::new())?)
}

/// Begins a held stream, and reads what the backend says itself.
async fn stream(host: &Server, client: &mut SendRequest<Empty<Bytes>>) -> Result<Incoming> {
    let answer = timeout(PATIENCE, client.send_request(asked(host, "/stream")?)).await??;
    ensure!(answer.status() == 200, "{answer:?}");
    ensure!(!answer.headers().contains_key("grip-hold"), "{answer:?}");
    let mut body = answer.into_body();
    ensure!(data(&mut body).await? == "first\n");
    Ok(body)
}

/// Waits until so many are held, and as many subscriptions are there.
async fn held(host: &Server, mode: &str, count: u64) -> Result<()> {
    eventually(&format!("{count} held as {mode}"), async || {
        let health = host.health().await.ok()?;
        let counts = [&health["holds"][mode], &health["subscriptions"]];
        counts.iter().all(|have| **have == count).then_some(())
    })
    .await
}

#[tokio::test]
async fn streams_get_what_is_published_and_a_reset_frees_them() -> Result<()> {
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
    // The others on the connection go on.
    publish_formats(&host, json!({"http-stream": {"content": "fourth\n"}})).await?;
    ensure!(data(&mut other).await? == "fourth\n");
    publish_formats(&host, json!({"http-stream": {"action": "close"}})).await?;
    ensure!(text(other).await?.is_empty());
    held(&host, "stream", 0).await
}

#[tokio::test]
async fn responses_get_what_is_published_and_a_reset_frees_them() -> Result<()> {
    let (_backend, host) = start().await?;
    let mut client = connect(&host).await?;
    let mut ask = || anyhow::Ok(client.send_request(asked(&host, "/response")?));
    let (left, waiting) = (tokio::spawn(ask()?), tokio::spawn(ask()?));
    held(&host, "response", 2).await?;
    left.abort();
    held(&host, "response", 1).await?;
    let response = json!({"code": 201, "headers": {"x-by": "publisher"}, "body": "news"});
    publish_formats(&host, json!({"http-response": response})).await?;
    let answer = timeout(PATIENCE, waiting).await???;
    ensure!(answer.status() == 201, "{answer:?}");
    ensure!(answer.headers()["x-by"] == "publisher", "{answer:?}");
    ensure!(text(answer.into_body()).await? == "news");
    held(&host, "response", 0).await
}

#[tokio::test]
async fn a_stream_that_is_not_read_is_bounded_and_then_reset() -> Result<()> {
    let (_backend, host) = start().await?;
    let mut client = connect(&host).await?;
    let mut slow = stream(&host, &mut client).await?;
    let mut other = stream(&host, &mut client).await?;
    held(&host, "stream", 2).await?;
    let before = host.resident()?;
    let piece = "x".repeat(64 << 10);
    let (mut published, mut resident) = (0, before);
    // Many times what the host keeps for a client: 1 MiB.
    while published < 24 << 20 {
        publish_formats(&host, json!({"http-stream": {"content": piece}})).await?;
        published += piece.len();
        let mut read = 0;
        while read < piece.len() {
            read += data(&mut other).await?.len();
        }
        resident = resident.max(host.resident()?);
    }
    ensure!(
        resident < before + (8 << 10),
        "{before} KiB before, {resident} KiB after {published} bytes"
    );
    // It is cut off as soon as it reads, and not as if that were all.
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
    let read = timeout(PATIENCE, reading).await.context("no end")?;
    let read = read.context("it ends as if all had been read")?;
    ensure!(read < published / 2, "{read} bytes were kept for it");
    publish_formats(&host, json!({"http-stream": {"content": "on\n"}})).await?;
    ensure!(data(&mut other).await? == "on\n");
    held(&host, "stream", 1).await
}
