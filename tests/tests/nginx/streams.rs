//! Held requests through nginx: it passes each part on as soon as it arrives.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::{
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tests::{
    Server, TIMEOUT,
    backend::{Backend, Body, data, full, text},
    eventually,
};
use tokio::time::timeout;

use crate::site::{NAME, Site};

/// Holds each request on the channel `room`. The path is the mode: `stream` or `response`.
async fn hold(request: Request<Incoming>) -> Response<Body> {
    let mut response = Response::new(full("first\n"));
    let mode = request.uri().path().trim_start_matches('/');
    for (name, value) in [
        ("grip-hold", mode),
        ("grip-channel", "room"),
        ("grip-keep-alive", "alive\\n; format=cstring; timeout=1"),
    ] {
        if let Ok(value) = HeaderValue::from_str(value) {
            let headers = response.headers_mut();
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    response
}

/// Sends a GET request. The connection is closed when the sender is dropped.
async fn get(
    site: &Site,
    path: &str,
) -> Result<(
    SendRequest<Empty<Bytes>>,
    impl Future<Output = hyper::Result<Response<Incoming>>> + use<>,
)> {
    let (mut sender, connection) = handshake(TokioIo::new(site.connect().await?)).await?;
    tokio::spawn(connection);
    let request = Request::get(path).header("host", NAME);
    let response = sender.send_request(request.body(Empty::new())?);
    Ok((sender, response))
}

async fn publish(host: &Server, formats: &Value) -> Result<()> {
    let items = json!({"items": [{"channel": "room", "formats": formats}]});
    let authorization = "Authorization: Bearer secret\r\n";
    let response = host.publish(authorization, &items.to_string()).await?;
    ensure!(response.status == 200, "{response:?}");
    Ok(())
}

/// Waits until this many requests are held.
async fn held(host: &Server, mode: &str, count: u64) -> Result<()> {
    eventually(&format!("{count} held as {mode}"), async || {
        let health = host.health().await.ok()?;
        (health["holds"][mode] == count).then_some(())
    })
    .await
}

/// Returns the next line of a stream that is no keep-alive.
async fn line(body: &mut Incoming) -> Result<String> {
    loop {
        let line = data(body).await?;
        if line != "alive\n" {
            return Ok(line);
        }
    }
}

#[tokio::test]
async fn streams_and_long_polls_are_not_buffered() -> Result<()> {
    let backend = Backend::serve(hold).await?;
    let host = Server::in_front_of(&backend.url("http"), &["--grip-key", "secret"])?;
    let site = Site::start(host.address)?;

    let (sender, response) = get(&site, "/stream").await?;
    let mut stream = timeout(TIMEOUT, response).await??.into_body();
    ensure!(line(&mut stream).await? == "first\n");
    for text in ["second\n", "third\n"] {
        publish(&host, &json!({"http-stream": {"content": text}})).await?;
        ensure!(line(&mut stream).await? == text);
    }
    held(&host, "stream", 1).await?;
    drop((sender, stream));
    held(&host, "stream", 0).await?;

    let (_sender, response) = get(&site, "/response").await?;
    let response = tokio::spawn(response);
    held(&host, "response", 1).await?;
    ensure!(!response.is_finished());
    let news = json!({"code": 201, "body": "news"});
    publish(&host, &json!({"http-response": news})).await?;
    let response = timeout(TIMEOUT, response).await???;
    ensure!(response.status() == StatusCode::CREATED, "{response:?}");
    ensure!(text(response.into_body()).await? == "news");
    Ok(())
}

#[tokio::test]
async fn keep_alives_hold_a_stream_open() -> Result<()> {
    let backend = Backend::serve(hold).await?;
    let host = Server::in_front_of(&backend.url("http"), &[])?;
    let edits = [("proxy_read_timeout 120s", "proxy_read_timeout 4s")];
    let site = Site::start_with(host.address, &edits)?;
    let (_sender, response) = get(&site, "/stream").await?;
    let mut stream = timeout(TIMEOUT, response).await??.into_body();
    ensure!(data(&mut stream).await? == "first\n");
    for number in 0..5 {
        let alive = data(&mut stream).await;
        ensure!(alive.with_context(|| number.to_string())? == "alive\n");
    }
    Ok(())
}
