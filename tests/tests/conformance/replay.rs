//! `Content-Bytes-Accepted`: a backend that accepts only part of a request's content.
//!
//! Pushpin supports it since 1.41. Debian's version ignores it and drops the rest.

use anyhow::Result;
use grip::Event;

use crate::{
    backend::Reply,
    case::{Case, cases, ensure_eq},
};

cases! {
    all_accepted
    ;
    differs:
    offered_again
    part_of_a_message
    more_than_offered
}

async fn all_accepted(case: &Case) -> Result<()> {
    let mut socket = case.open(Reply::open()).await?;
    socket.send("12345").await?;
    let reply = Reply::nothing().header("content-bytes-accepted", "5");
    case.round_trip(&[Event::text("12345")], reply).await?;
    socket.send("6").await?;
    let headers = case
        .round_trip(&[Event::text("6")], Reply::nothing())
        .await?;
    ensure_eq("replayed", headers.get("content-bytes-replayed"), None)
}

async fn offered_again(case: &Case) -> Result<()> {
    let mut socket = case.open(Reply::open()).await?;
    socket.send("12345").await?;
    let request = case.script.next().await?;
    request.expect(&[Event::text("12345")])?;
    socket.send("678").await?;
    // If the proxy reads it after the reply, the rest waits for it.
    request.reply(Reply::nothing().header("content-bytes-accepted", "0"))?;
    let request = case.script.next().await?;
    if case.differ(true, false) {
        request.expect(&[Event::text("678")])?;
        return request.reply(Reply::nothing());
    }
    ensure_eq(
        "replayed",
        request.header("content-bytes-replayed"),
        Some("5"),
    )?;
    request.expect(&[Event::text("12345"), Event::text("678")])?;
    request.reply(Reply::nothing().header("content-bytes-accepted", "5"))?;
    // The rest is sent with the next message.
    case.settle().await;
    case.no_request().await?;
    socket.send("9").await?;
    let request = case.script.next().await?;
    ensure_eq(
        "replayed",
        request.header("content-bytes-replayed"),
        Some("3"),
    )?;
    request.expect(&[Event::text("678"), Event::text("9")])?;
    request.reply(Reply::nothing())
}

async fn part_of_a_message(case: &Case) -> Result<()> {
    let mut socket = case.open(Reply::open()).await?;
    socket.send("12345").await?;
    let request = case.script.next().await?;
    request.expect(&[Event::text("12345")])?;
    socket.send("678").await?;
    // If the proxy reads it after the reply, the rest waits for it.
    request.reply(Reply::nothing().header("content-bytes-accepted", "2"))?;
    let request = case.script.next().await?;
    if case.differ(true, false) {
        request.expect(&[Event::text("678")])?;
        return request.reply(Reply::nothing());
    }
    ensure_eq(
        "replayed",
        request.header("content-bytes-replayed"),
        Some("3"),
    )?;
    request.expect(&[Event::text("345"), Event::text("678")])?;
    request.reply(Reply::nothing())
}

async fn more_than_offered(case: &Case) -> Result<()> {
    let mut socket = case.open(Reply::open()).await?;
    socket.send("12345").await?;
    let reply = Reply::nothing().header("content-bytes-accepted", "6");
    case.round_trip(&[Event::text("12345")], reply).await?;
    if case.differ(true, false) {
        socket.send("6").await?;
        case.round_trip(&[Event::text("6")], Reply::nothing())
            .await?;
        return Ok(());
    }
    let close = Some((1011, "the backend failed".into()));
    ensure_eq("close", socket.closed().await?, close)
}
