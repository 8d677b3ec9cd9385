//! Passthrough routes, whose upgrades are tunneled.

use anyhow::{Context, Result, ensure};
use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustix::process::Signal;
use spin_runtime::backend::{Body, empty, full};
use tests::{Client, Server, TIMEOUT, app_with_manifest, probe, request};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::derive_accept_key, protocol::Role},
};

use super::{
    backend::{Backend, header, mirror},
    sockets::{chat_backend, publish, text},
};

/// A development server. WebSockets are echoed, the protocol `count` returns the number of bytes
/// received, `/hmr/no` is refused, and other requests are mirrored.
async fn development(mut request: Request<Incoming>) -> Response<Body> {
    let upgrade = request.headers().get("upgrade").cloned();
    let (Some(protocol), true) = (upgrade, request.uri().path() != "/hmr/no") else {
        if request.uri().path() == "/hmr/no" {
            let mut response = Response::new(full("not you"));
            *response.status_mut() = StatusCode::FORBIDDEN;
            response
                .headers_mut()
                .insert("x-why", HeaderValue::from_static("because"));
            return response;
        }
        return mirror(request).await;
    };
    let upgraded = hyper::upgrade::on(&mut request);
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert("connection", HeaderValue::from_static("upgrade"));
    if let Some(key) = request.headers().get("sec-websocket-key") {
        let accept = derive_accept_key(key.as_bytes());
        if let Ok(accept) = HeaderValue::from_str(&accept) {
            headers.insert("sec-websocket-accept", accept);
        }
        if let Some(requested) = request.headers().get("sec-websocket-protocol") {
            headers.insert("sec-websocket-protocol", requested.clone());
        }
    }
    let counts = protocol == "count";
    headers.insert("upgrade", protocol);
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgraded.await?);
        if counts {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await?;
            stream
                .write_all(format!("{} bytes", all.len()).as_bytes())
                .await?;
            stream.shutdown().await?;
        } else {
            let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
            while let Some(Ok(message)) = socket.next().await {
                if message.is_text() || message.is_binary() {
                    socket.send(message).await?;
                }
            }
        }
        anyhow::Ok(())
    });
    response
}

fn manifest(passthroughs: &[(&str, Option<&str>)], extra: &str) -> tempfile::TempDir {
    let mut text = format!("spin_manifest_version = 2\napplication.name = \"tunnels\"\n{extra}\n");
    for (route, upstream) in passthroughs {
        text += &format!("[[application.tool.socket-host.passthrough]]\nroute = \"{route}\"\n");
        if let Some(upstream) = upstream {
            text += &format!("upstream = \"{upstream}\"\n");
        }
    }
    app_with_manifest(&text)
}

const STATIC: &str = "[[trigger.http]]\nroute = \"/...\"\nstatic_response = { body = \"own\" }";

async fn upgrade(host: &Server, path: &str, protocol: &str, early: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(host.address).await?;
    let bytes = format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: {protocol}\r\n\r\n{early}"
    );
    stream.write_all(bytes.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let read = tokio::time::timeout(TIMEOUT, stream.read_u8()).await?;
        head.push(read.with_context(|| String::from_utf8_lossy(&head).into_owned())?);
    }
    let head = String::from_utf8(head)?.to_ascii_lowercase();
    ensure!(head.starts_with("http/1.1 101 "), "{head}");
    ensure!(head.contains("connection: upgrade\r\n"), "{head}");
    ensure!(head.contains(&format!("upgrade: {protocol}\r\n")), "{head}");
    Ok(stream)
}

