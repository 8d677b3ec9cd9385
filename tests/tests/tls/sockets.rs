//! WebSockets over HTTP/2 (RFC 8441).

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
    ext::Protocol,
    upgrade::Upgraded,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::Signal;
use tests::{Server, Upstream, app_with_manifest, burger, eventually, probe};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use crate::{
    authority::{Authority, serve},
    client::connect,
};

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Opens a connection of HTTP/2.
pub async fn open(
    address: SocketAddr,
    root: &CertificateDer<'static>,
) -> Result<SendRequest<Empty<Bytes>>> {
    let stream = connect(address, "localhost", root, &["h2"]).await?;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Returns the request for a WebSocket at a path, with more headers.
pub fn request(path: &str, headers: &[(&str, &str)]) -> Result<Request<Empty<Bytes>>> {
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri(format!("https://localhost{path}"))
        .extension(Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Ok(request.body(Empty::new())?)
}

async fn socket(response: Response<Incoming>) -> Result<Socket> {
    ensure!(response.status() == StatusCode::OK, "{response:?}");
    let upgraded = hyper::upgrade::on(response).await?;
    Ok(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await)
}

#[tokio::test]
async fn sockets_share_a_connection_with_requests() -> Result<()> {
    let authority = Authority::new()?;
    let files = authority.issue("localhost", &["localhost"])?;
    let folder = burger("20ms..40ms");
    let host = Server::start(folder.path(), &files.options()?)?;
    let mut sender = open(host.address, &authority.root()).await?;
    let origin = [("origin", "https://localhost")];
    let mut sockets = Vec::new();
    for _ in 0..10 {
        sockets.push(socket(sender.send_request(request("/api/ws", &origin)?).await?).await?);
    }
    for socket in &mut sockets {
        let message = socket.next().await.context("an order")??;
        ensure!(message.to_text()?.contains("order-received"), "{message}");
    }
    let page = Request::get("https://localhost/").body(Empty::new())?;
    ensure!(sender.send_request(page).await?.status() == StatusCode::OK);
    // Each has a close handshake of its own, with a code.
    for socket in &mut sockets {
        socket.close(None).await?;
        while let Some(message) = socket.next().await {
            message?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn messages_of_all_sizes_are_echoed() -> Result<()> {
    let (host, authority, _folder) = serve(&[])?;
    let mut sender = open(host.address, &authority.root()).await?;
    let mut socket = socket(
        sender
            .send_request(request("/websocket-echo", &[])?)
            .await?,
    )
    .await?;
    for size in [0, 1, 125, 126, 16_384, 60_000] {
        socket.send(Message::text("x".repeat(size))).await?;
        let echo = socket.next().await.context("an echo")??;
        ensure!(echo.len() == size, "{size}: {}", echo.len());
    }
    // Drained with GOAWAY and a close frame.
    host.signal(Signal::TERM)?;
    let close = loop {
        match socket.next().await.context("a close frame")?? {
            Message::Close(close) => break close.context("a code")?,
            _ => continue,
        }
    };
    ensure!(u16::from(close.code) == 1001, "{close}");
    drop(socket);
    ensure!(host.wait().await? == Some(0));
    Ok(())
}

#[tokio::test]
async fn peers_that_vanish_are_dropped() -> Result<()> {
    let authority = Authority::new()?;
    let files = authority.issue("localhost", &["localhost"])?;
    let folder = probe("[application.tool.socket-host.websocket]\nping-interval = \"1s\"");
    let host = Server::start(folder.path(), &files.options()?)?;
    let mut sender = open(host.address, &authority.root()).await?;
    // Neither is read, so neither answers a ping.
    let _stream = socket(
        sender
            .send_request(request("/websocket-echo", &[])?)
            .await?,
    )
    .await?;
    let stream = connect(host.address, "localhost", &authority.root(), &[]).await?;
    let url = "ws://localhost/websocket-echo";
    let (_upgraded, _) = tokio_tungstenite::client_async(url, stream).await?;
    ensure!(host.count("sessions").await? == 2);
    eventually("the end of both", async || {
        host.count("sessions")
            .await
            .ok()
            .filter(|count| *count == 0)
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn streams_that_are_not_read_do_not_delay_a_drain() -> Result<()> {
    let (host, authority, _folder) = serve(&[])?;
    let stream = connect(host.address, "localhost", &authority.root(), &["h2"]).await?;
    // Without a window, nothing can be sent but the heads of responses.
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(0)
        .handshake(TokioIo::new(stream))
        .await?;
    tokio::spawn(connection);
    let request = request("/websocket-echo", &[])?;
    let mut socket = socket(sender.send_request(request).await?).await?;
    socket
        .send(Message::text("an echo that is not read"))
        .await?;
    host.wait_for_metric("socket_host_replied_messages_total 1")
        .await?;
    host.signal(Signal::TERM)?;
    let log = host.log();
    ensure!(host.wait().await? == Some(0));
    let log = log.text();
    ensure!(!log.contains("drain timed out"), "{log}");
    Ok(())
}

#[tokio::test]
async fn requests_for_sockets_are_validated() -> Result<()> {
    let (host, authority, _folder) = serve(&[])?;
    let mut sender = open(host.address, &authority.root()).await?;
    for (path, headers, status) in [
        (
            "/websocket-echo",
            &[("origin", "https://evil.example")][..],
            403,
        ),
        ("/nothing-here", &[], 404),
        ("/seen", &[], 426),
        ("/websocket-echo", &[("host", "other.example")], 400),
    ] {
        let response = sender.send_request(request(path, headers)?).await?;
        ensure!(
            response.status() == status,
            "{path} {headers:?}: {response:?}"
        );
    }
    let mut version = request("/websocket-echo", &[])?;
    version.headers_mut().remove("sec-websocket-version");
    ensure!(sender.send_request(version).await?.status() == 426);
    let mut protocol = request("/websocket-echo", &[])?;
    protocol
        .extensions_mut()
        .insert(Protocol::from_static("connect-udp"));
    ensure!(sender.send_request(protocol).await?.status() == 501);
    Ok(())
}

#[tokio::test]
async fn a_passthrough_gets_an_upgrade_of_http_1() -> Result<()> {
    // The upstream is another host, whose own WebSockets are upgrades of HTTP/1.1.
    let echo = probe("");
    let inner = Server::start(echo.path(), &[])?;
    let components = Upstream::start(echo.path(), &["--quiet"])?;
    let authority = Authority::new()?;
    let files = authority.issue("localhost", &["localhost"])?;
    let folder = app_with_manifest(&format!(
        "spin_manifest_version = 2\napplication.name = \"a\"\n\
         [[application.tool.socket-host.passthrough]]\nroute = \"/...\"\nupstream = \"http://{}\"\n\
         [[application.tool.socket-host.passthrough]]\nroute = \"/seen\"\nupstream = \"http://{}\"\n",
        inner.address, components.address
    ));
    let manifest = folder.path().to_str().context("a path")?;
    let upstream = format!("http://{}", components.address);
    let options = [&files.options()?[..], &["--from", manifest]].concat();
    let host = Server::in_front_of(&upstream, &options)?;
    let mut sender = open(host.address, &authority.root()).await?;
    let response = sender
        .send_request(request("/websocket-echo", &[])?)
        .await?;
    // A 200 of a server that ignores the upgrade would open the WebSocket.
    let ignored = sender.send_request(request("/seen", &[])?).await?;
    ensure!(ignored.status() == 502, "{ignored:?}");
    let headers = response.headers();
    ensure!(!headers.contains_key("sec-websocket-accept"), "{headers:?}");
    let mut socket = socket(response).await?;
    socket.send(Message::text("through two")).await?;
    let echo = socket.next().await.context("an echo")??;
    ensure!(echo.to_text()? == "through two", "{echo}");
    Ok(())
}
