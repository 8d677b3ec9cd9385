//! Limits on the messages of one WebSocket.

use anyhow::{Result, ensure};
use tests::{Server, probe};

#[tokio::test]
async fn a_client_sends_messages_at_a_rate() -> Result<()> {
    let folder = probe("[application.tool.socket-host.websocket]\nmax-messages-per-second = 1\n");
    let host = Server::start(folder.path(), &[])?;
    let mut client = host.socket("/websocket-echo").await?;
    // All of 10 seconds at once.
    for _ in 0..10 {
        client.send("a").await?;
    }
    for _ in 0..10 {
        ensure!(
            client
                .next()
                .await?
                .is_some_and(|message| message.is_text())
        );
    }
    for _ in 0..10 {
        // Fails when the host has closed the WebSocket.
        let _ = client.send("a").await;
    }
    let code = client.closed().await?;
    ensure!(code == Some(1008), "{code:?}");
    host.wait_for_metric("socket_host_sessions_ended_total{reason=\"too-many\"} 1")
        .await
}

#[tokio::test]
async fn a_message_has_a_size() -> Result<()> {
    let folder = probe("[application.tool.socket-host.websocket]\nmax-message-size = 10\n");
    let host = Server::start(folder.path(), &[])?;
    let mut client = host.socket("/websocket-echo").await?;
    client.send("0123456789").await?;
    ensure!(
        client
            .next()
            .await?
            .is_some_and(|message| message.is_text())
    );
    client.send("0123456789a").await?;
    let code = client.closed().await?;
    ensure!(code == Some(1009), "{code:?}");
    host.wait_for_metric("socket_host_sessions_ended_total{reason=\"too-large\"} 1")
        .await
}