#[tokio::test]
async fn tunnelled_and_held_sockets_share_a_port() -> Result<()> {
    let development = Backend::serve(development).await?;
    let (backend, mut sent) = chat_backend().await?;
    let dev = development.url("http");
    let folder = manifest(&[("/hmr/...", Some(&dev))], STATIC);
    let path = folder.path().to_string_lossy().into_owned();
    let options = ["--from", &path, "--grip-key", "secret"];
    let host = Server::in_front_of(&backend.url("http"), &options)?;

    let mut tunneled = Client::open(
        host.address,
        "/hmr/x?y=z",
        &[
            ("origin", "http://elsewhere.example"),
            ("sec-websocket-protocol", "vite-hmr"),
        ],
    )
    .await
    .map_err(|failed| failed.error)?;
    let mut held = Client::open(host.address, "/ws", &[])
        .await
        .map_err(|failed| failed.error)?;
    sent.recv().await.context("OPEN")?;
    for round in 0..10 {
        tunneled.send(&format!("round {round}")).await?;
        held.send(&format!("round {round}")).await?;
        ensure!(text(&mut held).await? == format!("ROUND {round}"));
        ensure!(text(&mut tunneled).await? == format!("round {round}"));
    }
    publish(&host, "to those held").await?;
    ensure!(text(&mut held).await? == "to those held");
    // Larger than all buffers on the way, and than the message limit of held sockets.
    let large: Vec<u8> = (0..4_000_000u32)
        .map(|n| (n.wrapping_mul(n) >> 7) as u8)
        .collect();
    tunneled.0.send(Message::binary(large.clone())).await?;
    let back = tunneled.next().await?.context("the socket was closed")?;
    ensure!(back.into_data() == large, "other bytes were received");
    ensure!(host.count("sessions").await? == 1);
    // Upgraded connections still count as connections.
    host.wait_for_metric("socket_host_connections 2").await?;
    host.wait_for_metric("socket_host_tunnels 1").await?;

    // Plain requests of the route are passed through as well, without a signature.
    let (status, body) = host.get("/hmr/mirror").await?;
    let seen: serde_json::Value = serde_json::from_str(&body)?;
    ensure!(status == 200 && seen["uri"] == "/hmr/mirror", "{seen}");
    ensure!(header(&seen, "grip-sig").is_empty(), "{seen}");
    ensure!(header(&seen, "x-forwarded-for") == ["127.0.0.1"], "{seen}");
    for (status, count) in [(101, 1), (200, 1)] {
        let by = format!("component=\"{dev}\",status=\"{status}\"");
        host.wait_for_metric(&format!(
            "socket_host_backend_requests_total{{{by}}} {count}"
        ))
        .await?;
    }
    ensure!(host.get("/else").await? == (200, "no events".to_owned()));

    let no = Client::open(host.address, "/hmr/no", &[])
        .await
        .err()
        .context("the socket opens")?;
    ensure!(no.status == Some(403), "{no:?}");
    tunneled.0.close(None).await?;
    ensure!(
        tunneled
            .closed()
            .await?
            .is_none_or(|code| code == 1005 || code == 1000)
    );
    drop(tunneled);
    host.wait_for_metric("socket_host_connections 1").await?;
    host.wait_for_metric("socket_host_tunnels 0").await?;
    held.0.close(None).await?;
    held.closed().await?;
    drop(held);
    host.wait_for_metric("socket_host_connections 0").await
}

#[tokio::test]
async fn tunnels_work_with_embedded_components() -> Result<()> {
    let development = Backend::serve(development).await?;
    let folder = probe("");
    let path = folder.path().join("spin.toml");
    let text_of = std::fs::read_to_string(&path)?;
    let url = development.url("http");
    std::fs::write(
        &path,
        format!(
            "{text_of}\n[[application.tool.socket-host.passthrough]]\nroute = \"/hmr\"\nupstream = \"{url}\"\n"
        ),
    )?;
    let host = Server::start(folder.path(), &[])?;
    let mut tunneled = host.socket("/hmr").await?;
    tunneled.send("hello").await?;
    ensure!(text(&mut tunneled).await? == "hello");
    let (status, body) = host.get("/hmr").await?;
    ensure!(status == 200 && body.contains("x-forwarded-for"), "{body}");
    ensure!(host.get("/headers").await?.0 == 200);
    Ok(())
}

#[tokio::test]
async fn tunnels_carry_any_protocol_and_half_closes() -> Result<()> {
    let development = Backend::serve(development).await?;
    let folder = manifest(&[("/count", None)], STATIC);
    let path = folder.path().to_string_lossy().into_owned();
    let host = Server::in_front_of(&development.url("http"), &["--from", &path])?;
    // Some of the data is sent with the request.
    let mut stream = upgrade(&host, "/count", "count", "early").await?;
    stream.write_all(&vec![7; 1_000_000]).await?;
    stream.shutdown().await?;
    let mut response = String::new();
    tokio::time::timeout(TIMEOUT, stream.read_to_string(&mut response)).await??;
    ensure!(response == "1000005 bytes", "{response}");
    Ok(())
}

