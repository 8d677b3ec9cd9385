//! Control messages.

use std::slice::from_ref;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use grip::Event;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    backend::Reply,
    case::{Case, cases, control, ensure_eq, subscribe, ws_text},
};

cases! {
    subscribe_later
    several_channels
    subscribe_twice
    unsubscribe
    detach
    keep_alive
    keep_alive_kinds
    keep_alive_interval
    keep_alive_off
    send_delayed
    flush_delayed
    skip_self
    meta_of_a_control_message
    session
    recover_without_a_history
    unknown_type_is_ignored
    malformed_message_is_ignored
    ;
    differs:
    auto_response
    in_a_binary_message
    keep_alive_on_time
    subscribe_after_an_unknown_item
}

/// Sends a text from the client, to which the backend replies with these messages.
async fn reply_with(
    case: &Case,
    socket: &mut crate::client::Socket,
    messages: &[&str],
) -> Result<()> {
    socket.send("go").await?;
    let events: Vec<Event> = messages
        .iter()
        .map(|message| Event::text(*message))
        .collect();
    case.round_trip(&[Event::text("go")], Reply::events(&events))
        .await?;
    Ok(())
}

async fn auto_response(case: &Case) -> Result<()> {
    let set = |response: &str| {
        control(json!({"type": "auto-response", "request": "ping", "response": response}))
    };
    let mut socket = case.open(Reply::open_grip(&[&set("pong")])).await?;
    socket.send("ping").await?;
    if case.differ(true, false) {
        let reply = Reply::events(&[Event::text("m:pong")]);
        case.round_trip(&[Event::text("ping")], reply).await?;
    }
    socket.expect("pong").await?;
    // Any other message is one for the backend, and so is this one in the end.
    reply_with(case, &mut socket, &[&set(""), "m:done"]).await?;
    socket.expect("done").await?;
    socket.send("ping").await?;
    let reply = Reply::events(&[Event::text("m:asked")]);
    case.round_trip(&[Event::text("ping")], reply).await?;
    socket.expect("asked").await
}

async fn subscribe_later(case: &Case) -> Result<()> {
    let mut socket = case.open(Reply::open_grip(&[])).await?;
    reply_with(case, &mut socket, &[&subscribe(case.channel()), "m:done"]).await?;
    socket.expect("done").await?;
    case.subscribed(&mut socket, case.channel()).await?;
    case.publish(ws_text(case.channel(), "news")).await?;
    socket.expect("news").await
}

async fn several_channels(case: &Case) -> Result<()> {
    let (one, two) = (
        format!("{}-1", case.channel()),
        format!("{}-2", case.channel()),
    );
    let mut socket = case
        .open(Reply::open_grip(&[&subscribe(&one), &subscribe(&two)]))
        .await?;
    case.subscribed(&mut socket, &one).await?;
    case.subscribed(&mut socket, &two).await?;
    for (channel, text) in [(&one, "a"), (&two, "b"), (&one, "c")] {
        case.publish(ws_text(channel, text)).await?;
        socket.expect(text).await?;
    }
    Ok(())
}

async fn subscribe_twice(case: &Case) -> Result<()> {
    let mut socket = case.subscribe().await?;
    reply_with(case, &mut socket, &[&subscribe(case.channel()), "m:done"]).await?;
    socket.expect("done").await?;
    case.publish(ws_text(case.channel(), "once")).await?;
    socket.expect("once").await?;
    case.barrier(&mut socket, "nothing else").await
}

async fn unsubscribe(case: &Case) -> Result<()> {
    let mut socket = case.subscribe().await?;
    let other = format!("{}-other", case.channel());
    let unsubscribe = control(json!({"type": "unsubscribe", "channel": case.channel()}));
    // Processed in order: once subscribed to the other channel, this one is unsubscribed.
    let replies = [&unsubscribe, &subscribe(&other), "m:done"];
    reply_with(case, &mut socket, &replies).await?;
    socket.expect("done").await?;
    case.subscribed(&mut socket, &other).await?;
    case.publish(ws_text(case.channel(), "not for us")).await?;
    case.publish(ws_text(&other, "for us")).await?;
    socket.expect("for us").await
}

async fn detach(case: &Case) -> Result<()> {
    let mut socket = case.subscribe().await?;
    reply_with(
        case,
        &mut socket,
        &[&control(json!({"type": "detach"})), "m:detached"],
    )
    .await?;
    socket.expect("detached").await?;
    // Pushpin's processes synchronize after the message is sent.
    case.settle().await;
    socket.send("into the void").await?;
    case.publish(ws_text(case.channel(), "still connected"))
        .await?;
    socket.expect("still connected").await?;
    // The backend receives a close for the detached socket.
    case.round_trip(&[Event::Close(None)], Reply::nothing())
        .await?;
    case.no_request().await
}

