//! WebSockets of Socket Burger: valid and invalid messages, handshakes and cleanup.

use anyhow::{Context, Result, ensure};
use futures_util::SinkExt;
use tests::{
    COMPONENT_PING, Client, Server, TIMEOUT, burger_without_timer,
    deflate::{TAIL, compress},
    eventually, request,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::tungstenite::Message;

/// The ping of the page, which the host answers.
const PING: &str = r#"{"event":"ping"}"#;

#[tokio::test]
async fn pings_get_a_pong_and_invalid_messages_an_error() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &[])?;
    let mut socket = host.socket("/api/ws").await?;
    for invalid in [
        "",
        "nonsense",
        "{}",
        "[]",
        r#"{"event":"dance"}"#,
        r#"{"event":"order-status"}"#,
        "\u{0}",
    ] {
        socket.send(invalid).await?;
        let error = socket.event_named("error").await?;
        ensure!(
            error["message"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{invalid:?}: {error}"
        );
    }
    socket.0.send(Message::binary(vec![0xff; 10])).await?;
    socket.event_named("error").await?;
    for ping in [PING, COMPONENT_PING] {
        socket.send(ping).await?;
        ensure!(socket.event().await? == serde_json::json!({"event": "pong"}));
    }
    // A ping frame, to which the host itself replies.
    socket.0.send(Message::Ping("still there?".into())).await?;
    loop {
        if let Message::Pong(content) = socket.next().await?.context("a pong")? {
            ensure!(content == "still there?");
            return Ok(());
        }
    }
}

#[tokio::test]
async fn the_host_answers_the_ping_of_the_page() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &[])?;
    let mut socket = host.socket("/api/ws").await?;
    let calls = |count: usize| {
        let labels = r#"component="orders",status="200""#;
        format!("socket_host_backend_requests_total{{{labels}}} {count}")
    };
    // The request that opened the socket.
    host.wait_for_metric(&calls(1)).await?;
    for _ in 0..100 {
        socket.send(PING).await?;
        ensure!(socket.event().await?["event"] == "pong");
    }
    // A request for one of the pings would be counted before this one.
    socket.send(COMPONENT_PING).await?;
    ensure!(socket.event().await?["event"] == "pong");
    host.wait_for_metric(&calls(2)).await
}

#[tokio::test]
async fn many_messages_get_their_replies_in_order() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &[])?;
    let mut socket = host.socket("/api/ws").await?;
    for n in 0..500 {
        socket
            .0
            .feed(Message::text(format!(
                r#"{{"event":"order-status","detail":{{"id":{},"status":"fired"}}}}"#,
                9000 + n
            )))
            .await?;
        socket.0.feed(Message::text(COMPONENT_PING)).await?;
    }
    socket.0.flush().await?;
    for n in 0..500 {
        let error = socket.event().await?;
        ensure!(
            error["event"] == "error" && error.to_string().contains(&format!("{}", 9000 + n)),
            "{n}: {error}"
        );
        ensure!(socket.event().await?["event"] == "pong", "{n}");
    }
    Ok(())
}

#[tokio::test]
async fn a_close_is_returned_with_its_code() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &[])?;
    let mut socket = host.socket("/api/ws").await?;
    let frame = tokio_tungstenite::tungstenite::protocol::CloseFrame {
        code: 4242.into(),
        reason: "done".into(),
    };
    socket.0.send(Message::Close(Some(frame))).await?;
    ensure!(socket.closed().await? == Some(4242));
    eventually("the session to end", async || {
        (host.count("sessions").await.ok()? == 0).then_some(())
    })
    .await
}

