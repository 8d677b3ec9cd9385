//! Calls of a component: their order, their instances, and their failures.

use anyhow::{Context as _, Result, ensure};
use futures_util::SinkExt as _;
use tests::{Client, Server, eventually, typed};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use crate::{ask, text};

/// Waits until the component has recorded these last frames.
async fn closes(host: &Server, expected: &[&str]) -> Result<()> {
    let expected: Vec<_> = expected.iter().map(|it| format!("close {it}")).collect();
    eventually(&format!("the closes {expected:?}"), async || {
        let (_, list) = host.get("/closes").await.ok()?;
        let mut closes: Vec<_> = list.split(',').filter(|it| !it.is_empty()).collect();
        closes.sort_unstable();
        (closes == expected).then_some(())
    })
    .await
}

#[tokio::test]
async fn each_call_has_an_instance_of_its_own() -> Result<()> {
    let folder = typed("");
    let host = Server::start(folder.path(), &[])?;
    let mut client = host.socket("/").await?;
    for number in 0..5 {
        let calls = ask(&mut client, "calls").await?;
        ensure!(calls == format!("1 {number}"), "{calls}");
    }
    Ok(())
}

#[tokio::test]
async fn instances_are_reused_if_the_manifest_says_so() -> Result<()> {
    let folder = typed("[application.tool.socket-host.websocket]\ninstance-reuse = [\"typed\"]\n");
    let host = Server::start(folder.path(), &["--max-instance-reuse-count", "5"])?;
    let mut client = host.socket("/").await?;
    // The first call is that of the handshake.
    for (calls, number) in (2..=5).chain(1..=5).zip(0..) {
        let answer = ask(&mut client, "calls").await?;
        ensure!(answer == format!("{calls} {number}"), "{answer}");
    }
    // Idle instances end, and the next one begins anew.
    eventually("no instances", async || {
        let metrics = host.metrics().await.ok()?;
        let line = "socket_host_instances{component=\"typed\"} 0";
        metrics.lines().any(|it| it == line).then_some(())
    })
    .await?;
    ensure!(ask(&mut client, "calls").await? == "1 9");
    Ok(())
}

#[tokio::test]
async fn an_instance_that_has_trapped_is_not_reused() -> Result<()> {
    let folder = typed("[application.tool.socket-host.websocket]\ninstance-reuse = [\"typed\"]\n");
    let host = Server::start(folder.path(), &[])?;
    let mut client = host.socket("/").await?;
    ensure!(ask(&mut client, "calls").await? == "2 0");
    client.send("trap").await?;
    ensure!(client.closed().await? == Some(1011));
    let mut other = host.socket("/").await?;
    ensure!(ask(&mut other, "calls").await? == "2 0");
    Ok(())
}

#[tokio::test]
async fn frames_of_one_websocket_are_numbered_and_in_order() -> Result<()> {
    let folder = typed("");
    let host = Server::start(folder.path(), &[])?;
    let mut client = host.socket("/").await?;
    for _ in 0..500 {
        client.0.feed(Message::text("calls")).await?;
    }
    client.0.flush().await?;
    for number in 0..500 {
        let answer = text(&mut client).await?;
        ensure!(answer == format!("1 {number}"), "{answer}");
    }
    Ok(())
}

#[tokio::test]
async fn frames_are_sent_before_during_and_after_the_response() -> Result<()> {
    let folder = typed("");
    let host = Server::start(folder.path(), &[])?;
    let mut client = host.socket("/?early=one&welcome=two&channel=room").await?;
    ensure!(text(&mut client).await? == "one" && text(&mut client).await? == "two");
    let response = host
        .publish(
            "",
            r#"{"items":[{"channel":"room","formats":{"ws-message":{"content":"three"}}}]}"#,
        )
        .await?;
    ensure!(response.status == 200, "{response:?}");
    ensure!(text(&mut client).await? == "three");
    Ok(())
}

#[tokio::test]
async fn the_last_frame_tells_how_a_websocket_has_ended() -> Result<()> {
    let folder = typed("");
    let host = Server::start(folder.path(), &[])?;
    let close = |code: u16, reason: &'static str| {
        let code = CloseCode::from(code);
        let reason = reason.into();
        Message::Close(Some(CloseFrame { code, reason }))
    };
    for last in [
        close(1000, "done"),
        // The interface has neither of these codes.
        close(4000, "mine"),
        close(1001, "the page is gone"),
    ] {
        let mut client = host.socket("/").await?;
        client.0.send(last).await?;
        client.closed().await?;
    }
    // The connection is lost.
    let client = host.socket("/").await?;
    drop(client);
    // The component closes, and the client answers.
    let mut client = host.socket("/").await?;
    client.send("close 1008 enough").await?;
    client.closed().await?;
    // Sends the answer.
    ensure!(client.next().await?.is_none());
    closes(
        &host,
        &[
            "CloseCode::Abnormal",
            "CloseCode::Normal done",
            "CloseCode::Policy enough",
            "none",
        ],
    )
    .await
}