async fn keep_alive(case: &Case) -> Result<()> {
    let message = control(json!({"type": "keep-alive", "timeout": 1, "content": "idle"}));
    let mut socket = case.open(Reply::open_grip(&[&message])).await?;
    for _ in 0..3 {
        socket.expect("idle").await?;
    }
    Ok(())
}

/// Keep-alives are never early. Pushpin sends them up to a second early.
async fn keep_alive_on_time(case: &Case) -> Result<()> {
    let message = control(json!({"type": "keep-alive", "timeout": 1, "content": "idle"}));
    let mut due = Instant::now();
    let mut socket = case.open(Reply::open_grip(&[&message])).await?;
    if case.differ(true, false) {
        for _ in 0..20 {
            let since = Instant::now();
            socket.expect("idle").await?;
            if since.elapsed() < Duration::from_millis(900) {
                return Ok(());
            }
        }
        bail!("no keep-alive is early");
    }
    for _ in 0..3 {
        due += Duration::from_secs(1);
        socket.expect("idle").await?;
        ensure!(Instant::now() >= due, "a keep-alive is early");
    }
    Ok(())
}

async fn keep_alive_kinds(case: &Case) -> Result<()> {
    let bytes = BASE64_STANDARD.encode([0, 255]);
    for (fields, message) in [
        (
            json!({"content": "t", "message-type": "text"}),
            Message::text("t"),
        ),
        (
            json!({"content-bin": bytes, "message-type": "binary"}),
            Message::binary(vec![0, 255]),
        ),
        (
            json!({"content": "p", "message-type": "ping"}),
            Message::Ping("p".into()),
        ),
        (
            json!({"content": "p", "message-type": "pong"}),
            Message::Pong("p".into()),
        ),
    ] {
        let mut keep_alive = fields;
        keep_alive["type"] = "keep-alive".into();
        keep_alive["timeout"] = 1.into();
        let mut socket = case.open(Reply::open_grip(&[&control(keep_alive)])).await?;
        let is_ping = matches!(message, Message::Ping(_));
        ensure_eq("message", socket.next().await?, Some(message))?;
        if is_ping {
            // The backend receives the client's pong.
            socket.flush().await?;
            case.round_trip(&[Event::Pong("p".into())], Reply::nothing())
                .await?;
        }
        // The client reads no more pings, of which a slow machine may send several.
        socket.close(1000, "").await?;
        let close = Event::close(1000, "");
        case.round_trip(from_ref(&close), Reply::events(from_ref(&close)))
            .await?;
    }
    Ok(())
}

