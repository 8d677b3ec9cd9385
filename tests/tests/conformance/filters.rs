//! Filters: they select and modify items for a client, by metadata from the backend and from the
//! publisher.

use anyhow::{Result, ensure};
use grip::Event;
use serde_json::{Value, json};

use crate::{
    backend::Reply,
    case::{Case, cases, control, ensure_eq, stream_text, ws_text},
    client::{HeldResponse, Socket},
};

cases! {
    skip_users
    require_sub
    build_id
    build_id_in_hexadecimal
    build_id_for_sockets
    var_subst
    var_subst_of_an_unknown_variable
    content_filter
    missing_content_filter
    meta_of_a_hold
    changed_meta
    response
    ;
    differs:
    build_id_in_the_answer_of_the_backend
    no_filters_of_the_content
    unknown
}

/// Opens a socket on the case's channel with filters and metadata.
async fn socket(case: &Case, filters: &[&str], meta: &[(&str, &str)]) -> Result<Socket> {
    let subscribe = json!({"type": "subscribe", "channel": case.channel(), "filters": filters});
    let mut messages: Vec<String> = meta
        .iter()
        .map(|(name, value)| control(json!({"type": "set-meta", "name": name, "value": value})))
        .collect();
    messages.push(control(subscribe));
    let messages: Vec<&str> = messages.iter().map(String::as_str).collect();
    let mut socket = case.open(Reply::open_grip(&messages)).await?;
    case.subscribed(&mut socket, case.channel()).await?;
    Ok(socket)
}

/// Returns the reply that holds a stream on these channels with metadata.
fn stream(channels: &[&str], meta: &[(&str, &str)]) -> Reply {
    let mut reply = Reply::new(200).header("grip-hold", "stream");
    for channel in channels {
        reply = reply.header("grip-channel", channel);
    }
    let meta: Vec<String> = meta
        .iter()
        .map(|(name, value)| format!("{name}=\"{value}\""))
        .collect();
    if meta.is_empty() {
        reply
    } else {
        reply.header("grip-set-meta", &meta.join(", "))
    }
}

/// Returns an item with a text for streams and sockets, and with metadata for filters.
fn item(case: &Case, text: &str, meta: Value) -> Value {
    let content = json!({"content": text});
    let formats = json!({"ws-message": content, "http-stream": content});
    json!({"channel": case.channel(), "formats": formats, "meta": meta})
}

/// Publishes items and fails unless only the last one is received.
async fn only_the_last(
    case: &Case,
    socket: &mut Socket,
    stream: &mut HeldResponse,
    items: &[(&str, Value)],
) -> Result<()> {
    for (text, meta) in items {
        case.publish(item(case, text, meta.clone())).await?;
    }
    let last = items.last().map_or("", |(text, _)| text);
    socket.expect(last).await?;
    stream.expect(last).await
}

async fn skip_users(case: &Case) -> Result<()> {
    let meta = [("user", "ada")];
    let mut socket = socket(case, &["skip-users"], &meta).await?;
    let channel = format!("{}; filter=skip-users", case.channel());
    let mut stream = case.hold(stream(&[&channel], &meta)).await?;
    let items = [
        ("for one less", json!({"skip_users": "ada"})),
        ("for two less", json!({"skip_users": "bob, ada"})),
        (
            "for others",
            json!({"skip_users": "bob,adam", "sender": "ada"}),
        ),
    ];
    only_the_last(case, &mut socket, &mut stream, &items).await
}

/// A socket counts as subscribed to no channel.
async fn require_sub(case: &Case) -> Result<()> {
    let mut socket = socket(case, &["require-sub"], &[]).await?;
    let other = format!("{}-other", case.channel());
    let channel = format!("{}; filter=require-sub", case.channel());
    let mut stream = case.hold(stream(&[&channel, &other], &[])).await?;
    for (text, required) in [
        ("of a third", "nobody's"),
        ("of the other,", &*other),
        ("of this,", case.channel()),
        ("of none", ""),
    ] {
        let meta = json!({"require_sub": required});
        case.publish(item(case, text, meta)).await?;
    }
    stream.expect("of the other,of this,of none").await?;
    socket.expect("of none").await
}

