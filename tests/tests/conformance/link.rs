//! `Grip-Link`: the next part of a stream, and the request sent when its client disconnects.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::{
    backend::{Reply, Request},
    case::{Case, cases, ensure_eq, stream_text},
};

cases! {
    next_without_a_hold
    next_when_quiet
    next_after_a_missed_item
    next_after_a_hint
    hint_without_a_link
    last_ids
    prev_id_matches
    prev_id_differs
    ;
    differs:
    gone
    prev_id_without_a_link
}

fn next(case: &Case, name: &str) -> String {
    format!("<{}{name}>; rel=next", case.path())
}

/// Fails unless a request is for `name` below the case's path.
fn ensure_path(case: &Case, request: &Request, name: &str) -> Result<()> {
    let path = format!("{}{name}", case.path());
    ensure_eq("path", request.head.uri.path(), &*path)
}

/// Without a hold, the parts are sent at once as one body.
async fn next_without_a_hold(case: &Case) -> Result<()> {
    let pending = case.start_hold().await?;
    let reply = Reply::new(200)
        .header("grip-link", &next(case, "2"))
        .body("first,");
    case.script.next().await?.reply(reply)?;
    let request = case.script.next().await?;
    ensure_path(case, &request, "2")?;
    ensure_eq("method", request.head.method.as_str(), "GET")?;
    request.reply(Reply::new(200).body("second"))?;
    let mut stream = pending.await??;
    stream.expect("first,second").await?;
    stream.ended().await
}

async fn next_when_quiet(case: &Case) -> Result<()> {
    case.register_channel().await?;
    let reply = Reply::new(200)
        .header("grip-hold", "stream")
        .header("grip-channel", case.channel())
        .header("grip-link", &format!("{}; timeout=2", next(case, "2")))
        .body("first,");
    let since = Instant::now();
    let mut stream = case.hold(reply).await?;
    stream.expect("first,").await?;
    let request = case.script.next().await?;
    ensure!(
        since.elapsed() > Duration::from_millis(1000),
        "{:?}",
        since.elapsed()
    );
    ensure_path(case, &request, "2")?;
    request.reply(
        Reply::new(200)
            .header("grip-hold", "stream")
            .header("grip-channel", case.channel())
            .body("second,"),
    )?;
    stream.expect("second,").await?;
    case.publish(stream_text(case.channel(), "third")).await?;
    stream.expect("third").await
}

async fn next_after_a_missed_item(case: &Case) -> Result<()> {
    case.register_channel().await?;
    let hold = |id: &str| {
        Reply::new(200)
            .header("grip-hold", "stream")
            .header("grip-channel", &format!("{}; prev-id={id}", case.channel()))
            .header("grip-link", &next(case, "2"))
    };
    let item = |id: &str, previous: &str| {
        let mut item = stream_text(case.channel(), &format!("<{id}>"));
        item["id"] = id.into();
        item["prev-id"] = previous.into();
        item
    };
    let mut stream = case.hold(hold("1").body("up to 1,")).await?;
    stream.expect("up to 1,").await?;
    // The item before it was not published.
    case.publish(item("3", "2")).await?;
    let request = case.script.next().await?;
    ensure_path(case, &request, "2")?;
    request.reply(hold("3").body("up to 3,"))?;
    stream.expect("up to 3,").await?;
    case.publish(item("4", "3")).await?;
    stream.expect("<4>").await
}

fn hint(case: &Case) -> Value {
    let formats = json!({"http-stream": {"action": "hint"}});
    json!({"channel": case.channel(), "formats": formats})
}

async fn next_after_a_hint(case: &Case) -> Result<()> {
    case.register_channel().await?;
    let hold = || {
        Reply::new(200)
            .header("grip-hold", "stream")
            .header("grip-channel", case.channel())
            .header("grip-link", &next(case, "2"))
    };
    let mut stream = case.hold(hold().body("first,")).await?;
    stream.expect("first,").await?;
    case.publish(hint(case)).await?;
    let request = case.script.next().await?;
    ensure_path(case, &request, "2")?;
    request.reply(hold().body("second,"))?;
    stream.expect("second,").await?;
    case.publish(stream_text(case.channel(), "third")).await?;
    stream.expect("third").await
}

/// Without a link, there is nothing to fetch.
async fn hint_without_a_link(case: &Case) -> Result<()> {
    let reply = Reply::new(200)
        .header("grip-hold", "stream")
        .header("grip-channel", case.channel())
        .body("first,");
    let mut stream = case.hold(reply).await?;
    stream.expect("first,").await?;
    case.publish(hint(case)).await?;
    case.publish(stream_text(case.channel(), "second")).await?;
    stream.expect("second").await?;
    case.no_request().await
}

