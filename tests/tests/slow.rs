//! Slow and flooding clients: their memory is bounded, and others are not delayed.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt as _};
use http::Response;
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tests::{Client, Server, TIMEOUT, burger_without_timer, eventually, probe};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_tungstenite::tungstenite::Message;

/// The message size in bytes.
const MESSAGE: usize = 16 << 10;

/// More bytes than the host and the kernel buffer for one client: at most 1 MiB in the host, 4 and
/// 6 MiB in the kernel's send and receive buffers.
const OVERFLOW: usize = 20 << 20;

/// The allowed growth of the host's memory in KiB: several times the bound for a client, and a small
/// part of the bytes sent.
const GROWTH_MAX_KIB: u64 = 8 << 10;

/// The maximum delay of a message to a client that reads.
const DELAY_MAX: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_client_that_does_not_read_is_closed_with_1013_without_delaying_others() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &[])?;
    let mut slow = host.socket("/api/ws").await?;
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(host.socket("/api/ws").await?);
    }
    let before = host.resident_kib()?;
    let text = "x".repeat(MESSAGE);
    let item = json!({"channel": "orders", "formats": {"ws-message": {"content": text}}});
    let body = json!({"items": [item]}).to_string();
    let mut published = 0;
    let mut resident = before;
    while published < OVERFLOW {
        let response = host.publish("", &body).await?;
        ensure!(response.status == 200, "{response:?}");
        published += MESSAGE;
        for other in &mut others {
            let message = timeout(DELAY_MAX, other.next())
                .await
                .context("another client is delayed")??;
            ensure!(
                message == Some(Message::text(&*text)),
                "another message was received"
            );
        }
        resident = resident.max(host.resident_kib()?);
    }
    ensure!(
        resident < before + GROWTH_MAX_KIB,
        "{before} KiB before, {resident} KiB after {published} bytes"
    );
    // When it reads again, it receives the messages already being sent, the close, and the end.
    let mut read = 0;
    loop {
        match slow.next().await? {
            Some(Message::Text(part)) => {
                ensure!(part.len() == MESSAGE, "a message is truncated");
                read += part.len();
            }
            Some(Message::Close(frame)) => {
                let code = frame.map(|frame| u16::from(frame.code));
                ensure!(code == Some(1013), "{code:?}");
                break;
            }
            other => bail!("received {other:?}, expected a close"),
        }
    }
    ensure!(read < published, "all messages were buffered");
    ensure!(slow.next().await?.is_none(), "data follows the close");
    eventually("the end of the session", async || {
        (host.count("sessions").await.ok()? == 3).then_some(())
    })
    .await
}

#[tokio::test]
async fn a_flooding_client_is_slowed_by_tcp() -> Result<()> {
    let (upstream, mut requests) = backend().await?;
    let host = Server::in_front_of(&format!("http://{upstream}"), &[])?;
    let address = host.address;
    let opening = tokio::spawn(async move { Client::open(address, "/", &[]).await });
    let open = requests.recv().await.context("a request")?;
    ensure!(open.body == "OPEN\r\n", "the first request is not an OPEN");
    open.reply("OPEN\r\n")?;
    let mut client = opening.await?.map_err(|refused| refused.error)?;

    // The backend does not reply to the first message.
    let before = host.resident_kib()?;
    let text = "x".repeat(MESSAGE);
    let mut sent = 0;
    loop {
        ensure!(sent < OVERFLOW, "the host does not slow the client");
        match timeout(DELAY_MAX, client.send(&text)).await {
            Ok(result) => result?,
            Err(_) => break,
        }
        sent += MESSAGE;
    }
    let resident = host.resident_kib()?;
    ensure!(
        resident < before + GROWTH_MAX_KIB,
        "{before} KiB before, {resident} KiB after {sent} bytes"
    );

    // Once the backend replies, all messages arrive, and more can be sent.
    let replying = tokio::spawn(async move {
        let mut content = 0;
        loop {
            let request = requests.recv().await.context("a request")?;
            content += request.body.iter().filter(|byte| **byte == b'x').count();
            let last = request.body.ends_with(b"TEXT 3\r\nend\r\n");
            request.reply("")?;
            if last {
                return anyhow::Ok(content);
            }
        }
    });
    timeout(TIMEOUT, client.0.flush())
        .await
        .context("sending stays blocked")??;
    timeout(TIMEOUT, client.send("end"))
        .await
        .context("sending stays blocked")??;
    let content = timeout(TIMEOUT, replying)
        .await
        .context("not all messages arrive")???;
    // The message whose sending timed out had been started, so it arrives too.
    ensure!(
        content == sent + MESSAGE,
        "{content} bytes arrived of {sent} and one message"
    );
    Ok(())
}

#[tokio::test]
async fn a_million_tiny_messages_are_echoed_in_order() -> Result<()> {
    const COUNT: u32 = 1_000_000;
    let folder =
        probe("[application.tool.socket-host.websocket]\nmax-messages-per-second = \"off\"\n");
    let host = Server::start(folder.path(), &[])?;
    let (mut sender, mut receiver) = host.socket("/websocket-echo").await?.0.split();
    let before = host.resident_kib()?;
    let sending = tokio::spawn(async move {
        for number in 0..COUNT {
            sender.feed(Message::text(number.to_string())).await?;
        }
        sender.flush().await?;
        anyhow::Ok(sender)
    });
    for number in 0..COUNT {
        let message = timeout(TIMEOUT, receiver.next())
            .await
            .with_context(|| format!("no echo of {number}"))?
            .context("the socket was closed")??;
        ensure!(
            message.to_text()? == number.to_string(),
            "{message}, not {number}"
        );
    }
    let resident = host.resident_kib()?;
    ensure!(
        resident < before + GROWTH_MAX_KIB,
        "{before} KiB before, {resident} KiB afterwards"
    );
    drop(sending.await??);
    Ok(())
}

/// A request from the host to the backend.
struct BackendRequest {
    body: Bytes,
    sender: oneshot::Sender<&'static str>,
}

impl BackendRequest {
    /// Replies with these events.
    fn reply(self, events: &'static str) -> Result<()> {
        self.sender
            .send(events)
            .ok()
            .context("the host has cancelled the request")
    }
}

/// Starts a backend and returns its requests, to which the test replies.
async fn backend() -> Result<(SocketAddr, mpsc::UnboundedReceiver<BackendRequest>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (sender, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let requests = sender.clone();
            let service = service_fn(move |request: hyper::Request<Incoming>| {
                let requests = requests.clone();
                async move {
                    let body = request.into_body().collect().await?;
                    let (sender, events) = oneshot::channel();
                    let body = body.to_bytes();
                    let _ = requests.send(BackendRequest { body, sender });
                    let mut response =
                        Response::new(Full::<Bytes>::from(events.await.unwrap_or("")));
                    response.headers_mut().insert(
                        "content-type",
                        http::HeaderValue::from_static("application/websocket-events"),
                    );
                    Ok::<_, hyper::Error>(response)
                }
            });
            tokio::spawn(async move {
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = builder
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    Ok((address, requests))
}
