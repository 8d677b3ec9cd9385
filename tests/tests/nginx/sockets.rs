//! WebSockets through nginx.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::SinkExt as _;
use rustix::process::Signal;
use serde_json::json;
use socket_host::Limits;
use tests::{Client, Server, app_with_manifest, burger_without_timer, probe, wasm};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use crate::site::{CLIENT, Connection, Site, directive};

const SETTINGS: &str = "[application.tool.socket-host.websocket]";

async fn open(site: &Site, path: &str) -> Result<Client<Connection>> {
    site.socket(path, &[]).await.map_err(|failed| failed.error)
}

#[tokio::test]
async fn messages_pass_in_both_directions() -> Result<()> {
    let folder = probe(&format!("{SETTINGS}\nmax-message-size = \"8MiB\"\n"));
    let host = Server::start(folder.path(), &[])?;
    let site = Site::start(host.address)?;
    let mut socket = open(&site, "/websocket-echo").await?;
    let bytes: Vec<u8> = (0..4 << 20).map(|_| rand::random()).collect();
    for message in [
        Message::text("hello"),
        Message::text(""),
        Message::text("long ".repeat(200_000)),
        Message::binary(bytes),
    ] {
        socket.0.send(message.clone()).await?;
        let echo = socket.next().await?.context("an echo")?;
        ensure!(echo == message, "{} bytes of {}", echo.len(), message.len());
    }
    socket.0.send(Message::Ping("now".into())).await?;
    ensure!(socket.next().await? == Some(Message::Pong("now".into())));
    let close = CloseFrame {
        code: CloseCode::from(4001),
        reason: "enough".into(),
    };
    socket.0.close(Some(close)).await?;
    ensure!(socket.closed().await? == Some(4001));
    host.wait_for_metric("socket_host_sessions_ended_total{reason=\"client\"} 1")
        .await
}

#[tokio::test]
async fn closes_of_the_host_reach_the_client() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &[])?;
    let site = Site::start(host.address)?;

    let mut large = open(&site, "/api/ws").await?;
    large.send(&"x".repeat(65 << 10)).await?;
    ensure!(large.closed().await? == Some(1009));

    let mut published = open(&site, "/api/ws").await?;
    let close = json!({"action": "close", "code": 4000});
    let items = json!({"items": [{"channel": "orders", "formats": {"ws-message": close}}]});
    let response = host.publish("", &items.to_string()).await?;
    ensure!(response.status == 200, "{response:?}");
    ensure!(published.closed().await? == Some(4000));

    let mut last = open(&site, "/api/ws").await?;
    host.signal(Signal::TERM)?;
    ensure!(last.closed().await? == Some(1001));
    Ok(())
}

#[tokio::test]
async fn clients_that_vanish_are_noticed() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &[])?;
    let site = Site::start(host.address)?;
    drop(open(&site, "/api/ws").await?);
    host.wait_for_metric("socket_host_sessions_ended_total{reason=\"vanished\"} 1")
        .await
}

#[tokio::test]
async fn refused_upgrades_have_the_status_of_the_host() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &[])?;
    let site = Site::start(host.address)?;
    for (path, expected) in [
        ("/", 426),
        ("/api/none", 404),
        ("/internal/orders", 404),
        ("/none", 404),
    ] {
        let refused = site.socket(path, &[]).await.err();
        let status = refused.and_then(|refused| refused.status);
        ensure!(status == Some(expected), "{path}: {status:?}");
    }
    let headers = [("origin", "https://other.example")];
    let refused = site.socket("/api/ws", &headers).await.err();
    ensure!(refused.and_then(|refused| refused.status) == Some(403));
    Ok(())
}

#[tokio::test]
async fn an_address_has_a_number_of_websockets() -> Result<()> {
    let folder = app_with_manifest(&format!(
        "spin_manifest_version = 2\napplication.name = \"probe\"\n\
         {SETTINGS}\nmax-connections-per-address = 2\n\
         [[trigger.http]]\nroute = \"/...\"\ncomponent = \"probe\"\n\
         [component.probe]\nsource = {:?}\n",
        wasm("probe")
    ));
    let host = Server::start(folder.path(), &[])?;
    let site = Site::start(host.address)?;
    // The client cannot choose its address.
    let open = async |client, forged| {
        let headers = [(CLIENT, client), ("x-forwarded-for", forged)];
        site.socket("/websocket-echo", &headers).await
    };
    let mut sockets = Vec::new();
    for forged in ["192.0.2.1", "192.0.2.2"] {
        let socket = open("192.0.2.7", forged).await;
        sockets.push(socket.map_err(|failed| failed.error)?);
    }
    let refused = open("192.0.2.7", "192.0.2.3").await.err();
    ensure!(refused.and_then(|refused| refused.status) == Some(429));
    let other = open("192.0.2.8", "192.0.2.7").await;
    other.map_err(|failed| failed.error)?;
    Ok(())
}

#[tokio::test]
async fn the_host_detects_clients_that_are_gone_before_nginx() -> Result<()> {
    let timeout: u64 = directive("proxy_read_timeout")?
        .trim_end_matches('s')
        .parse()?;
    let interval = Limits::DEFAULT.ping_interval.context("ping-interval")?;
    ensure!(Duration::from_secs(timeout) > 2 * interval);

    // The same with shorter times.
    let folder = probe(&format!("{SETTINGS}\nping-interval = \"1s\"\n"));
    let host = Server::start(folder.path(), &[])?;
    let edits = [("proxy_read_timeout 120s", "proxy_read_timeout 5s")];
    let site = Site::start_with(host.address, &edits)?;
    let (_silent, mut idle) = (
        open(&site, "/websocket-echo").await?,
        open(&site, "/websocket-echo").await?,
    );
    let mut pings = 0;
    while pings < 6 {
        let message = idle.next().await?.context("the WebSocket was closed")?;
        ensure!(matches!(message, Message::Ping(_)), "{message:?}");
        pings += 1;
    }
    host.wait_for_metric("socket_host_sessions_ended_total{reason=\"silent\"} 1")
        .await?;
    idle.send("still open").await?;
    ensure!(idle.next().await? == Some(Message::text("still open")));
    Ok(())
}
