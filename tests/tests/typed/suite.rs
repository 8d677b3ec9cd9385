//! Exchanges with the same outcome behind typed frames, and over HTTP behind this host and Pushpin.

use std::{net::SocketAddr, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::SinkExt as _;
use tests::{
    Client, Server, TIMEOUT, Upstream, eventually, free_address, host_binary,
    pushpin::{Processes, Pushpin},
    request, typed,
};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use crate::{ask, text};

/// The key that the proxy and the component share.
const KEY: &str = "secret";

/// The time for a request while Pushpin may not be ready.
const ATTEMPT: Duration = Duration::from_secs(2);

#[tokio::test]
async fn with_typed_frames() -> Result<()> {
    let folder = typed("");
    let host = Server::start(folder.path(), &[])?;
    check(host.address).await
}

#[tokio::test]
async fn over_http_behind_the_host() -> Result<()> {
    let control = free_address()?;
    let backend = backend(control)?;
    let mut command = Command::new(host_binary());
    command.args(["up", "--upstream", &format!("http://{}", backend.address)]);
    command.args(["--grip-key", KEY]);
    let host = Server::run(command, &["--control", &control.to_string()])?;
    check(host.address).await
}

#[tokio::test]
async fn over_http_behind_pushpin() -> Result<()> {
    let (public, control) = (free_address()?, free_address()?);
    let backend = backend(control)?;
    let mut pushpin = Processes::start(&Pushpin {
        public,
        control,
        routes: &format!("* {},over_http\n", backend.address),
        key: KEY,
        client_buffer: 500_000,
        connections: 100,
        log_level: 2,
    })?;
    let get = format!("GET / HTTP/1.1\r\nHost: {public}\r\n\r\n");
    eventually("Pushpin", async || {
        // Pushpin may lose a request that arrives before its HTTP client is ready.
        let response = timeout(ATTEMPT, request(public, &get)).await.ok()?.ok()?;
        (response.status == 200).then_some(())
    })
    .await?;
    if let Err(error) = check(public).await {
        pushpin.ensure_running()?;
        return Err(error.context(pushpin.log()));
    }
    Ok(())
}

/// Serves the component over HTTP, behind a proxy with this control port.
fn backend(control: SocketAddr) -> Result<Upstream> {
    let folder = typed("");
    let url = format!("grip_url=http://{control}");
    let key = format!("grip_key={KEY}");
    Upstream::start(folder.path(), &["--variable", &url, "--variable", &key])
}

/// Runs all exchanges.
async fn check(address: SocketAddr) -> Result<()> {
    handshakes(address).await.context("handshakes")?;
    messages(address).await.context("messages")?;
    pings(address).await.context("pings")?;
    channels(address).await.context("channels")?;
    closes(address).await.context("closes")
}

async fn open(address: SocketAddr) -> Result<Client> {
    let opened = Client::open(address, "/room?x=1", &[]).await;
    opened.map_err(|failed| failed.error)
}

async fn handshakes(address: SocketAddr) -> Result<()> {
    let plain = format!("GET /room HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let response = request(address, &plain).await?;
    ensure!((response.status, &*response.body) == (200, "GET /room"));
    let upgrade = |target: &str, extra: &str| {
        format!(
            "GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{extra}\r\n"
        )
    };
    let refused = request(address, &upgrade("/room?status=403", "")).await?;
    ensure!(
        (refused.status, &*refused.body) == (403, "refused /room?status=403"),
        "{refused:?}"
    );
    let accepted = Client::open(address, "/room", &[("sec-websocket-protocol", "chat")]).await;
    // The library fails unless the response has the protocol.
    ensure!(accepted.is_ok(), "{:?}", accepted.err());
    Ok(())
}

async fn messages(address: SocketAddr) -> Result<()> {
    let mut client = open(address).await?;
    let long = "long ".repeat(10_000);
    for message in ["hello", "", "grüße 🍔", "\u{0}", "m:c:{}", &long] {
        let echo = ask(&mut client, message).await?;
        ensure!(echo == message, "{} bytes", message.len());
    }
    for data in [vec![], vec![0, 255, 128], vec![7; 60_000]] {
        client.0.send(Message::binary(data.clone())).await?;
        let echo = client.next().await?.context("an echo")?;
        ensure!(echo == Message::binary(data), "{}", echo.len());
    }
    for number in 0..200 {
        let message = Message::text(format!("echo {number}"));
        client.0.feed(message).await?;
    }
    client.0.flush().await?;
    for number in 0..200 {
        ensure!(text(&mut client).await? == number.to_string());
    }
    Ok(())
}

async fn pings(address: SocketAddr) -> Result<()> {
    let mut client = open(address).await?;
    client.send("ping are you there").await?;
    let ping = client.next().await?.context("a ping")?;
    ensure!(ping == Message::Ping("are you there".into()), "{ping:?}");
    ensure!(ask(&mut client, "still").await? == "still");
    Ok(())
}

async fn channels(address: SocketAddr) -> Result<()> {
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(open(address).await?);
    }
    let [first, second, third] = &mut clients[..] else {
        bail!("three clients");
    };
    for client in [&mut *first, &mut *second] {
        ensure!(ask(client, "subscribe burgers").await? == "subscribed to burgers");
    }
    third.send("publish burgers one for all").await?;
    for client in [&mut *first, &mut *second] {
        ensure!(text(client).await? == "one for all");
    }
    // The subscriber gets its own message, too.
    first.send("publish burgers mine").await?;
    for client in [&mut *first, &mut *second] {
        ensure!(text(client).await? == "mine");
    }
    ensure!(ask(first, "unsubscribe burgers").await? == "unsubscribed from burgers");
    third.send("publish burgers last").await?;
    ensure!(text(second).await? == "last");
    for client in [first, third] {
        ensure!(ask(client, "nothing else").await? == "nothing else");
    }
    Ok(())
}

async fn closes(address: SocketAddr) -> Result<()> {
    for (command, expected) in [
        ("close 1000 ", Some((1000, ""))),
        (
            "close 1008 no more burgers",
            Some((1008, "no more burgers")),
        ),
        ("close 1013 later", Some((1013, "later"))),
    ] {
        let mut client = open(address).await?;
        client.send(command).await?;
        let close = close(&mut client).await?;
        let close = close.map(|close| (u16::from(close.code), close.reason.to_string()));
        let expected = expected.map(|(code, reason)| (code, reason.to_owned()));
        ensure!(close == expected, "{command}: {close:?}");
    }
    for code in [1000, 1001, 3000, 4999] {
        let mut client = open(address).await?;
        let frame = CloseFrame {
            code: CloseCode::from(code),
            reason: "bye".into(),
        };
        client.0.send(Message::Close(Some(frame))).await?;
        let close = close(&mut client).await?;
        let answered = close.map(|close| u16::from(close.code));
        ensure!(answered == Some(code), "{code}: {answered:?}");
    }
    let mut client = open(address).await?;
    client.send("drop").await?;
    // A reset is an error, depending on what was on its way.
    let dropped = timeout(TIMEOUT, async {
        while let Ok(Some(_)) = client.next().await {}
    });
    dropped.await.context("the connection stays open")?;
    Ok(())
}

/// Returns the close frame of the server.
async fn close(client: &mut Client) -> Result<Option<CloseFrame>> {
    let next = timeout(Duration::from_secs(20), client.next()).await;
    match next.context("no close frame")??.context("the end")? {
        Message::Close(close) => Ok(close),
        other => bail!("expected a close frame, got {other:?}"),
    }
}
