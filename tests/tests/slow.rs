//! Slow clients and flooding ones: what they cost is bounded, and nobody else waits for them.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures_util::SinkExt;
use http::Response;
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tests::{Client, PATIENCE, Server, closed_burger, eventually};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_tungstenite::tungstenite::Message;

/// Bytes in a message of these tests.
const MESSAGE: usize = 16 << 10;

/// More than the host and the kernel's buffers on both sides hold for one client: at most
/// 1, 4 and 6 MiB.
const TOO_MUCH: usize = 20 << 20;

/// What the host's memory may grow by in KiB: several times the bound for a client, and
/// a small part of what was sent.
const GROWTH_KIB: u64 = 8 << 10;

/// Nobody who reads waits this long for a message.
const DELAY: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_client_that_does_not_read_delays_nobody_and_is_closed_with_1013() -> Result<()> {
    let folder = closed_burger();
    let host = Server::start(folder.path(), &[])?;
    let mut slow = host.socket("/api/ws").await?;
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(host.socket("/api/ws").await?);
    }
    let before = host.resident()?;
    let text = "x".repeat(MESSAGE);
    let item = json!({"channel": "orders", "formats": {"ws-message": {"content": text}}});
    let body = json!({"items": [item]}).to_string();
    let mut published = 0;
    let mut resident = before;
    while published < TOO_MUCH {
        let answer = host.publish("", &body).await?;
        ensure!(answer.status == 200, "{answer:?}");
        published += MESSAGE;
        for other in &mut others {
            let message = timeout(DELAY, other.next())
                .await
                .context("another is delayed")??;
            ensure!(
                message == Some(Message::text(&*text)),
                "something else came"
            );
        }
        resident = resident.max(host.resident()?);
    }
    ensure!(
        resident < before + GROWTH_KIB,
        "{before} KiB before, {resident} KiB after {published} bytes"
    );
    // It reads again: what was begun before the close, the close, the end.
    let mut read = 0;
    loop {
        match slow.next().await? {
            Some(Message::Text(part)) => {
                ensure!(part.len() == MESSAGE, "a message is cut");
                read += part.len();
            }
            Some(Message::Close(frame)) => {
                let code = frame.map(|frame| u16::from(frame.code));
                ensure!(code == Some(1013), "{code:?}");
                break;
            }
            other => bail!("{other:?}, not a close"),
        }
    }
    ensure!(read < published, "all was buffered");
    ensure!(
        slow.next().await?.is_none(),
        "there is more after the close"
    );
    eventually("its session's end", async || {
        (host.count("sessions").await.ok()? == 3).then_some(())
    })
    .await
}

#[tokio::test]
async fn a_flood_is_pushed_back_on_by_tcp() -> Result<()> {
    let (upstream, mut requests) = backend().await?;
    let host = Server::in_front_of(&format!("http://{upstream}"), &[])?;
    let address = host.address;
    let opening = tokio::spawn(async move { Client::open(address, "/", &[]).await });
    let open = requests.recv().await.context("a request")?;
    ensure!(open.body == "OPEN\r\n", "the first request opens");
    open.answer("OPEN\r\n")?;
    let mut client = opening.await?.map_err(|refused| refused.error)?;

    // The backend lets the request with the first message wait.
    let before = host.resident()?;
    let text = "x".repeat(MESSAGE);
    let mut sent = 0;
    loop {
        ensure!(sent < TOO_MUCH, "a flood is taken in whole");
        match timeout(DELAY, client.send(&text)).await {
            Ok(result) => result?,
            Err(_) => break,
        }
        sent += MESSAGE;
    }
    let resident = host.resident()?;
    ensure!(
        resident < before + GROWTH_KIB,
        "{before} KiB before, {resident} KiB after {sent} bytes"
    );

    // It answers: all that was sent arrives, and more can be sent.
    let answering = tokio::spawn(async move {
        let mut content = 0;
        loop {
            let request = requests.recv().await.context("a request")?;
            content += request.body.iter().filter(|byte| **byte == b'x').count();
            let last = request.body.ends_with(b"TEXT 3\r\nend\r\n");
            request.answer("")?;
            if last {
                return anyhow::Ok(content);
            }
        }
    });
    timeout(PATIENCE, client.0.flush())
        .await
        .context("it stays blocked")??;
    timeout(PATIENCE, client.send("end"))
        .await
        .context("it stays blocked")??;
    let content = timeout(PATIENCE, answering)
        .await
        .context("not all arrives")???;
    // The message whose sending was given up had been begun: it came, too.
    ensure!(
        content == sent + MESSAGE,
        "{content} bytes came of {sent} and a message"
    );
    Ok(())
}

/// A request of the host to the backend.
struct Asked {
    body: Bytes,
    reply: oneshot::Sender<&'static str>,
}

impl Asked {
    /// Answers with these events.
    fn answer(self, events: &'static str) -> Result<()> {
        self.reply
            .send(events)
            .ok()
            .context("the host has given up")
    }
}

/// A backend whose requests the test answers when it wants to.
async fn backend() -> Result<(SocketAddr, mpsc::UnboundedReceiver<Asked>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (asked, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let asked = asked.clone();
            let service = service_fn(move |request: hyper::Request<Incoming>| {
                let asked = asked.clone();
                async move {
                    let body = request.into_body().collect().await?;
                    let (reply, replied) = oneshot::channel();
                    let body = body.to_bytes();
                    let _ = asked.send(Asked { body, reply });
                    let mut response =
                        Response::new(Full::<Bytes>::from(replied.await.unwrap_or("")));
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