/// Encodes a masked frame. The mask is zero.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match u8::try_from(payload.len()) {
        Ok(length) if length < 126 => frame.push(0x80 | length),
        _ => {
            frame.push(0x80 | 126);
            frame.extend((payload.len() as u16).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// The headers of a handshake of Socket Burger, after which others can follow.
fn handshake(host: &Server) -> String {
    format!(
        "GET /api/ws HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        host.address
    )
}

/// Opens a WebSocket, and returns its connection and the head of the response.
async fn open(host: &Server, headers: &str) -> Result<(TcpStream, String)> {
    let mut stream = TcpStream::connect(host.address).await?;
    let request = format!("{}{headers}\r\n", handshake(host));
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head)?;
    ensure!(head.starts_with("HTTP/1.1 101"), "{head}");
    Ok((stream, head))
}

/// The head of a frame from the host, and its payload.
async fn read_frame(stream: &mut TcpStream) -> Result<(u8, Vec<u8>)> {
    let frame = async {
        let first = stream.read_u8().await?;
        let length = match stream.read_u8().await? {
            126 => stream.read_u16().await?.into(),
            length => length.into(),
        };
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await?;
        anyhow::Ok((first, payload))
    };
    tokio::time::timeout(TIMEOUT, frame)
        .await
        .context("no frame")?
}

/// Opens a WebSocket and sends `bytes`. Fails unless the host closes it with `code`.
async fn expect_close(host: &Server, headers: &str, bytes: &[u8], code: u16) -> Result<()> {
    let (mut stream, _) = open(host, headers).await?;
    stream.write_all(bytes).await?;
    let (first, payload) = read_frame(&mut stream).await?;
    ensure!(
        first == 0x88 && payload.starts_with(&code.to_be_bytes()),
        "{first:x} {payload:?}"
    );
    Ok(())
}

#[tokio::test]
async fn protocol_violations_are_closed_with_their_code() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &[])?;
    let too_long = {
        // The header alone, for 64 KiB and one byte, with a 64-bit length and a mask.
        let mut frame = vec![0x81, 0x80 | 127];
        frame.extend((64_u64 * 1024 + 1).to_be_bytes());
        frame.extend([0; 4]);
        frame
    };
    let fragments = {
        let mut all = frame(0x01, &[b'x'; 40_000]);
        all.extend(frame(0x80, &[b'x'; 40_000]));
        all
    };
    for (what, bytes, code) in [
        ("a message over the limit", too_long, 1009),
        ("fragments over the limit", fragments, 1009),
        ("invalid UTF-8", frame(0x81, &[0xff, 0xfe]), 1007),
        ("an unmasked frame", b"\x81\x02{}".to_vec(), 1002),
        ("reserved bits", frame(0xf1, b"{}"), 1002),
        ("compression without it", frame(0xc1, b"{}"), 1002),
        ("a reserved opcode", frame(0x83, b"{}"), 1002),
        ("a long ping", frame(0x89, &[0; 126]), 1002),
        ("a fragmented ping", frame(0x09, b""), 1002),
        ("a continuation of nothing", frame(0x80, b"x"), 1002),
    ] {
        expect_close(&host, "", &bytes, code).await.context(what)?;
    }
    eventually("the sessions to end", async || {
        (host.count("sessions").await.ok()? == 0).then_some(())
    })
    .await
}

/// Decompresses a message.
fn decompress(compressed: &[u8], length: usize) -> Result<Vec<u8>> {
    let mut message = Vec::with_capacity(length + 1);
    let compressed = [compressed, &TAIL].concat();
    flate2::Decompress::new(false).decompress_vec(
        &compressed,
        &mut message,
        flate2::FlushDecompress::Sync,
    )?;
    Ok(message)
}

const DEFLATE: &str = "Sec-WebSocket-Extensions: permessage-deflate\r\n";

#[tokio::test]
async fn violations_with_compression_are_closed_with_their_code() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &[])?;
    expect_close(&host, DEFLATE, &frame(0xc9, b"ping"), 1002)
        .await
        .context("a compressed ping")?;
    let before = host.resident_kib()?;
    // The limit is 64 KiB, and each of the bombs is 40 MiB of zeros in 40 KiB.
    let bomb = frame(0xc1, &compress(&vec![0; 40 << 20])?);
    ensure!(bomb.len() < 64 << 10, "{}", bomb.len());
    let mut fragments = frame(0x41, &bomb[8..1000]);
    fragments.extend(frame(0x80, &bomb[1000..]));
    for (what, bytes, code) in [
        (
            "a compressed fragment",
            {
                let mut all = frame(0x01, b"{");
                all.extend(frame(0xc0, b"}"));
                all
            },
            1002,
        ),
        ("another reserved bit", frame(0xe1, b"{}"), 1002),
        ("invalid data", frame(0xc1, &[0xff; 20]), 1007),
        (
            "compressed invalid UTF-8",
            frame(0xc1, &compress(&[0xff, 0xfe])?),
            1007,
        ),
        ("a bomb", bomb.clone(), 1009),
        ("a bomb in fragments", fragments, 1009),
    ] {
        for _ in 0..50 {
            expect_close(&host, DEFLATE, &bytes, code)
                .await
                .context(what)?;
        }
    }
    let growth = host.resident_kib()?.saturating_sub(before);
    ensure!(growth < 8 << 10, "{growth} KiB");
    eventually("the sessions to end", async || {
        (host.count("sessions").await.ok()? == 0).then_some(())
    })
    .await
}

