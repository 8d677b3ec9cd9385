//! Channels with history: WebSockets that join, come back, or read slowly.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use anyhow::{Context, Result, ensure};
use grip::{ControlMessage, Event, Limits, event::decode_all, header, hold::Channel};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;
use spin_runtime::backend::{Body, empty};
use tempfile::TempDir;
use tests::{Client, Server, app_with_manifest, eventually};
use tokio_tungstenite::tungstenite::Message;

use super::{
    backend::Backend,
    sockets::{events_response, text},
};

/// A server whose clients subscribe to the channel `room`, from where their query says: `after=ID` or
/// `newest=N`. Its response to `Grip-Last` is the message `reload since ID`.
async fn room(request: Request<Incoming>, opened: Arc<AtomicUsize>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        return Response::new(empty());
    };
    let events = decode_all(body.to_bytes(), Limits::default()).unwrap_or_default();
    let mut replies = Vec::new();
    if events.first() == Some(&Event::Open) {
        let features = parts.headers.get(header::GRIP_FEATURE);
        let features = features.and_then(|features| features.to_str().ok());
        assert!(features.is_some_and(|it| header::has_feature(it, header::FEATURE_RECOVER)));
        replies.push(Event::Open);
        let query = parts.uri.query().unwrap_or_default();
        let start = query.split('&').next().unwrap_or_default();
        let subscribe = match start.split_once('=') {
            Some(("after", id)) => ControlMessage::subscribe_after("room", id),
            Some(("newest", count)) => {
                ControlMessage::subscribe_recent("room", count.parse().unwrap_or(0))
            }
            _ => ControlMessage::subscribe("room"),
        };
        replies.push(subscribe.into_event());
        opened.fetch_add(1, SeqCst);
        if query.ends_with("&slow") {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
    let last = parts.headers.get_all(header::GRIP_LAST).iter();
    let last = Channel::from_grip_last(last.map(|value| value.as_bytes())).unwrap_or_default();
    for channel in last {
        assert!(events.is_empty() && channel.name == "room");
        let id = channel.prev_id.unwrap_or("unknown".into());
        replies.push(grip::control::content(format!("reload since {id}")));
    }
    events_response(&replies)
}

/// Starts the host in front of [`room`], with these settings of the channel.
async fn start(history: &str) -> Result<(Server, Backend, TempDir, Arc<AtomicUsize>)> {
    let opened = Arc::new(AtomicUsize::new(0));
    let count = opened.clone();
    let backend = Backend::serve(move |request| room(request, count.clone())).await?;
    let folder = app_with_manifest(&format!(
        "spin_manifest_version = 2\napplication.name = \"room\"\n\
         [application.tool.socket-host.channels.room]\n{history}\n"
    ));
    let manifest = folder.path().to_str().context("a path")?;
    let host = Server::in_front_of(&backend.url("http"), &["--from", manifest])?;
    Ok((host, backend, folder, opened))
}

async fn publish(host: &Server, number: usize, content: &str) -> Result<()> {
    let item =
        json!({"channel": "room", "id": number.to_string(), "ws-message": {"content": content}});
    let response = host
        .publish("", &json!({"items": [item]}).to_string())
        .await?;
    ensure!(response.status == 200, "{response:?}");
    Ok(())
}

/// Publishes numbers.
async fn publish_all(host: &Server, numbers: std::ops::Range<usize>) -> Result<()> {
    for number in numbers {
        publish(host, number, &number.to_string()).await?;
    }
    Ok(())
}

/// Checks that exactly these numbers are received next.
async fn receives(client: &mut Client, numbers: std::ops::Range<usize>) -> Result<()> {
    for number in numbers {
        let text = text(client).await?;
        ensure!(text == number.to_string(), "{text}, expected {number}");
    }
    Ok(())
}

#[tokio::test]
async fn joiners_receive_everything_while_items_are_published() -> Result<()> {
    const CLIENTS: usize = 60;
    let (host, _backend, _folder, opened) =
        start("history-items = 100000\nhistory-size = \"256MiB\"").await?;
    let host = Arc::new(host);
    let publisher = {
        let (host, opened) = (host.clone(), opened.clone());
        tokio::spawn(async move {
            let mut number = 0;
            while opened.load(SeqCst) < CLIENTS {
                publish_all(&host, number..number + 1).await?;
                number += 1;
            }
            // Some more, once all have opened.
            publish_all(&host, number..number + 100).await?;
            anyhow::Ok(number + 100)
        })
    };
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let address = host.address;
        let open = async move { Client::open(address, "/ws?newest=100000&slow", &[]).await };
        clients.push(tokio::spawn(open));
    }
    let published = publisher.await??;
    for client in clients {
        let mut client = client.await?.map_err(|failed| failed.error)?;
        receives(&mut client, 0..published).await?;
    }
    Ok(())
}

