//! The closing handshake, started by either side.

use std::slice::from_ref;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use grip::Event;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    backend::Reply,
    case::{Case, cases, ensure_eq},
};

/// Shorter than any proxy's timeout for the backend.
const PROMPT: Duration = Duration::from_secs(10);

cases! {
    by_the_client
    by_the_client_with_another_reply
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
    case.round_trip(from_ref(&close), Reply::events(from_ref(&close)))
        .await?;
    ensure_eq(
        "close",
        socket.closed().await?,
        Some((4321, "going home".into())),
    )
}

async fn by_the_client_without_a_code(case: &Case) -> Result<()> {
    let mut socket = case.open(Reply::open()).await?;
    socket.message(Message::Close(None)).await?;
    case.round_trip(&[Event::Close(None)], Reply::events(&[Event::Close(None)]))
        .await?;
    let code = case.differ(Some((1000, String::new())), None);
    ensure_eq("close", socket.closed().await?, code)
}

async fn by_the_client_with_another_reply(case: &Case) -> Result<()> {
    let mut socket = case.open(Reply::open()).await?;
    socket.close(4321, "").await?;
    let reply = Reply::events(&[Event::close(4000, "other reply")]);
    case.round_trip(&[Event::close(4321, "")], reply).await?;
    ensure_eq(
        "close",
        socket.closed().await?,
        Some((4000, "other reply".into())),
    )
}

async fn by_the_backend(case: &Case) -> Result<()> {
    let mut socket = case
        .open(Reply::open().header("keep-alive-interval", "120"))
        .await?;
    socket.send("x").await?;
    let reply =
        Reply::events(&[Event::close(4100, "kitchen closed")]).header("keep-alive-interval", "120");
    case.round_trip(&[Event::text("x")], reply).await?;
    ensure_eq(
        "close",
        socket.closed().await?,
        Some((4100, "kitchen closed".into())),
    )?;
    // The client replies with the same code. The connection then ends without waiting for the
    // backend.
    let since = Instant::now();
    ensure_eq("end", socket.next().await?, None)?;
    ensure!(since.elapsed() < PROMPT, "{:?}", since.elapsed());
    let request = case.script.next().await?;
    ensure_eq(
        "events",
        request.events()?,
        [Event::close(4100, "kitchen closed")],
    )?;
    request.reply(Reply::nothing())
}

async fn by_the_backend_without_a_code(case: &Case) -> Result<()> {
    let mut socket = case.open(Reply::open()).await?;
    socket.send("x").await?;
    case.round_trip(&[Event::text("x")], Reply::events(&[Event::Close(None)]))
        .await?;
    let code = case.differ(Some((1000, String::new())), None);
    ensure_eq("close", socket.closed().await?, code)
}

async fn by_a_publisher(case: &Case) -> Result<()> {
    let mut socket = case.subscribe().await?;
    let action = json!({"action": "close", "code": 4200, "reason": "moved"});
    case.publish(json!({"channel": case.channel(), "formats": {"ws-message": action}}))
        .await?;
    ensure_eq(
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
    // In one request, unless the proxy reads the close later.
    let mut events = Vec::new();
    while events.last() != Some(&close) {
        let request = case.script.next().await?;
        events.extend(request.events()?);
        request.reply(if events.last() == Some(&close) {
            Reply::events(&[Event::text("thanks"), close.clone()])
        } else {
            Reply::nothing()
        })?;
    }
    ensure_eq("events", events, [Event::text("last"), close])?;
    socket.expect("thanks").await?;
    ensure_eq("close", socket.closed().await?, Some((1000, String::new())))
}