/// Returns the reply that holds a stream with ids on the case's channel and with `build-id`.
fn with_ids(case: &Case, meta: &[(&str, &str)]) -> Reply {
    let channel = format!("{}; prev-id=1; filter=build-id", case.channel());
    stream(&[&channel], meta).header("grip-link", &format!("<{}next>; rel=next", case.path()))
}

/// Returns the item that follows.
fn second(case: &Case, text: &str) -> Value {
    let mut item = stream_text(case.channel(), text);
    item["id"] = "2".into();
    item["prev-id"] = "1".into();
    item
}

async fn build_id(case: &Case) -> Result<()> {
    case.register_channel().await?;
    let format = format!("<%({})s>", case.channel());
    let mut stream = case.hold(with_ids(case, &[("id_format", &format)])).await?;
    case.publish(second(case, "%I, %(other)I, 100%%")).await?;
    stream.expect("<2>, other, 100%").await
}

async fn build_id_in_hexadecimal(case: &Case) -> Result<()> {
    case.register_channel().await?;
    let format = format!("<%({})s>", case.channel());
    let meta = [("id_format", &*format), ("id_encoding", "hex")];
    let mut stream = case.hold(with_ids(case, &meta)).await?;
    case.publish(second(case, "%I, %(other)I")).await?;
    stream.expect("3c323e, 6f74686572").await
}

/// Sockets have no ids of their own, since they track none.
async fn build_id_for_sockets(case: &Case) -> Result<()> {
    let mut socket = socket(case, &["build-id"], &[("id_format", "x")]).await?;
    for text in ["%I", "%(other)I"] {
        case.publish(ws_text(case.channel(), text)).await?;
    }
    socket.expect("other").await
}

async fn build_id_in_the_answer_of_the_backend(case: &Case) -> Result<()> {
    case.register_channel().await?;
    let reply = with_ids(case, &[("id_format", "x")]).body("%(first)I,");
    let mut stream = case.hold(reply).await?;
    stream.expect(case.differ("first,", "%(first)I,")).await?;
    case.publish(second(case, "%(second)I")).await?;
    stream.expect("second").await
}

async fn var_subst(case: &Case) -> Result<()> {
    let meta = [("user", "ada"), ("room", "a, b")];
    let mut socket = socket(case, &["var-subst"], &meta).await?;
    let channel = format!("{}; filter=var-subst", case.channel());
    let mut stream = case.hold(stream(&[&channel], &meta)).await?;
    let text = "%(user)s in %(room)s, 100%%";
    case.publish(item(case, text, json!({}))).await?;
    socket.expect("ada in a, b, 100%").await?;
    stream.expect("ada in a, b, 100%").await
}

/// A socket does not receive the item. A stream ends, so that its client reconnects.
async fn var_subst_of_an_unknown_variable(case: &Case) -> Result<()> {
    let mut socket = socket(case, &["var-subst"], &[]).await?;
    let channel = format!("{}; filter=var-subst", case.channel());
    let mut stream = case.hold(stream(&[&channel], &[])).await?;
    for text in ["before", "%(user)s", "after"] {
        case.publish(item(case, text, json!({}))).await?;
    }
    socket.expect("before").await?;
    socket.expect("after").await?;
    stream.expect("before").await?;
    stream.ended().await
}

/// Returns an item with a text that requires filters.
fn with_content_filters(case: &Case, text: &str, filters: &[&str]) -> Value {
    let content = json!({"content": text, "content-filters": filters});
    let formats = json!({"ws-message": content, "http-stream": content});
    json!({"channel": case.channel(), "formats": formats})
}

async fn content_filter(case: &Case) -> Result<()> {
    let (meta, filters) = ([("user", "ada")], ["skip-self", "var-subst"]);
    let mut socket = socket(case, &filters, &meta).await?;
    let channel = format!("{}; filter=skip-self; filter=var-subst", case.channel());
    let mut stream = case.hold(stream(&[&channel], &meta)).await?;
    // Only the filters that modify the content have to be listed.
    case.publish(with_content_filters(case, "%(user)s", &["var-subst"]))
        .await?;
    socket.expect("ada").await?;
    stream.expect("ada").await
}

/// A socket does not receive the item, and a stream ends.
async fn missing_content_filter(case: &Case) -> Result<()> {
    let mut socket = socket(case, &[], &[]).await?;
    let mut stream = case.hold(stream(&[case.channel()], &[])).await?;
    case.publish(with_content_filters(case, "%(user)s", &["var-subst"]))
        .await?;
    case.publish(item(case, "after", json!({}))).await?;
    socket.expect("after").await?;
    stream.ended().await
}

