//! Opening a WebSocket: the request to the backend and the response to the client.

use anyhow::{Context, Result, ensure};
use grip::{Event, event::encode_all};
use serde_json::json;

use crate::{
    backend::Reply,
    case::{Case, cases, ensure_eq, subscribe, ws_text},
};

cases! {
    accepted
    refused
    request_to_the_backend
    later_requests
    connection_id
    subprotocol
    headers_of_the_101
    messages_with_the_open
    close_at_once
    server_error_is_forwarded
    no_event
    client_gone
    ;
    differs:
    headers_of_the_handshake
    empty_with_keep_alive
    grip_headers_of_the_101
    subscribed_with_the_101
    wrong_type
    plain_ok
    malformed
}

async fn accepted(case: &Case) -> Result<()> {
    let pending = case.connect(&[]).await?;
    let request = case.script.next().await?;
    ensure_eq("method", request.head.method.as_str(), "POST")?;
    ensure_eq("body", &*request.body, b"OPEN\r\n")?;
    request.reply(Reply::open())?;
    let mut socket = pending.await??.accepted()?;
    socket.send("hello").await?;
    let reply = Reply::events(&[Event::text("hello yourself")]);
    case.round_trip(&[Event::text("hello")], reply).await?;
    socket.expect("hello yourself").await
}

async fn refused(case: &Case) -> Result<()> {
    let pending = case.connect(&[]).await?;
    let reply = Reply::new(403)
        .header("content-type", "text/x-reason")
        .header("x-why", "no ticket")
        .body("tickets are at the door");
    case.script.next().await?.reply(reply)?;
    let response = pending.await??.refused()?;
    ensure_eq("status", response.status, 403)?;
    ensure_eq(
        "content-type",
        response.header("content-type"),
        Some("text/x-reason"),
    )?;
    ensure_eq("x-why", response.header("x-why"), Some("no ticket"))?;
    ensure_eq("body", response.text().as_str(), "tickets are at the door")
}

async fn server_error_is_forwarded(case: &Case) -> Result<()> {
    let pending = case.connect(&[]).await?;
    let reply = Reply::new(503).header("retry-after", "7").body("later");
    case.script.next().await?.reply(reply)?;
    let response = pending.await??.refused()?;
    ensure_eq("status", response.status, 503)?;
    ensure_eq("retry-after", response.header("retry-after"), Some("7"))?;
    ensure_eq("body", response.text().as_str(), "later")
}

/// A backend that accepts a client which has disconnected meanwhile receives a `DISCONNECT`.
async fn client_gone(case: &Case) -> Result<()> {
    let pending = case.connect(&[]).await?;
    let request = case.script.next().await?;
    let id = request.header("connection-id").map(str::to_owned);
    pending.abort();
    ensure!(pending.await.is_err(), "the client received a response");
    case.settle().await;
    request.reply(Reply::open())?;
    let request = case.script.next().await?;
    request.expect(&[Event::Disconnect])?;
    ensure_eq("id", request.header("connection-id"), id.as_deref())?;
    request.reply(Reply::nothing())
}

async fn request_to_the_backend(case: &Case) -> Result<()> {
    let origin = format!("http://{}", case.proxy().await?.public);
    let pending = case
        .connect(&[
            ("x-mine", "my header"),
            ("cookie", "a=b"),
            ("origin", &origin),
            ("sec-websocket-protocol", "x, y"),
        ])
        .await?;
    let request = case.script.next().await?;
    ensure_eq("path", request.head.uri.path(), &*case.path())?;
    for (name, value) in [
        ("x-mine", "my header"),
        ("cookie", "a=b"),
        ("origin", &*origin),
        ("host", &*case.proxy().await?.public.to_string()),
        ("content-type", "application/websocket-events"),
        ("accept", "application/websocket-events"),
        ("content-length", "6"),
        ("sec-websocket-extensions", "grip"),
        ("sec-websocket-protocol", "x, y"),
    ] {
        ensure_eq(name, request.header(name), Some(value))?;
    }
    ensure!(
        request
            .header("connection-id")
            .is_some_and(|id| !id.is_empty())
    );
    let features = request.header("grip-feature").context("grip-feature")?;
    ensure!(
        features
            .split(',')
            .any(|feature| feature.trim() == "filter:skip-self"),
        "Grip-Feature: {features}"
    );
    for name in ["upgrade", "content-bytes-replayed"] {
        ensure_eq(name, request.header(name), None)?;
    }
    request.reply(Reply::open().header("sec-websocket-protocol", "x"))?;
    pending.await??.accepted()?;
    Ok(())
}