#[tokio::test]
async fn clients_that_were_away_receive_what_they_have_missed() -> Result<()> {
    let (host, _backend, _folder, _) = start("history-items = 10").await?;
    let mut client = host.socket("/ws").await?;
    publish_all(&host, 0..5).await?;
    receives(&mut client, 0..5).await?;
    drop(client);
    publish_all(&host, 5..10).await?;
    let mut client = host.socket("/ws?after=4").await?;
    publish_all(&host, 10..12).await?;
    receives(&mut client, 5..12).await?;
    let mut newest = host.socket("/ws?newest=2").await?;
    receives(&mut newest, 10..12).await?;
    host.wait_for_metric("socket_host_recoveries_total{result=\"complete\"} 2")
        .await
}

#[tokio::test]
async fn without_the_history_the_backend_decides() -> Result<()> {
    let (host, _backend, _folder, _) = start("history-items = 10").await?;
    let mut client = host.socket("/ws?after=1").await?;
    ensure!(text(&mut client).await? == "reload since unknown");
    publish_all(&host, 0..20).await?;
    receives(&mut client, 0..20).await?;
    // Nothing partial: 10 to 19 are known, but 9 is not.
    let mut client = host.socket("/ws?after=8").await?;
    ensure!(text(&mut client).await? == "reload since 19");
    publish_all(&host, 20..21).await?;
    receives(&mut client, 20..21).await?;
    host.wait_for_metric("socket_host_recoveries_total{result=\"unknown\"} 2")
        .await
}

#[tokio::test]
async fn a_slow_reader_is_filled_from_the_history() -> Result<()> {
    /// More than all buffers hold.
    const MESSAGES: usize = 2000;
    let content = |number: usize| format!("{number} {}", "x".repeat(16 << 10));
    let history = "history-items = 100000\nhistory-size = \"256MiB\"";
    let (host, _backend, _folder, _) = start(history).await?;
    let mut slow = host.socket("/ws").await?;
    let mut reader = host.socket("/ws").await?;
    let before = host.resident_kib()?;
    for number in 0..MESSAGES {
        publish(&host, number, &content(number)).await?;
        ensure!(text(&mut reader).await? == content(number));
    }
    // The history has each message twice, for all clients together.
    let bound = 2 * 2 * MESSAGES as u64 * 17 + (16 << 10);
    let growth = host.resident_kib()?.saturating_sub(before);
    ensure!(growth < bound, "{growth} KiB");
    for number in 0..MESSAGES {
        match slow.next().await?.context("the socket was closed")? {
            Message::Text(text) => ensure!(text == content(number), "not {number}"),
            Message::Ping(_) => {}
            other => anyhow::bail!("{other:?} instead of {number}"),
        }
    }
    publish_all(&host, MESSAGES..MESSAGES + 3).await?;
    receives(&mut slow, MESSAGES..MESSAGES + 3).await
}

#[tokio::test]
async fn a_reader_that_the_history_has_overtaken_is_closed() -> Result<()> {
    let (host, _backend, _folder, _) = start("history-items = 3").await?;
    let mut slow = host.socket("/ws").await?;
    let content = "x".repeat(16 << 10);
    for number in 0..2000 {
        publish(&host, number, &format!("{number} {content}")).await?;
    }
    let mut next = 0;
    let code = loop {
        match slow.next().await?.context("a close")? {
            Message::Text(text) => {
                ensure!(text.starts_with(&format!("{next} ")), "not {next}");
                next += 1;
            }
            Message::Close(close) => break close.context("a code")?.code,
            _ => {}
        }
    };
    ensure!(
        u16::from(code) == 1013 && next < 2000,
        "{code} after {next}"
    );
    eventually("the end of the session", async || {
        (host.count("sessions").await.ok()? == 0).then_some(())
    })
    .await
}