async fn no_filters_of_the_content(case: &Case) -> Result<()> {
    let mut socket = socket(case, &["var-subst"], &[]).await?;
    case.publish(with_content_filters(case, "requires none", &[]))
        .await?;
    if case.differ(false, true) {
        socket.expect("requires none").await?;
    }
    case.publish(ws_text(case.channel(), "after")).await?;
    socket.expect("after").await
}

async fn meta_of_a_hold(case: &Case) -> Result<()> {
    let channel = json!({"name": case.channel(), "filters": ["skip-self", "var-subst"]});
    let meta = json!({"user": "ada", "room": "b"});
    let instruct = json!({"hold": {"mode": "stream", "channels": [channel], "meta": meta}});
    let reply = Reply::new(200)
        .header("content-type", "application/grip-instruct")
        .body(instruct.to_string());
    let mut stream = case.hold(reply).await?;
    for sender in ["ada", "bob"] {
        let meta = json!({"sender": sender});
        case.publish(item(case, &format!("{sender}'s in %(room)s"), meta))
            .await?;
    }
    stream.expect("bob's in b").await
}

/// The latest metadata applies to earlier subscriptions as well.
async fn changed_meta(case: &Case) -> Result<()> {
    let mut socket = socket(case, &["skip-self"], &[("user", "ada")]).await?;
    for (user, own, other) in [(Some("bob"), "bob", "ada"), (None, "nobody", "bob")] {
        let mut change = json!({"type": "set-meta", "name": "user"});
        if let Some(user) = user {
            change["value"] = user.into();
        }
        socket.send("go").await?;
        let reply = [Event::text(control(change)), Event::text("m:done")];
        case.round_trip(&[Event::text("go")], Reply::events(&reply))
            .await?;
        socket.expect("done").await?;
        // Pushpin's processes synchronize.
        case.settle().await;
        for sender in [own, other] {
            case.publish(item(case, sender, json!({"sender": sender})))
                .await?;
        }
        if user.is_none() {
            socket.expect(own).await?;
        }
        socket.expect(other).await?;
    }
    Ok(())
}

async fn response(case: &Case) -> Result<()> {
    case.use_own_proxy().await?;
    case.register_channel().await?;
    for (text, status, body) in [("for %(user)s", 200, Some("for ada")), ("%(x)s", 502, None)] {
        let pending = case.request("GET", &[], "").await?;
        let channel = format!("{}; filter=skip-self; filter=var-subst", case.channel());
        let reply = Reply::new(200)
            .header("grip-hold", "response")
            .header("grip-channel", &channel)
            .header("grip-set-meta", "user=ada");
        case.script.next().await?.reply(reply)?;
        case.wait_for_metric("socket_host_subscriptions 1").await?;
        for (sender, text) in [("ada", "her own"), ("bob", text)] {
            let formats = json!({"http-response": {"body": text}});
            let meta = json!({"sender": sender});
            case.publish(json!({"channel": case.channel(), "formats": formats, "meta": meta}))
                .await?;
        }
        let response = pending.await??;
        ensure_eq("status", response.status, status)?;
        if let Some(body) = body {
            ensure_eq("body", &*response.text(), body)?;
        }
    }
    Ok(())
}

/// In a subscription and in a hold.
async fn unknown(case: &Case) -> Result<()> {
    let subscribe = json!({"type": "subscribe", "channel": case.channel(), "filters": ["dance"]});
    let reply = Reply::open_grip(&[&control(subscribe)]);
    let mut socket = case.open(reply).await?;
    let channel = format!("{}; filter=dance", case.channel());
    if case.differ(true, false) {
        case.subscribed(&mut socket, case.channel()).await?;
        let mut stream = case.hold(stream(&[&channel], &[])).await?;
        case.publish(item(case, "news", json!({}))).await?;
        socket.expect("news").await?;
        return stream.expect("news").await;
    }
    case.publish(ws_text(case.channel(), "news")).await?;
    case.barrier(&mut socket, "nothing else").await?;
    let response = case.get(stream(&[&channel], &[])).await?;
    ensure!(response.status == 502, "{response:?}");
    Ok(())
}
