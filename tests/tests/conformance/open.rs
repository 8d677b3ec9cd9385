//! Opening a WebSocket: what the backend is told, and what the client is answered.

use anyhow::{Context, Result, ensure};
use grip::{Event, event::encode_all};
use serde_json::json;

use crate::{
    backend::Reply,
    case::{Case, cases, same, subscribe, ws_text},
};

cases! {
    accepted
    refused
    told_to_the_backend
    told_later
    connection_id
    subprotocol
    headers_of_the_101
    messages_with_the_open
    close_at_once
    server_error_passes
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
    let asked = case.connect(&[]).await?;
    let request = case.script.next().await?;
    same("method", request.head.method.as_str(), "POST")?;
    same("body", &*request.body, b"OPEN\r\n")?;
    request.reply(Reply::open())?;
    let mut socket = asked.await??.accepted()?;
    socket.send("hello").await?;
    let reply = Reply::events(&[Event::text("hello yourself")]);
    case.exchange(&[Event::text("hello")], reply).await?;
    socket.expect("hello yourself").await
}

async fn refused(case: &Case) -> Result<()> {
    let asked = case.connect(&[]).await?;
    let reply = Reply::new(403)
        .header("content-type", "text/x-reason")
        .header("x-why", "no ticket")
        .body("tickets are at the door");
    case.script.next().await?.reply(reply)?;
    let answer = asked.await??.refused()?;
    same("status", answer.status, 403)?;
    same(
        "content-type",
        answer.header("content-type"),
        Some("text/x-reason"),
    )?;
    same("x-why", answer.header("x-why"), Some("no ticket"))?;
    same("body", answer.text().as_str(), "tickets are at the door")
}

async fn server_error_passes(case: &Case) -> Result<()> {
    let asked = case.connect(&[]).await?;
    let reply = Reply::new(503).header("retry-after", "7").body("later");
    case.script.next().await?.reply(reply)?;
    let answer = asked.await??.refused()?;
    same("status", answer.status, 503)?;
    same("retry-after", answer.header("retry-after"), Some("7"))?;
    same("body", answer.text().as_str(), "later")
}

/// A backend that accepts a client that has gone meanwhile hears of that.
async fn client_gone(case: &Case) -> Result<()> {
    let asked = case.connect(&[]).await?;
    let request = case.script.next().await?;
    let id = request.header("connection-id").map(str::to_owned);
    asked.abort();
    ensure!(asked.await.is_err(), "the client has an answer");
    case.settle().await;
    request.reply(Reply::open())?;
    let request = case.script.next().await?;
    request.expect(&[Event::Disconnect])?;
    same("id", request.header("connection-id"), id.as_deref())?;
    request.reply(Reply::nothing())
}

async fn told_to_the_backend(case: &Case) -> Result<()> {
    let origin = format!("http://{}", case.proxy().await?.public);
    let asked = case
        .connect(&[
            ("x-mine", "my header"),
            ("cookie", "a=b"),
            ("origin", &origin),
            ("sec-websocket-protocol", "x, y"),
        ])
        .await?;
    let request = case.script.next().await?;
    same("path", request.head.uri.path(), &*case.path())?;
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
        same(name, request.header(name), Some(value))?;
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
        same(name, request.header(name), None)?;
    }
    request.reply(Reply::open().header("sec-websocket-protocol", "x"))?;
    asked.await??.accepted()?;
    Ok(())
}

async fn headers_of_the_handshake(case: &Case) -> Result<()> {
    let asked = case.connect(&[]).await?;
    let request = case.script.next().await?;
    for name in ["sec-websocket-key", "sec-websocket-version"] {
        same(
            name,
            request.header(name).is_some(),
            case.differ(true, false),
        )?;
    }
    request.reply(Reply::open())?;
    asked.await??.accepted()?;
    Ok(())
}

async fn told_later(case: &Case) -> Result<()> {
    let asked = case.connect(&[("x-mine", "my header")]).await?;
    let request = case.script.next().await?;
    let features = request.header("grip-feature").map(str::to_owned);
    ensure!(features.is_some(), "no Grip-Feature");
    request.reply(Reply::open_grip(&[]))?;
    let mut socket = asked.await??.accepted()?;
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
        same(name, request.header(name), value)?;
    }
    request.reply(Reply::nothing())
}