/// The backend receives the last id of each channel with ids.
async fn last_ids(case: &Case) -> Result<()> {
    case.register_channel().await?;
    let (with, without) = (case.channel(), format!("{}-other", case.channel()));
    let hold = |id: &str| {
        Reply::new(200)
            .header("grip-hold", "stream")
            .header("grip-channel", &format!("{with}; prev-id={id}"))
            .header("grip-channel", &without)
            .header("grip-link", &next(case, "2"))
    };
    let mut stream = case.hold(hold("1").body("up to 1,")).await?;
    stream.expect("up to 1,").await?;
    let mut item = stream_text(with, "<2>");
    item["id"] = "2".into();
    item["prev-id"] = "1".into();
    case.publish(item).await?;
    stream.expect("<2>").await?;
    let mut hint = hint(case);
    hint["id"] = "3".into();
    hint["prev-id"] = "2".into();
    case.publish(hint).await?;
    let request = case.script.next().await?;
    let last = format!("{with}; last-id=3");
    ensure_eq("last", request.header("grip-last"), Some(&*last))?;
    request.reply(hold("3").body("up to 3,"))?;
    stream.expect("up to 3,").await
}

/// Returns the reply that holds a stream on the case's channel.
fn hold(case: &Case) -> Reply {
    Reply::new(200)
        .header("grip-hold", "stream")
        .header("grip-channel", case.channel())
}

fn with_id(case: &Case, id: &str, previous: Option<&str>) -> Value {
    let mut item = stream_text(case.channel(), &format!("<{id}>"));
    item["id"] = id.into();
    if let Some(previous) = previous {
        item["prev-id"] = previous.into();
    }
    item
}

async fn prev_id_matches(case: &Case) -> Result<()> {
    case.register_channel().await?;
    let first = case.hold(hold(case)).await?;
    case.publish(with_id(case, "1", None)).await?;
    let reply = Reply::new(200)
        .header("grip-hold", "stream")
        .header("grip-channel", &format!("{}; prev-id=1", case.channel()))
        .header("grip-link", &format!("<{}next>; rel=next", case.path()));
    let mut stream = case.hold(reply.body("up to 1,")).await?;
    case.publish(with_id(case, "2", Some("1"))).await?;
    stream.expect("up to 1,<2>").await?;
    drop(first);
    Ok(())
}

/// The next part contains items published between the backend's read and the hold.
async fn prev_id_differs(case: &Case) -> Result<()> {
    case.register_channel().await?;
    let mut first = case.hold(hold(case)).await?;
    case.publish(with_id(case, "1", None)).await?;
    case.publish(with_id(case, "2", Some("1"))).await?;
    first.expect("<1><2>").await?;
    let reply = Reply::new(200)
        .header("grip-hold", "stream")
        .header("grip-channel", &format!("{}; prev-id=1", case.channel()))
        .header("grip-link", &format!("<{}next>; rel=next", case.path()));
    let mut stream = case.hold(reply.body("up to 1,")).await?;
    if case.differ_with_bus(false, true) {
        stream.expect("up to 1,<2>").await?;
        return case.no_request().await;
    }
    let request = case.script.next().await?;
    ensure_path(case, &request, "next")?;
    let last = format!("{}; last-id=1", case.channel());
    ensure_eq("last", request.header("grip-last"), Some(&*last))?;
    request.reply(Reply::new(200).body("up to 2"))?;
    stream.expect("up to 1,up to 2").await?;
    stream.ended().await
}

/// Without a link, Pushpin ends the stream.
async fn prev_id_without_a_link(case: &Case) -> Result<()> {
    let mut first = case.hold(hold(case)).await?;
    case.publish(with_id(case, "1", None)).await?;
    first.expect("<1>").await?;
    let follows = |id: &str| {
        Reply::new(200)
            .header("grip-hold", "stream")
            .header("grip-channel", &format!("{}; prev-id={id}", case.channel()))
            .body(format!("up to {id},"))
    };
    if case.differ(true, false) {
        let mut stream = case.hold(follows("1")).await?;
        stream.expect("up to 1,").await?;
        return stream.ended().await;
    }
    // The hold lags behind the published items, so the request is sent again.
    let pending = case.start_hold().await?;
    case.script.next().await?.reply(follows("0"))?;
    let request = case.script.next().await?;
    let last = format!("{}; last-id=0", case.channel());
    ensure_eq("last", request.header("grip-last"), Some(&*last))?;
    request.reply(follows("1"))?;
    let mut stream = pending.await??;
    case.publish(with_id(case, "2", Some("1"))).await?;
    stream.expect("up to 1,<2>").await
}

async fn gone(case: &Case) -> Result<()> {
    let reply = Reply::new(200)
        .header("grip-hold", "stream")
        .header("grip-channel", case.channel())
        .header("grip-link", &format!("<{}gone>; rel=gone", case.path()))
        .body("x");
    let mut stream = case.hold(reply).await?;
    stream.expect("x").await?;
    drop(stream);
    if case.differ(false, true) {
        let request = case.script.next().await?;
        ensure_eq("method", request.head.method.as_str(), "POST")?;
        ensure_path(case, &request, "gone")?;
        ensure_eq("body", request.body.len(), 0)?;
        request.reply(Reply::new(200))?;
    } else {
        case.settle().await;
        case.publish(
            json!({"channel": case.channel(), "formats": {"http-stream": {"content": "x"}}}),
        )
        .await?;
        case.no_request().await?;
    }
    Ok(())
}
