//! Control messages, each kind.

use std::slice::from_ref;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use grip::Event;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    backend::Reply,
    case::{Case, cases, control, same, subscribe, ws_text},
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
    unknown_is_passed_over
    malformed_is_passed_over
    ;
    differs:
    in_a_binary_message
    keep_alive_on_time
}

/// Has the client say something and the backend answer with these messages.
async fn answer(case: &Case, socket: &mut crate::client::Socket, messages: &[&str]) -> Result<()> {
    socket.send("go").await?;
    let events: Vec<Event> = messages
        .iter()
        .map(|message| Event::text(*message))
        .collect();
    case.exchange(&[Event::text("go")], Reply::events(&events))
        .await?;
    Ok(())
}

async fn subscribe_later(case: &Case) -> Result<()> {
    let mut socket = case.open(Reply::open_grip(&[])).await?;
    answer(case, &mut socket, &[&subscribe(case.channel()), "m:done"]).await?;
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
    answer(case, &mut socket, &[&subscribe(case.channel()), "m:done"]).await?;
    socket.expect("done").await?;
    case.publish(ws_text(case.channel(), "once")).await?;
    socket.expect("once").await?;
    case.barrier(&mut socket, "nothing else").await
}

async fn unsubscribe(case: &Case) -> Result<()> {
    let mut socket = case.subscribe().await?;
    let other = format!("{}-other", case.channel());
    let unsubscribe = control(json!({"type": "unsubscribe", "channel": case.channel()}));
    // In order: when the other is joined, this one has been left.
    let replies = [&unsubscribe, &subscribe(&other), "m:done"];
    answer(case, &mut socket, &replies).await?;
    socket.expect("done").await?;
    case.subscribed(&mut socket, &other).await?;
    case.publish(ws_text(case.channel(), "not for us")).await?;
    case.publish(ws_text(&other, "for us")).await?;
    socket.expect("for us").await
}

async fn detach(case: &Case) -> Result<()> {
    let mut socket = case.subscribe().await?;
    answer(
        case,
        &mut socket,
        &[&control(json!({"type": "detach"})), "m:detached"],
    )
    .await?;
    socket.expect("detached").await?;
    // Pushpin's processes tell it each other, while the message goes on.
    case.settle().await;
    socket.send("into the void").await?;
    case.publish(ws_text(case.channel(), "still connected"))
        .await?;
    socket.expect("still connected").await?;
    // That it is detached is told as a close.
    case.exchange(&[Event::Close(None)], Reply::nothing())
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

/// Not before its time, which Pushpin shortens by up to a second each time.
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
        bail!("none comes early");
    }
    for _ in 0..3 {
        due += Duration::from_secs(1);
        socket.expect("idle").await?;
        ensure!(Instant::now() >= due, "one comes early");
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
        same("message", socket.next().await?, Some(message))?;
        if is_ping {
            // What the client answers is told.
            socket.flush().await?;
            case.exchange(&[Event::Pong("p".into())], Reply::nothing())
                .await?;
        }
        // More of them, on a slow machine, the client does not read, and so does not answer.
        socket.close(1000, "").await?;
        let close = Event::close(1000, "");
        case.exchange(from_ref(&close), Reply::events(from_ref(&close)))
            .await?;
    }
    Ok(())
}

/// In the mode `interval`, what is sent meanwhile puts nothing off.
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
            // On a slow machine, as it would in the other mode.
            text => {
                same("text", text, "tick")?;
                others = 0;
            }
        }
        ensure!(others < 100, "there is no tick among 10 s of others");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn keep_alive_off(case: &Case) -> Result<()> {
    let message = control(json!({"type": "keep-alive", "timeout": 1, "content": "idle"}));
    let mut socket = case.open(Reply::open_grip(&[&message])).await?;
    socket.expect("idle").await?;
    answer(
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
    answer(
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

/// It is for filters, and not told to the backend.
async fn meta_of_a_control_message(case: &Case) -> Result<()> {
    let user = json!({"type": "set-meta", "name": "user", "value": "ada"});
    let mut socket = case.open(Reply::open_grip(&[&control(user)])).await?;
    socket.send("x").await?;
    let headers = case.exchange(&[Event::text("x")], Reply::nothing()).await?;
    same("meta", headers.get("meta-user"), None)
}

/// The name of a session is nothing to the client, nor to a backend that has given it.
async fn session(case: &Case) -> Result<()> {
    let named = control(json!({"type": "session", "id": "ada's"}));
    let mut socket = case.open(Reply::open_grip(&[&named, "m:open"])).await?;
    socket.expect("open").await?;
    let replies = [&named, &*control(json!({"type": "session"})), "m:done"];
    answer(case, &mut socket, &replies).await?;
    socket.expect("done").await?;
    socket.send("x").await?;
    let headers = case.exchange(&[Event::text("x")], Reply::nothing()).await?;
    same("session", headers.get("grip-session-id"), None)
}

async fn unknown_is_passed_over(case: &Case) -> Result<()> {
    let mut socket = case.open(Reply::open_grip(&[])).await?;
    answer(
        case,
        &mut socket,
        &[&control(json!({"type": "dance"})), "m:open"],
    )
    .await?;
    socket.expect("open").await
}

async fn malformed_is_passed_over(case: &Case) -> Result<()> {
    let mut socket = case.open(Reply::open_grip(&[])).await?;
    answer(
        case,
        &mut socket,
        &["c:{", "c:", "c:[]", r#"c:{"type":"subscribe"}"#, "m:open"],
    )
    .await?;
    socket.expect("open").await
}

async fn in_a_binary_message(case: &Case) -> Result<()> {
    let mut socket = case.open(Reply::open_grip(&[])).await?;
    socket.send("go").await?;
    let message = Event::Binary(subscribe(case.channel()).into());
    let reply = Reply::events(&[message, Event::text("m:after")]);
    case.exchange(&[Event::text("go")], reply).await?;
    socket.expect("after").await?;
    case.settle().await;
    case.publish(ws_text(case.channel(), "news")).await?;
    if case.differ(false, true) {
        socket.expect("news").await?;
    }
    case.barrier(&mut socket, "nothing else").await
}
