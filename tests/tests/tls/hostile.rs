//! Hostile clients of HTTP/2: the memory and the time that they can take are bounded.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tests::{
    Server, TIMEOUT,
    http2_frame::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, GET, HEADERS, PING, PRIORITY, RST_STREAM,
        SETTINGS, WINDOW_UPDATE, frame, start,
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::client::TlsStream;

use crate::{
    authority::{Authority, serve},
    client::{connect, get},
    sockets::{open, request},
};

/// The memory that an attack of one connection may take.
const MAX_GROWTH_KIB: u64 = 64 * 1024;

/// Sends the preface and then frames until the host closes the connection, or `count` times.
/// Returns whether it was closed.
async fn flood(
    mut stream: TlsStream<TcpStream>,
    count: u32,
    mut frames: impl FnMut(u32) -> Vec<u8>,
) -> Result<bool> {
    start(&mut stream).await?;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let drained = tokio::spawn(async move {
        let mut buffer = vec![0; 64 * 1024];
        while reader.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
    });
    for index in 0..count {
        if writer.write_all(&frames(index)).await.is_err() {
            return Ok(true);
        }
    }
    let closed = timeout(Duration::from_secs(2), drained).await.is_ok();
    Ok(closed)
}

/// Runs an attack, and checks that the host serves on with little more memory.
async fn attack(
    name: &str,
    must_close: bool,
    count: u32,
    frames: impl FnMut(u32) -> Vec<u8>,
) -> Result<()> {
    let (host, authority, _folder) = serve(&[])?;
    serves(&host, &authority).await?;
    let before = host.resident_kib()?;
    let stream = connect(host.address, "localhost", &authority.root(), &["h2"]).await?;
    let closed = timeout(TIMEOUT, flood(stream, count, frames))
        .await
        .context("a stalled flood")??;
    ensure!(closed || !must_close, "{name}: the connection stays open");
    let growth = host.resident_kib()?.saturating_sub(before);
    ensure!(growth < MAX_GROWTH_KIB, "{name}: {growth} KiB");
    serves(&host, &authority).await
}

async fn serves(host: &Server, authority: &Authority) -> Result<()> {
    let mut stream = connect(host.address, "localhost", &authority.root(), &[]).await?;
    ensure!(get(&mut stream, "/").await?.status == 200);
    Ok(())
}

#[tokio::test]
async fn rapid_resets_close_the_connection() -> Result<()> {
    attack("rapid reset", true, 100_000, |index| {
        let stream = 2 * index + 1;
        let mut frames = frame(HEADERS, END_STREAM | END_HEADERS, stream, GET);
        frames.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
        frames
    })
    .await
}

#[tokio::test]
async fn errors_that_make_the_host_reset_streams_close_the_connection() -> Result<()> {
    attack("a window that overflows", true, 100_000, |index| {
        let stream = 2 * index + 1;
        let mut frames = frame(HEADERS, END_HEADERS, stream, GET);
        frames.extend(frame(
            WINDOW_UPDATE,
            0,
            stream,
            &0x7fff_ffff_u32.to_be_bytes(),
        ));
        frames
    })
    .await
}

#[tokio::test]
async fn endless_headers_close_the_connection() -> Result<()> {
    attack("empty CONTINUATION", true, 100_000, |index| match index {
        0 => frame(HEADERS, END_STREAM, 1, GET),
        _ => frame(CONTINUATION, 0, 1, &[]),
    })
    .await?;
    // A large literal header field, which is sent again and again.
    let mut field = vec![0x00, 1, b'x', 0x7f, 0x81, 0x7e];
    field.extend([b'y'; 16_384 - 256]);
    attack("CONTINUATION", true, 10_000, |index| match index {
        0 => frame(HEADERS, END_STREAM, 1, GET),
        _ => frame(CONTINUATION, 0, 1, &field),
    })
    .await
}

#[tokio::test]
async fn floods_of_small_frames_are_bounded() -> Result<()> {
    attack("PRIORITY", false, 100_000, |index| {
        frame(PRIORITY, 0, 2 * index + 1, &[0, 0, 0, 0, 16])
    })
    .await?;
    attack("WINDOW_UPDATE", false, 100_000, |_| {
        frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes())
    })
    .await?;
    attack("empty DATA", false, 100_000, |index| match index {
        0 => frame(HEADERS, END_HEADERS, 1, GET),
        _ => frame(DATA, 0, 1, &[]),
    })
    .await?;
    attack("SETTINGS", false, 100_000, |_| {
        frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255])
    })
    .await?;
    attack("PING", false, 100_000, |_| frame(PING, 0, 0, &[7; 8])).await
}

#[tokio::test]
async fn streams_without_a_window_are_bounded() -> Result<()> {
    // INITIAL_WINDOW_SIZE of 0, and then requests whose responses cannot be sent.
    attack("window", false, 2000, |index| match index {
        0 => frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]),
        index => frame(HEADERS, END_STREAM | END_HEADERS, 2 * index + 1, GET),
    })
    .await
}

#[tokio::test]
async fn streams_of_a_connection_are_bounded() -> Result<()> {
    let (host, authority, _folder) = serve(&[])?;
    let sender = open(host.address, &authority.root()).await?;
    let start = Instant::now();
    let mut pending = Vec::new();
    for _ in 0..1000 {
        let mut sender = sender.clone();
        let request = request("/websocket-echo", &[])?;
        pending.push(tokio::spawn(
            async move { sender.send_request(request).await },
        ));
    }
    // The others wait for one of the first to end.
    let count = tests::eventually("sockets", async || {
        host.count("sessions")
            .await
            .ok()
            .filter(|count| *count >= 100)
    })
    .await?;
    ensure!(count <= 250, "{count} sockets on one connection");
    serves(&host, &authority).await?;
    ensure!(start.elapsed() < TIMEOUT);
    for task in pending {
        task.abort();
    }
    Ok(())
}