/// In the mode `interval`, other messages do not postpone keep-alives.
async fn keep_alive_interval(case: &Case) -> Result<()> {
    let message =
        json!({"type": "keep-alive", "timeout": 2, "mode": "interval", "content": "tick"});
    let mut socket = case
        .open(Reply::open_grip(&[
            &control(message),
            &subscribe(case.channel()),
        ]))
        .await?;
    case.subscribed(&mut socket, case.channel()).await?;
    let mut others = 0;
    loop {
        case.publish(ws_text(case.channel(), "other")).await?;
        match socket.text().await?.as_str() {
            "other" => others += 1,
            "tick" if others >= 3 => return Ok(()),
            // Early, which the other mode would allow on a slow machine.
            text => {
                ensure_eq("text", text, "tick")?;
                others = 0;
            }
        }
        ensure!(others < 100, "no tick among 10 s of other messages");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn keep_alive_off(case: &Case) -> Result<()> {
    let message = control(json!({"type": "keep-alive", "timeout": 1, "content": "idle"}));
    let mut socket = case.open(Reply::open_grip(&[&message])).await?;
    socket.expect("idle").await?;
    reply_with(
        case,
        &mut socket,
        &[&control(json!({"type": "keep-alive"})), "m:off"],
    )
    .await?;
    while socket.text().await? != "off" {}
    tokio::time::sleep(Duration::from_millis(1500)).await;
    case.barrier(&mut socket, "nothing else").await
}

async fn send_delayed(case: &Case) -> Result<()> {
    let message = json!({"type": "send-delayed", "timeout": 1, "content": "late"});
    let since = Instant::now();
    let mut socket = case
        .open(Reply::open_grip(&[&control(message), "m:soon"]))
        .await?;
    socket.expect("soon").await?;
    socket.expect("late").await?;
    ensure!(
        since.elapsed() > Duration::from_millis(900),
        "{:?}",
        since.elapsed()
    );
    Ok(())
}

async fn flush_delayed(case: &Case) -> Result<()> {
    let message = json!({"type": "send-delayed", "timeout": 300, "content": "late"});
    let mut socket = case.open(Reply::open_grip(&[&control(message)])).await?;
    case.barrier(&mut socket, "nothing yet").await?;
    reply_with(
        case,
        &mut socket,
        &[&control(json!({"type": "flush-delayed"}))],
    )
    .await?;
    socket.expect("late").await
}

async fn skip_self(case: &Case) -> Result<()> {
    let subscribe =
        json!({"type": "subscribe", "channel": case.channel(), "filters": ["skip-self"]});
    let user = json!({"type": "set-meta", "name": "user", "value": "ada"});
    let mut socket = case
        .open(Reply::open_grip(&[&control(user), &control(subscribe)]))
        .await?;
    case.subscribed(&mut socket, case.channel()).await?;
    for (sender, text) in [("ada", "mine"), ("bob", "bob's")] {
        let mut item = ws_text(case.channel(), text);
        item["meta"] = json!({"sender": sender});
        case.publish(item).await?;
    }
    socket.expect("bob's").await
}

/// It is for filters and not sent to the backend.
async fn meta_of_a_control_message(case: &Case) -> Result<()> {
    let user = json!({"type": "set-meta", "name": "user", "value": "ada"});
    let mut socket = case.open(Reply::open_grip(&[&control(user)])).await?;
    socket.send("x").await?;
    let headers = case
        .round_trip(&[Event::text("x")], Reply::nothing())
        .await?;
    ensure_eq("meta", headers.get("meta-user"), None)
}

/// A session's name is sent neither to the client nor to the backend, which has set it.
async fn session(case: &Case) -> Result<()> {
    let named = control(json!({"type": "session", "id": "ada's"}));
    let mut socket = case.open(Reply::open_grip(&[&named, "m:open"])).await?;
    socket.expect("open").await?;
    let replies = [&named, &*control(json!({"type": "session"})), "m:done"];
    reply_with(case, &mut socket, &replies).await?;
    socket.expect("done").await?;
    socket.send("x").await?;
    let headers = case
        .round_trip(&[Event::text("x")], Reply::nothing())
        .await?;
    ensure_eq("session", headers.get("grip-session-id"), None)
}

async fn unknown_type_is_ignored(case: &Case) -> Result<()> {
    let mut socket = case.open(Reply::open_grip(&[])).await?;
    reply_with(
        case,
        &mut socket,
        &[&control(json!({"type": "dance"})), "m:open"],
    )
    .await?;
    socket.expect("open").await
}

async fn malformed_message_is_ignored(case: &Case) -> Result<()> {
    let mut socket = case.open(Reply::open_grip(&[])).await?;
    reply_with(
        case,
        &mut socket,
        &["c:{", "c:", "c:[]", r#"c:{"type":"subscribe"}"#, "m:open"],
    )
    .await?;
    socket.expect("open").await
}

/// Backends may send the fields of the extension to any proxy.
async fn recover_without_a_history(case: &Case) -> Result<()> {
    case.publish(ws_text(case.channel(), "before")).await?;
    let subscribe = json!({"type": "subscribe", "channel": case.channel(), "recover": 5});
    let mut socket = case.open(Reply::open_grip(&[&control(subscribe)])).await?;
    if case.differ_with_bus(false, true) {
        socket.expect("before").await?;
    }
    case.subscribed(&mut socket, case.channel()).await?;
    case.publish(ws_text(case.channel(), "news")).await?;
    socket.expect("news").await
}

async fn subscribe_after_an_unknown_item(case: &Case) -> Result<()> {
    let subscribe = json!({"type": "subscribe", "channel": case.channel(), "prev-id": "unknown"});
    let mut socket = case.open(Reply::open_grip(&[&control(subscribe)])).await?;
    if case.differ(false, true) {
        let reply = Reply::events(&[Event::text("m:reload")]);
        let headers = case.round_trip(&[], reply).await?;
        ensure!(headers["grip-last"] == case.channel(), "{headers:?}");
        socket.expect("reload").await?;
    }
    case.subscribed(&mut socket, case.channel()).await?;
    case.publish(ws_text(case.channel(), "news")).await?;
    socket.expect("news").await
}

async fn in_a_binary_message(case: &Case) -> Result<()> {
    let mut socket = case.open(Reply::open_grip(&[])).await?;
    socket.send("go").await?;
    let message = Event::Binary(subscribe(case.channel()).into());
    let reply = Reply::events(&[message, Event::text("m:after")]);
    case.round_trip(&[Event::text("go")], reply).await?;
    socket.expect("after").await?;
    case.settle().await;
    case.publish(ws_text(case.channel(), "news")).await?;
    if case.differ(false, true) {
        socket.expect("news").await?;
    }
    case.barrier(&mut socket, "nothing else").await
}
