//! Components that answer the events of a WebSocket with rubbish.

use anyhow::{Context as _, Result, ensure};
use tests::{Client, Server, probe};

#[tokio::test]
async fn rubbish_closes_only_its_own_socket() -> Result<()> {
    let folder = probe("");
    let host = Server::start(folder.path(), &["--request-timeout", "2s"])?;
    let mut other = host.socket("/websocket-echo").await?;
    let mut failed = 0;
    for (kind, code, log) in [
        ("framing", 1011, "malformed events"),
        ("length", 1011, "malformed events"),
        ("truncated", 1011, "malformed events"),
        ("unknown", 1011, "malformed events"),
        ("no-newline", 1011, "malformed events"),
        ("content-type", 1011, "expected status 200"),
        ("endless", 1011, "response"),
        ("trap", 1011, "trap"),
        ("hang", 1011, "timed out"),
        // Nothing follows a close.
        ("order", 1000, ""),
    ] {
        let mut socket = host.socket(&format!("/rubbish?kind={kind}")).await?;
        socket.send("hello").await?;
        let closed = socket.closed().await.with_context(|| kind.to_owned())?;
        ensure!(closed == Some(code), "{kind}: {closed:?}");
        if code == 1011 {
            failed += 1;
            host.wait_for_log(&["backend failed", "/rubbish", log])
                .await
                .with_context(|| kind.to_owned())?;
        }
        host.wait_for_metric(&format!(
            "socket_host_sessions_ended_total{{reason=\"failed\"}} {failed}"
        ))
        .await?;
        other.send(kind).await?;
        let echo = other.next().await?.context("an echo")?;
        ensure!(echo.to_text()? == kind);
    }
    Ok(())
}

#[tokio::test]
async fn an_invalid_control_message_is_ignored_and_logged() -> Result<()> {
    let folder = probe("");
    let host = Server::start(folder.path(), &[])?;
    let mut socket = host.socket("/rubbish?kind=control").await?;
    for _ in 0..2 {
        socket.send("hello").await?;
        host.wait_for_log(&["WARN", "control message", "/rubbish"])
            .await?;
    }
    ensure!(host.count("sessions").await? == 1);
    Ok(())
}

#[tokio::test]
async fn rubbish_refuses_a_handshake() -> Result<()> {
    let folder = probe("");
    let host = Server::start(folder.path(), &[])?;
    for kind in ["framing-open", "length-open", "order-open", "unknown-open"] {
        let path = format!("/rubbish?kind={kind}");
        let Err(refused) = Client::open(host.address, &path, &[]).await else {
            anyhow::bail!("{kind} opens a WebSocket");
        };
        ensure!(refused.status == Some(502), "{kind}: {refused:?}");
    }
    host.wait_for_log(&["WebSocket handshake failed", "/rubbish"])
        .await?;
    ensure!(host.count("sessions").await? == 0);
    Ok(())
}