async fn connection_id(case: &Case) -> Result<()> {
    let mut ids = Vec::new();
    for _ in 0..2 {
        let asked = case.connect(&[("connection-id", "forged")]).await?;
        let request = case.script.next().await?;
        let id = request
            .header("connection-id")
            .context("one id")?
            .to_owned();
        request.reply(Reply::open())?;
        let mut socket = asked.await??.accepted()?;
        for text in ["1", "2"] {
            socket.send(text).await?;
            let headers = case
                .exchange(&[Event::text(text)], Reply::nothing())
                .await?;
            same(
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
    let asked = case
        .connect(&[("sec-websocket-protocol", "soup, bread")])
        .await?;
    let request = case.script.next().await?;
    same(
        "offered",
        request.header("sec-websocket-protocol"),
        Some("soup, bread"),
    )?;
    request.reply(Reply::open().header("sec-websocket-protocol", "bread"))?;
    let (_, headers) = asked.await??.accepted_with_headers()?;
    same(
        "chosen",
        headers.get("sec-websocket-protocol").context("one")?,
        "bread",
    )
}

async fn headers_of_the_101(case: &Case) -> Result<()> {
    let asked = case.connect(&[]).await?;
    let reply = Reply::open_grip(&[])
        .header("x-theirs", "their header")
        .header("set-cookie", "a=b")
        .header("set-cookie", "c=d")
        .header("keep-alive-interval", "120")
        .header("set-meta-user", "ada");
    case.script.next().await?.reply(reply)?;
    let (_, headers) = asked.await??.accepted_with_headers()?;
    same(
        "x-theirs",
        headers.get("x-theirs").context("x-theirs")?,
        "their header",
    )?;
    same("cookies", headers.get_all("set-cookie").iter().count(), 2)?;
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
    let asked = case.connect(&[]).await?;
    let request = case.script.next().await?;
    request.reply(Reply::nothing().header("keep-alive-interval", "20"))?;
    if case.differ(true, false) {
        // It asks again, and lets the client wait.
        case.exchange(&[Event::Open], Reply::open()).await?;
    }
    let mut socket = asked.await??.accepted()?;
    socket.send("x").await?;
    case.exchange(&[Event::text("x")], Reply::events(&[Event::text("y")]))
        .await?;
    socket.expect("y").await
}

async fn grip_headers_of_the_101(case: &Case) -> Result<()> {
    let asked = case.connect(&[]).await?;
    let reply = Reply::open_grip(&[]).header("grip-secret", "x");
    case.script.next().await?.reply(reply)?;
    let (_, headers) = asked.await??.accepted_with_headers()?;
    same(
        "seen",
        headers.contains_key("grip-secret"),
        case.differ(true, false),
    )
}

/// Whether what is published right after the 101 reaches the client.
async fn subscribed_with_the_101(case: &Case) -> Result<()> {
    let subscribe = subscribe(case.channel());
    let mut socket = case.open(Reply::open_grip(&[&subscribe])).await?;
    if case.differ(true, false) {
        // Now and then it does, so nothing is said of the first.
        case.subscribed(&mut socket, case.channel()).await?;
    }
    case.publish(ws_text(case.channel(), "first")).await?;
    socket.expect("first").await
}

async fn close_at_once(case: &Case) -> Result<()> {
    let reply = Reply::events(&[Event::Open, Event::text("bye"), Event::close(4001, "full")]);
    let mut socket = case.open(reply).await?;
    socket.expect("bye").await?;
    same("close", socket.closed().await?, Some((4001, "full".into())))
}

async fn no_event(case: &Case) -> Result<()> {
    let asked = case.connect(&[]).await?;
    case.script.next().await?.reply(Reply::nothing())?;
    same("status", asked.await??.refused()?.status, 502)
}

async fn wrong_type(case: &Case) -> Result<()> {
    let asked = case.connect(&[]).await?;
    let reply = Reply::new(200)
        .header("content-type", "text/plain")
        .body(encode_all(&[Event::Open]));
    case.script.next().await?.reply(reply)?;
    same(
        "status",
        asked.await??.refused()?.status,
        case.differ(200, 426),
    )
}

async fn plain_ok(case: &Case) -> Result<()> {
    let asked = case.connect(&[]).await?;
    let reply = Reply::new(200)
        .header("content-type", "application/json")
        .body(json!({"hello": "world"}).to_string());
    case.script.next().await?.reply(reply)?;
    same(
        "status",
        asked.await??.refused()?.status,
        case.differ(200, 426),
    )
}

async fn malformed(case: &Case) -> Result<()> {
    let asked = case.connect(&[]).await?;
    // A length, and no such content.
    let reply = Reply::nothing().body("OPEN 5\r\n");
    case.script.next().await?.reply(reply)?;
    let answer = asked.await??;
    if case.differ(true, false) {
        answer.accepted().map(drop)
    } else {
        same("status", answer.refused()?.status, 502)
    }
}