#[tokio::test]
async fn each_socket_gets_publications_as_it_has_negotiated() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &[])?;
    let mut sockets = Vec::new();
    for (offer, answer, largest) in [
        ("", "", 0),
        (DEFLATE, "permessage-deflate; ", usize::MAX),
        (
            "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9\r\n",
            "; server_max_window_bits=9\r\n",
            512,
        ),
    ] {
        let (stream, head) = open(&host, offer).await?;
        let has_extension = head.contains("sec-websocket-extensions");
        ensure!(
            has_extension == (largest > 0) && head.contains(answer),
            "{head}"
        );
        sockets.push((stream, largest));
    }
    eventually("all to be subscribed", async || {
        (host.count("subscriptions").await.ok()? == 3).then_some(())
    })
    .await?;
    for length in [100, 400, 4000] {
        let content = "order ".repeat(length / 6 + 1)[..length].to_owned();
        let item = serde_json::json!({"channel": "orders", "formats": {"ws-message": {"content": content}}});
        let body = serde_json::json!({"items": [item]}).to_string();
        ensure!(host.publish("", &body).await?.status == 200);
        for (stream, largest) in &mut sockets {
            let (first, payload) = read_frame(stream).await?;
            let is_compressed = length >= 128 && length <= *largest;
            ensure!(
                first == if is_compressed { 0xc1 } else { 0x81 },
                "{first:x} for {length} bytes"
            );
            let message = if is_compressed {
                ensure!(payload.len() < length / 2, "{} of {length}", payload.len());
                decompress(&payload, length)?
            } else {
                payload
            };
            ensure!(message == content.as_bytes(), "{length} bytes");
        }
    }
    Ok(())
}

#[tokio::test]
async fn refused_upgrades_get_their_status_at_once() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &[])?;
    for (path, status) in [
        ("/", 426),
        ("/static/nothing.js", 426),
        ("/api/orders", 426),
        ("/nothing", 404),
        ("/internal/orders", 404),
    ] {
        let refused = Client::open(host.address, path, &[])
            .await
            .err()
            .with_context(|| format!("{path} accepts the upgrade"))?;
        ensure!(refused.status == Some(status), "{path}: {refused:?}");
    }
    let foreign = Client::open(
        host.address,
        "/api/ws",
        &[("origin", "http://evil.example")],
    )
    .await;
    ensure!(
        foreign.err().and_then(|refused| refused.status) == Some(403),
        "a foreign origin"
    );
    let same_origin = format!("http://{}", host.address);
    Client::open(host.address, "/api/ws", &[("origin", &same_origin)])
        .await
        .map_err(|failed| failed.error)?;
    let complete = handshake(&host) + "\r\n";
    let old_version = complete.replace("Version: 13", "Version: 8");
    let response = request(host.address, &old_version).await?;
    ensure!(
        response.status == 426 && response.head.contains("sec-websocket-version: 13"),
        "{response:?}"
    );
    let keyless = complete.replace("dGhlIHNhbXBsZSBub25jZQ==", "");
    ensure!(
        request(host.address, &keyless).await?.status == 400,
        "no key"
    );
    Ok(())
}

#[tokio::test]
async fn closed_sockets_leave_nothing_behind() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &[])?;
    let round = async || -> Result<u64> {
        let mut sockets = Vec::new();
        for _ in 0..1000 {
            sockets.push(host.socket("/api/ws").await?);
        }
        ensure!(
            host.count("sessions").await? == 1000 && host.count("subscriptions").await? == 1000
        );
        // Half of them close, half disconnect.
        for socket in sockets.iter_mut().step_by(2) {
            socket.0.close(None).await?;
        }
        drop(sockets);
        eventually("no session and no subscription", async || {
            let remaining =
                host.count("sessions").await.ok()? + host.count("subscriptions").await.ok()?;
            (remaining + host.count("channels").await.ok()? == 0).then_some(())
        })
        .await?;
        host.resident_kib()
    };
    // The first rounds fill caches: instances, allocator, tables. A thousand leaked sockets would be
    // 4 MiB or more in each round.
    let mut before = round().await?;
    let mut growth = Vec::new();
    for _ in 0..10 {
        let after = round().await?;
        growth.push(after.saturating_sub(before));
        if growth.last() < Some(&1024) {
            return Ok(());
        }
        before = after;
    }
    anyhow::bail!("memory grows in each round, in KiB: {growth:?}")
}

#[tokio::test]
async fn a_client_that_stops_reading_is_closed_without_delaying_others() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &[])?;
    let (stuck, _) = open(&host, "").await?;
    eventually("the session", async || {
        (host.count("subscriptions").await.ok()? == 1).then_some(())
    })
    .await?;
    let mut reader = host.socket("/api/ws").await?;
    // Well above the size of the kernel's buffers and the outbox.
    let content = "x".repeat(100_000);
    let body = serde_json::json!({"items": [{"channel": "orders", "formats": {"ws-message": {"content": content}}}]}).to_string();
    for _ in 0..200 {
        ensure!(host.publish("", &body).await?.status == 200);
        match reader.next().await?.context("a message")? {
            Message::Text(text) => ensure!(text.len() == content.len()),
            other => anyhow::bail!("{other:?}"),
        }
    }
    host.wait_for_log(&["does not keep up"]).await?;
    eventually("the stuck session to end", async || {
        (host.count("sessions").await.ok()? == 1).then_some(())
    })
    .await?;
    // The reader is still served.
    reader.send(COMPONENT_PING).await?;
    ensure!(reader.event().await?["event"] == "pong");
    drop(stuck);
    Ok(())
}