#[tokio::test]
async fn the_host_answers_pings() -> Result<()> {
    let folder = typed("");
    let host = Server::start(folder.path(), &[])?;
    let mut client = host.socket("/").await?;
    client.0.send(Message::Ping("hello?".into())).await?;
    let pong = client.next().await?.context("a pong")?;
    ensure!(pong == Message::Pong("hello?".into()), "{pong:?}");
    // The component has got the ping, too.
    ensure!(ask(&mut client, "calls").await? == "1 1");
    Ok(())
}

#[tokio::test]
async fn handshakes_and_ends_are_in_the_access_log() -> Result<()> {
    let folder = typed("");
    let host = Server::start(folder.path(), &["--access-log"])?;
    let refused = Client::open(host.address, "/?status=403", &[]).await;
    ensure!(refused.err().and_then(|error| error.status) == Some(403));
    host.wait_for_log(&["status=403"]).await?;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let opened = Client::open(host.address, "/", &[("traceparent", &parent)]).await;
    let mut client = opened.map_err(|failed| failed.error)?;
    client.0.close(None).await?;
    host.wait_for_log(&["WebSocket closed", "reason=\"client\"", trace])
        .await?;
    ensure!(host.log_text().matches("WebSocket closed").count() == 1);
    Ok(())
}

#[tokio::test]
async fn a_trap_closes_the_websocket() -> Result<()> {
    let folder = typed("");
    let host = Server::start(folder.path(), &[])?;
    let mut client = host.socket("/").await?;
    let mut other = host.socket("/").await?;
    client.send("trap").await?;
    ensure!(client.closed().await? == Some(1011));
    let mut late = host.socket("/?trap=after").await?;
    ensure!(late.closed().await? == Some(1011));
    for query in ["trap=before", "trap=none"] {
        let refused = Client::open(host.address, &format!("/?{query}"), &[]).await;
        let status = refused.err().and_then(|error| error.status);
        ensure!(status == Some(500), "{query}: {status:?}");
    }
    ensure!(ask(&mut other, "still").await? == "still");
    let failures = |reason: &str, count: u32| {
        format!(
            "socket_host_component_failures_total{{component=\"typed\",reason=\"{reason}\"}} {count}"
        )
    };
    host.wait_for_metric(&failures("trap", 3)).await?;
    host.wait_for_metric(&failures("no-response", 1)).await
}

#[tokio::test]
async fn a_call_that_takes_too_long_closes_the_websocket() -> Result<()> {
    let folder = typed("");
    let host = Server::start(folder.path(), &["--request-timeout", "1s"])?;
    let mut client = host.socket("/").await?;
    let mut other = host.socket("/").await?;
    client.send("spin").await?;
    ensure!(ask(&mut other, "still").await? == "still");
    ensure!(client.closed().await? == Some(1011));
    Ok(())
}

#[tokio::test]
async fn a_component_without_the_interface_gets_requests() -> Result<()> {
    let folder = tests::probe("");
    let host = Server::start(folder.path(), &[])?;
    let mut client = host.socket("/websocket-echo").await?;
    ensure!(ask(&mut client, "over HTTP").await? == "over HTTP");
    Ok(())
}

#[tokio::test]
async fn a_client_that_leaves_during_the_handshake_is_reported() -> Result<()> {
    let folder = typed("");
    let host = Server::start(folder.path(), &[])?;
    let mut stream = TcpStream::connect(host.address).await?;
    let upgrade = "GET /?delay=300 HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\n\
                   Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(upgrade.as_bytes()).await?;
    eventually("the handshake", async || {
        (host.count("sessions").await.ok()? == 1).then_some(())
    })
    .await?;
    drop(stream);
    closes(&host, &["CloseCode::Abnormal"]).await?;
    ensure!(host.count("sessions").await? == 0);
    Ok(())
}

#[tokio::test]
async fn frames_for_a_component_that_was_removed_close_the_websocket() -> Result<()> {
    let folder = typed("");
    let host = Server::start(folder.path(), &["--watch"])?;
    let mut client = host.socket("/").await?;
    ensure!(ask(&mut client, "still").await? == "still");
    let manifest = "spin_manifest_version = 2\napplication.name = \"typed\"\n\
                    [[trigger.http]]\nroute = \"/...\"\nstatic_response = { body = \"gone\" }\n";
    std::fs::write(folder.path().join("spin.toml"), manifest)?;
    eventually("the new manifest", async || {
        let (_, body) = host.get("/").await.ok()?;
        body.contains("gone").then_some(())
    })
    .await?;
    client.send("gone?").await?;
    ensure!(client.closed().await? == Some(1011));
    Ok(())
}
