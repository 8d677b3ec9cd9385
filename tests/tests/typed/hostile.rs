//! Clients that misbehave.

use std::net::Shutdown;

use anyhow::{Context as _, Result, ensure};
use futures_util::SinkExt as _;
use tests::{Server, eventually, typed};
use tokio::io::AsyncWriteExt as _;
use tokio_tungstenite::tungstenite::Message;

use crate::ask;

/// A masked text frame, with the mask 0.
fn frame(text: &[u8]) -> Vec<u8> {
    let length = u8::try_from(text.len()).expect("a short text");
    [&[0x81, 0x80 | length, 0, 0, 0, 0], text].concat()
}

/// A masked close frame with code 1000.
const CLOSE: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8];

#[tokio::test]
async fn frames_after_a_close_frame_are_ignored() -> Result<()> {
    let folder = typed("");
    let host = Server::start(folder.path(), &[])?;
    let mut client = host.socket("/").await?;
    let bytes = [
        frame(b"first"),
        CLOSE.to_vec(),
        frame(b"trap"),
        frame(b"late"),
    ]
    .concat();
    client.0.get_mut().write_all(&bytes).await?;
    ensure!(client.next().await? == Some(Message::text("first")));
    ensure!(client.closed().await? == Some(1000));
    let mut other = host.socket("/").await?;
    ensure!(ask(&mut other, "still").await? == "still");
    ensure!(!host.metrics().await?.contains("reason=\"trap\"} 1"));
    Ok(())
}

#[tokio::test]
async fn floods_are_slowed_down_and_lose_nothing() -> Result<()> {
    // The client may read more slowly than it sends.
    let folder = typed(
        "[application.tool.socket-host.websocket]\nmax-outgoing-buffer = \"64MiB\"\n\
         max-messages-per-second = \"off\"\n",
    );
    let host = Server::start(folder.path(), &[])?;
    let client = host.socket("/").await?;
    let (mut sink, mut stream) = futures_util::StreamExt::split(client.0);
    let flood = tokio::spawn(async move {
        for number in 0..20_000 {
            sink.feed(Message::text(format!("{number} {}", "x".repeat(500))))
                .await?;
        }
        sink.flush().await?;
        anyhow::Ok(sink)
    });
    for number in 0..20_000 {
        let message = futures_util::StreamExt::next(&mut stream)
            .await
            .context("a message")??;
        let text = message.into_text()?;
        ensure!(text.starts_with(&format!("{number} ")), "{number}: {text}");
    }
    drop(flood.await??);
    Ok(())
}

#[tokio::test]
async fn clients_that_vanish_leave_nothing_behind() -> Result<()> {
    let folder = typed("");
    let host = Server::start(folder.path(), &[])?;
    for number in 0..50 {
        let mut client = host.socket("/?channel=room&early=hello").await?;
        client
            .0
            .get_mut()
            .write_all(&frame(b"publish room x"))
            .await?;
        let stream = client.0.into_inner().into_std()?;
        if number % 2 == 0 {
            stream.shutdown(Shutdown::Write)?;
        }
        // Closes the connection with a reset, because of what was not read.
        drop(stream);
    }
    eventually("the end of all sessions", async || {
        let health = host.health().await.ok()?;
        let is_empty = ["sessions", "subscriptions"].map(|name| health[name] == 0);
        (is_empty == [true, true]).then_some(())
    })
    .await?;
    let (_, closes) = host.get("/closes").await?;
    ensure!(closes == "close CloseCode::Abnormal", "{closes}");
    Ok(())
}

#[tokio::test]
async fn violations_are_closed_with_their_code() -> Result<()> {
    let folder = typed(
        "[application.tool.socket-host.websocket]\nmax-message-size = \"1KiB\"\n\
         max-messages-per-second = 20\n",
    );
    let host = Server::start(folder.path(), &[])?;
    for (bytes, code) in [
        // Not masked, not UTF-8, a reserved bit, and an unknown opcode.
        (b"\x81\x01a".to_vec(), 1002),
        (frame(b"\xff\xfe"), 1007),
        (b"\xf1\x80\0\0\0\0".to_vec(), 1002),
        (b"\x83\x80\0\0\0\0".to_vec(), 1002),
        (
            [&[0x81, 0xfe, 0x10, 0x00, 0, 0, 0, 0][..], &[b'x'; 4096]].concat(),
            1009,
        ),
    ] {
        let mut client = host.socket("/").await?;
        client.0.get_mut().write_all(&bytes).await?;
        let closed = client.closed().await?;
        ensure!(closed == Some(code), "{code}: {closed:?}");
    }
    let mut client = host.socket("/").await?;
    for _ in 0..1000 {
        client.0.feed(Message::text("more")).await?;
    }
    client.0.flush().await?;
    ensure!(client.closed().await? == Some(1008));
    Ok(())
}
