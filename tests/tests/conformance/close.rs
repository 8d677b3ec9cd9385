//! The closing handshake, from either side.

use std::slice::from_ref;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use grip::Event;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    backend::Reply,
    case::{Case, cases, same},
};

/// Less than any proxy waits for a backend.
const PROMPT: Duration = Duration::from_secs(10);

cases! {
    by_the_client
    by_the_client_answered_otherwise
    by_the_backend
    by_a_publisher
    after_messages
    ;
    differs:
    by_the_client_without_a_code
    by_the_backend_without_a_code
}

async fn by_the_client(case: &Case) -> Result<()> {
    let mut socket = case.open(Reply::open()).await?;
    socket.close(4321, "going home").await?;
    let close = Event::close(4321, "going home");
    case.exchange(from_ref(&close), Reply::events(from_ref(&close)))
        .await?;
    same(
        "close",
        socket.closed().await?,
        Some((4321, "going home".into())),
    )
}

async fn by_the_client_without_a_code(case: &Case) -> Result<()> {
    let mut socket = case.open(Reply::open()).await?;
    socket.message(Message::Close(None)).await?;
    case.exchange(&[Event::Close(None)], Reply::events(&[Event::Close(None)]))
        .await?;
    let code = case.differ(Some((1000, String::new())), None);
    same("close", socket.closed().await?, code)
}

async fn by_the_client_answered_otherwise(case: &Case) -> Result<()> {
    let mut socket = case.open(Reply::open()).await?;
    socket.close(4321, "").await?;
    let reply = Reply::events(&[Event::close(4000, "so be it")]);
    case.exchange(&[Event::close(4321, "")], reply).await?;
    same(
        "close",
        socket.closed().await?,
        Some((4000, "so be it".into())),
    )
}

async fn by_the_backend(case: &Case) -> Result<()> {
    let mut socket = case
        .open(Reply::open().header("keep-alive-interval", "120"))
        .await?;
    socket.send("x").await?;
    let reply =
        Reply::events(&[Event::close(4100, "kitchen closed")]).header("keep-alive-interval", "120");
    case.exchange(&[Event::text("x")], reply).await?;
    same(
        "close",
        socket.closed().await?,
        Some((4100, "kitchen closed".into())),
    )?;
    // The client's answer repeats the code. Both have closed then, and the connection ends
    // although the backend has not said anything to that.
    let since = Instant::now();
    same("end", socket.next().await?, None)?;
    ensure!(since.elapsed() < PROMPT, "{:?}", since.elapsed());
    let request = case.script.next().await?;
    same(
        "events",
        request.events()?,
        [Event::close(4100, "kitchen closed")],
    )?;
    request.reply(Reply::nothing())
}

async fn by_the_backend_without_a_code(case: &Case) -> Result<()> {
    let mut socket = case.open(Reply::open()).await?;
    socket.send("x").await?;
    case.exchange(&[Event::text("x")], Reply::events(&[Event::Close(None)]))
        .await?;
    let code = case.differ(Some((1000, String::new())), None);
    same("close", socket.closed().await?, code)
}

async fn by_a_publisher(case: &Case) -> Result<()> {
    let mut socket = case.subscribe().await?;
    let action = json!({"action": "close", "code": 4200, "reason": "moved"});
    case.publish(json!({"channel": case.channel(), "formats": {"ws-message": action}}))
        .await?;
    same(
        "close",
        socket.closed().await?,
        Some((4200, "moved".into())),
    )
}

async fn after_messages(case: &Case) -> Result<()> {
    let mut socket = case.open(Reply::open()).await?;
    let close = Event::close(1000, "");
    socket.send("first").await?;
    let request = case.script.next().await?;
    request.expect(&[Event::text("first")])?;
    socket.send("last").await?;
    socket.close(1000, "").await?;
    request.reply(Reply::nothing())?;
    // Together, unless the close is read later than that.
    let mut told = Vec::new();
    while told.last() != Some(&close) {
        let request = case.script.next().await?;
        told.extend(request.events()?);
        request.reply(match told.last() == Some(&close) {
            true => Reply::events(&[Event::text("thanks"), close.clone()]),
            false => Reply::nothing(),
        })?;
    }
    same("events", told, [Event::text("last"), close])?;
    socket.expect("thanks").await?;
    same("close", socket.closed().await?, Some((1000, String::new())))
}