async fn headers_of_the_handshake(case: &Case) -> Result<()> {
    let pending = case.connect(&[]).await?;
    let request = case.script.next().await?;
    for name in ["sec-websocket-key", "sec-websocket-version"] {
        ensure_eq(
            name,
            request.header(name).is_some(),
            case.differ(true, false),
        )?;
    }
    request.reply(Reply::open())?;
    pending.await??.accepted()?;
    Ok(())
}

async fn later_requests(case: &Case) -> Result<()> {
    let pending = case.connect(&[("x-mine", "my header")]).await?;
    let request = case.script.next().await?;
    let features = request.header("grip-feature").map(str::to_owned);
    ensure!(features.is_some(), "no Grip-Feature");
    request.reply(Reply::open_grip(&[]))?;
    let mut socket = pending.await??.accepted()?;
    socket.send("x").await?;
    let request = case.script.next().await?;
    for (name, value) in [
        ("x-mine", Some("my header")),
        ("content-type", Some("application/websocket-events")),
        ("accept", Some("application/websocket-events")),
        ("sec-websocket-extensions", Some("grip")),
        ("grip-feature", features.as_deref()),
        ("content-bytes-replayed", None),
    ] {
        ensure_eq(name, request.header(name), value)?;
    }
    request.reply(Reply::nothing())
}

async fn connection_id(case: &Case) -> Result<()> {
    let mut ids = Vec::new();
    for _ in 0..2 {
        let pending = case.connect(&[("connection-id", "forged")]).await?;
        let request = case.script.next().await?;
        let id = request
            .header("connection-id")
            .context("one id")?
            .to_owned();
        request.reply(Reply::open())?;
        let mut socket = pending.await??.accepted()?;
        for text in ["1", "2"] {
            socket.send(text).await?;
            let headers = case
                .round_trip(&[Event::text(text)], Reply::nothing())
                .await?;
            ensure_eq(
                "connection-id",
                headers.get("connection-id").context("an id")?,
                &*id,
            )?;
        }
        socket.close(1000, "").await?;
        case.script
            .next()
            .await?
            .reply(Reply::events(&[Event::close(1000, "")]))?;
        ids.push(id);
    }
    ensure!(
        ids[0] != ids[1] && !ids.contains(&"forged".to_owned()),
        "{ids:?}"
    );
    Ok(())
}

async fn subprotocol(case: &Case) -> Result<()> {
    let pending = case
        .connect(&[("sec-websocket-protocol", "soup, bread")])
        .await?;
    let request = case.script.next().await?;
    ensure_eq(
        "offered",
        request.header("sec-websocket-protocol"),
        Some("soup, bread"),
    )?;
    request.reply(Reply::open().header("sec-websocket-protocol", "bread"))?;
    let (_, headers) = pending.await??.accepted_with_headers()?;
    ensure_eq(
        "chosen",
        headers.get("sec-websocket-protocol").context("one")?,
        "bread",
    )
}

async fn headers_of_the_101(case: &Case) -> Result<()> {
    let pending = case.connect(&[]).await?;
    let reply = Reply::open_grip(&[])
        .header("x-theirs", "their header")
        .header("set-cookie", "a=b")
        .header("set-cookie", "c=d")
        .header("keep-alive-interval", "120")
        .header("set-meta-user", "ada");
    case.script.next().await?.reply(reply)?;
    let (_, headers) = pending.await??.accepted_with_headers()?;
    ensure_eq(
        "x-theirs",
        headers.get("x-theirs").context("x-theirs")?,
        "their header",
    )?;
    ensure_eq("cookies", headers.get_all("set-cookie").iter().count(), 2)?;
    for name in [
        "content-type",
        "content-length",
        "keep-alive-interval",
        "set-meta-user",
        "sec-websocket-extensions",
    ] {
        ensure!(!headers.contains_key(name), "the client sees {name}");
    }
    Ok(())
}