/// What a client sends looks like requests, and must reach a server that has ended its own side.
#[tokio::test]
async fn a_tunnel_forwards_after_the_server_has_ended_its_side() -> Result<()> {
    const PIECE: &[u8] = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n";
    const PIECES: usize = 200;
    let (sender, mut received) = mpsc::unbounded_channel();
    let backend = Backend::script(move |_, mut stream| {
        let sender = sender.clone();
        async move {
            super::backend::read_head(&mut stream).await;
            let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\
                        Upgrade: custom\r\n\r\n";
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = stream.shutdown().await;
            let mut content = Vec::new();
            let _ = stream.read_to_end(&mut content).await;
            let _ = sender.send(content);
        }
    })
    .await?;
    let folder = manifest(&[("/custom", None)], STATIC);
    let path = folder.path().to_string_lossy().into_owned();
    let host = Server::in_front_of(&backend.url("http"), &["--from", &path])?;
    let mut stream = upgrade(&host, "/custom", "custom", "").await?;
    // The end of the server's side.
    ensure!(
        tokio::time::timeout(TIMEOUT, stream.read_u8())
            .await?
            .is_err()
    );
    for _ in 0..PIECES {
        stream.write_all(PIECE).await?;
        tokio::task::yield_now().await;
    }
    stream.shutdown().await?;
    let content = tokio::time::timeout(TIMEOUT, received.recv()).await?;
    ensure!(content == Some(PIECE.repeat(PIECES)));
    Ok(())
}

#[tokio::test]
async fn a_refusal_is_forwarded_unchanged() -> Result<()> {
    let development = Backend::serve(development).await?;
    let folder = manifest(&[("/hmr/...", None)], STATIC);
    let path = folder.path().to_string_lossy().into_owned();
    let host = Server::in_front_of(&development.url("http"), &["--from", &path])?;
    let bytes =
        "GET /hmr/no HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let response = request(host.address, bytes).await?;
    ensure!(
        response.status == 403 && response.body == "not you",
        "{response:?}"
    );
    ensure!(response.head.contains("x-why: because"), "{response:?}");

    let host = Server::in_front_of("http://127.0.0.1:9", &["--from", &path])?;
    ensure!(request(host.address, bytes).await?.status == 502);
    Ok(())
}

/// Requests in a tunnel would bypass the gateway.
#[tokio::test]
async fn http_is_not_tunnelled() -> Result<()> {
    let development = Backend::serve(development).await?;
    let own = development.url("http");
    let folder = manifest(&[("/own/...", Some(&own)), ("/main/...", None)], STATIC);
    let path = folder.path().to_string_lossy().into_owned();
    let host = Server::in_front_of(&own, &["--from", &path])?;
    for path in ["/own/x", "/main/x"] {
        let bytes = format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"
        );
        let response = request(host.address, &bytes).await?;
        ensure!(response.status == 200, "{response:?}");
        let seen: serde_json::Value = serde_json::from_str(&response.body)?;
        ensure!(header(&seen, "upgrade").is_empty(), "{seen}");
    }
    // A switch to another protocol than requested is not tunneled either.
    let backend = Backend::script(|_, mut stream| async move {
        super::backend::read_head(&mut stream).await;
        let _ = stream
            .write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
            )
            .await;
    })
    .await?;
    let host = Server::in_front_of(&backend.url("http"), &["--from", &path])?;
    let bytes =
        "GET /main/x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    ensure!(request(host.address, bytes).await?.status == 502);
    Ok(())
}

#[tokio::test]
async fn tunnels_are_limited_and_end_with_the_host() -> Result<()> {
    let development = Backend::serve(development).await?;
    let folder = manifest(
        &[("/hmr", None)],
        &format!("{STATIC}\n[application.tool.socket-host.websocket]\nmax-connections = 2"),
    );
    let path = folder.path().to_string_lossy().into_owned();
    let host = Server::in_front_of(&development.url("http"), &["--from", &path])?;
    let mut first = host.socket("/hmr").await?;
    let mut second = upgrade(&host, "/hmr", "count", "").await?;
    let third = Client::open(host.address, "/hmr", &[])
        .await
        .err()
        .context("the socket opens")?;
    ensure!(third.status == Some(503), "{third:?}");
    host.wait_for_metric("socket_host_dropped_total{reason=\"full\"} 1")
        .await?;

    host.signal(Signal::TERM)?;
    ensure!(host.wait().await? == Some(0));
    let rest = tokio::time::timeout(TIMEOUT, second.read_to_end(&mut Vec::new())).await;
    rest.context("the tunnel stays open")?.ok();
    while let Ok(Some(message)) = first.next().await {
        ensure!(!message.is_text(), "{message:?}");
    }
    Ok(())
}
