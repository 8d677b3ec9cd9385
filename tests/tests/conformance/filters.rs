//! Filters: which items reach a client, and what is written into them, by what the backend has
//! said of the client and the publisher of the item.

use anyhow::{Result, ensure};
use grip::Event;
use serde_json::{Value, json};

use crate::{
    backend::Reply,
    case::{Case, cases, control, same, stream_text, ws_text},
    client::{Held, Socket},
};

cases! {
    skip_users
    require_sub
    build_id
    build_id_in_hexadecimal
    build_id_for_sockets
    var_subst
    var_subst_of_what_there_is_not
    of_the_content
    of_other_content
    meta_of_a_hold
    meta_that_changes
    of_a_response
    ;
    differs:
    build_id_in_the_answer_of_the_backend
    no_filters_of_the_content
    unknown
}

/// A socket on the case's channel with filters, of a client with metadata.
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

/// The answer that holds a stream on these channels, for a client with metadata.
fn stream(channels: &[&str], meta: &[(&str, &str)]) -> Reply {
    let mut reply = Reply::new(200).header("grip-hold", "stream");
    for channel in channels {
        reply = reply.header("grip-channel", channel);
    }
    let meta: Vec<String> = meta
        .iter()
        .map(|(name, value)| format!("{name}=\"{value}\""))
        .collect();
    match meta.is_empty() {
        true => reply,
        false => reply.header("grip-set-meta", &meta.join(", ")),
    }
}

/// A text in all forms of a stream and a socket, with what filters look at.
fn item(case: &Case, text: &str, meta: Value) -> Value {
    let content = json!({"content": text});
    let formats = json!({"ws-message": content, "http-stream": content});
    json!({"channel": case.channel(), "formats": formats, "meta": meta})
}

/// Fails unless of what is published only the last comes.
async fn only_the_last(
    case: &Case,
    socket: &mut Socket,
    stream: &mut Held,
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

/// A socket counts as on no channel.
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

/// A stream that follows ids on the case's channel, with a filter that writes them.
fn with_ids(case: &Case, meta: &[(&str, &str)]) -> Reply {
    let channel = format!("{}; prev-id=1; filter=build-id", case.channel());
    stream(&[&channel], meta).header("grip-link", &format!("<{}next>; rel=next", case.path()))
}

/// The item after that.
fn second(case: &Case, text: &str) -> Value {
    let mut item = stream_text(case.channel(), text);
    item["id"] = "2".into();
    item["prev-id"] = "1".into();
    item
}

async fn build_id(case: &Case) -> Result<()> {
    case.known().await?;
    let format = format!("<%({})s>", case.channel());
    let mut stream = case.hold(with_ids(case, &[("id_format", &format)])).await?;
    case.publish(second(case, "%I, %(other)I, 100%%")).await?;
    stream.expect("<2>, other, 100%").await
}

async fn build_id_in_hexadecimal(case: &Case) -> Result<()> {
    case.known().await?;
    let format = format!("<%({})s>", case.channel());
    let meta = [("id_format", &*format), ("id_encoding", "hex")];
    let mut stream = case.hold(with_ids(case, &meta)).await?;
    case.publish(second(case, "%I, %(other)I")).await?;
    stream.expect("3c323e, 6f74686572").await
}

/// They have no id of their own, since they follow none.
async fn build_id_for_sockets(case: &Case) -> Result<()> {
    let mut socket = socket(case, &["build-id"], &[("id_format", "x")]).await?;
    for text in ["%I", "%(other)I"] {
        case.publish(ws_text(case.channel(), text)).await?;
    }
    socket.expect("other").await
}

async fn build_id_in_the_answer_of_the_backend(case: &Case) -> Result<()> {
    case.known().await?;
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

/// A socket does not get it, and a stream ends, so that its client asks again.
async fn var_subst_of_what_there_is_not(case: &Case) -> Result<()> {
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

/// A text that counts on filters.
fn counts_on(case: &Case, text: &str, filters: &[&str]) -> Value {
    let content = json!({"content": text, "content-filters": filters});
    let formats = json!({"ws-message": content, "http-stream": content});
    json!({"channel": case.channel(), "formats": formats})
}

async fn of_the_content(case: &Case) -> Result<()> {
    let (meta, filters) = ([("user", "ada")], ["skip-self", "var-subst"]);
    let mut socket = socket(case, &filters, &meta).await?;
    let channel = format!("{}; filter=skip-self; filter=var-subst", case.channel());
    let mut stream = case.hold(stream(&[&channel], &meta)).await?;
    // Those that look at the content are meant.
    case.publish(counts_on(case, "%(user)s", &["var-subst"]))
        .await?;
    socket.expect("ada").await?;
    stream.expect("ada").await
}

/// A socket does not get it, and a stream ends.
async fn of_other_content(case: &Case) -> Result<()> {
    let mut socket = socket(case, &[], &[]).await?;
    let mut stream = case.hold(stream(&[case.channel()], &[])).await?;
    case.publish(counts_on(case, "%(user)s", &["var-subst"]))
        .await?;
    case.publish(item(case, "after", json!({}))).await?;
    socket.expect("after").await?;
    stream.ended().await
}

async fn no_filters_of_the_content(case: &Case) -> Result<()> {
    let mut socket = socket(case, &["var-subst"], &[]).await?;
    case.publish(counts_on(case, "counts on none", &[])).await?;
    if case.differ(false, true) {
        socket.expect("counts on none").await?;
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

/// What was said last counts, also for a subscription from before.
async fn meta_that_changes(case: &Case) -> Result<()> {
    let mut socket = socket(case, &["skip-self"], &[("user", "ada")]).await?;
    for (user, own, other) in [(Some("bob"), "bob", "ada"), (None, "nobody", "bob")] {
        let mut change = json!({"type": "set-meta", "name": "user"});
        if let Some(user) = user {
            change["value"] = user.into();
        }
        socket.send("go").await?;
        let reply = [Event::text(control(change)), Event::text("m:done")];
        case.exchange(&[Event::text("go")], Reply::events(&reply))
            .await?;
        socket.expect("done").await?;
        // Pushpin's processes tell it each other.
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

async fn of_a_response(case: &Case) -> Result<()> {
    case.alone().await?;
    case.known().await?;
    for (text, status, body) in [("for %(user)s", 200, Some("for ada")), ("%(x)s", 502, None)] {
        let asked = case.request("GET", &[], "").await?;
        let channel = format!("{}; filter=skip-self; filter=var-subst", case.channel());
        let reply = Reply::new(200)
            .header("grip-hold", "response")
            .header("grip-channel", &channel)
            .header("grip-set-meta", "user=ada");
        case.script.next().await?.reply(reply)?;
        case.until("socket_host_subscriptions 1").await?;
        for (sender, text) in [("ada", "her own"), ("bob", text)] {
            let formats = json!({"http-response": {"body": text}});
            let meta = json!({"sender": sender});
            case.publish(json!({"channel": case.channel(), "formats": formats, "meta": meta}))
                .await?;
        }
        let answer = asked.await??;
        same("status", answer.status, status)?;
        if let Some(body) = body {
            same("body", &*answer.text(), body)?;
        }
    }
    Ok(())
}

/// Of a subscription and of a hold.
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
    let answer = case.get(stream(&[&channel], &[])).await?;
    ensure!(answer.status == 502, "{answer:?}");
    Ok(())
}