async fn messages_with_the_open(case: &Case) -> Result<()> {
    let reply = Reply::events(&[Event::Open, Event::text("1"), Event::text("2")]);
    let mut socket = case.open(reply).await?;
    socket.expect("1").await?;
    socket.expect("2").await
}

async fn empty_with_keep_alive(case: &Case) -> Result<()> {
    let pending = case.connect(&[]).await?;
    let request = case.script.next().await?;
    request.reply(Reply::nothing().header("keep-alive-interval", "20"))?;
    if case.differ(true, false) {
        // It sends the request again while the client waits.
        case.round_trip(&[Event::Open], Reply::open()).await?;
    }
    let mut socket = pending.await??.accepted()?;
    socket.send("x").await?;
    case.round_trip(&[Event::text("x")], Reply::events(&[Event::text("y")]))
        .await?;
    socket.expect("y").await
}

async fn grip_headers_of_the_101(case: &Case) -> Result<()> {
    let pending = case.connect(&[]).await?;
    let reply = Reply::open_grip(&[]).header("grip-secret", "x");
    case.script.next().await?.reply(reply)?;
    let (_, headers) = pending.await??.accepted_with_headers()?;
    ensure_eq(
        "seen",
        headers.contains_key("grip-secret"),
        case.differ(true, false),
    )
}

/// Whether items published right after the 101 reach the client.
async fn subscribed_with_the_101(case: &Case) -> Result<()> {
    let subscribe = subscribe(case.channel());
    let mut socket = case.open(Reply::open_grip(&[&subscribe])).await?;
    if case.differ(true, false) {
        // Sometimes they do, so the first one is not checked.
        case.subscribed(&mut socket, case.channel()).await?;
    }
    case.publish(ws_text(case.channel(), "first")).await?;
    socket.expect("first").await
}

async fn close_at_once(case: &Case) -> Result<()> {
    let reply = Reply::events(&[Event::Open, Event::text("bye"), Event::close(4001, "full")]);
    let mut socket = case.open(reply).await?;
    socket.expect("bye").await?;
    ensure_eq("close", socket.closed().await?, Some((4001, "full".into())))
}

async fn no_event(case: &Case) -> Result<()> {
    let pending = case.connect(&[]).await?;
    case.script.next().await?.reply(Reply::nothing())?;
    ensure_eq("status", pending.await??.refused()?.status, 502)
}

async fn wrong_type(case: &Case) -> Result<()> {
    let pending = case.connect(&[]).await?;
    let reply = Reply::new(200)
        .header("content-type", "text/plain")
        .body(encode_all(&[Event::Open]));
    case.script.next().await?.reply(reply)?;
    ensure_eq(
        "status",
        pending.await??.refused()?.status,
        case.differ(200, 426),
    )
}

async fn plain_ok(case: &Case) -> Result<()> {
    let pending = case.connect(&[]).await?;
    let reply = Reply::new(200)
        .header("content-type", "application/json")
        .body(json!({"hello": "world"}).to_string());
    case.script.next().await?.reply(reply)?;
    ensure_eq(
        "status",
        pending.await??.refused()?.status,
        case.differ(200, 426),
    )
}

async fn malformed(case: &Case) -> Result<()> {
    let pending = case.connect(&[]).await?;
    // A length without content.
    let reply = Reply::nothing().body("OPEN 5\r\n");
    case.script.next().await?.reply(reply)?;
    let response = pending.await??;
    if case.differ(true, false) {
        response.accepted().map(drop)
    } else {
        ensure_eq("status", response.refused()?.status, 502)
    }
}
