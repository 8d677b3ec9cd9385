//! `Keep-Alive-Interval`: empty requests for an idle connection.
//!
//! These cases are slow: the shortest interval is 20 s.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use grip::Event;

use crate::{
    backend::Reply,
    case::{Case, cases},
};

/// Less than the shortest interval, as Pushpin's timers are coarse.
const INTERVAL_MIN: Duration = Duration::from_secs(19);

cases! {
    empty_request
    at_least_20_s
    stopped
    kept_without_the_header
}

async fn empty_request(case: &Case) -> Result<()> {
    let since = Instant::now();
    let mut socket = case
        .open(Reply::open().header("keep-alive-interval", "20"))
        .await?;
    let reply = Reply::events(&[Event::text("still here")]).header("keep-alive-interval", "20");
    case.round_trip(&[], reply).await?;
    ensure!(since.elapsed() >= INTERVAL_MIN, "{:?}", since.elapsed());
    socket.expect("still here").await
}

async fn at_least_20_s(case: &Case) -> Result<()> {
    let since = Instant::now();
    let _socket = case
        .open(Reply::open().header("keep-alive-interval", "1"))
        .await?;
    case.round_trip(&[], Reply::nothing()).await?;
    ensure!(since.elapsed() >= INTERVAL_MIN, "{:?}", since.elapsed());
    Ok(())
}

async fn stopped(case: &Case) -> Result<()> {
    let mut socket = case
        .open(Reply::open().header("keep-alive-interval", "20"))
        .await?;
    socket.send("x").await?;
    let reply = Reply::nothing().header("keep-alive-interval", "0");
    case.round_trip(&[Event::text("x")], reply).await?;
    tokio::time::sleep(INTERVAL_MIN + Duration::from_secs(3)).await;
    case.no_request().await
}

async fn kept_without_the_header(case: &Case) -> Result<()> {
    let mut socket = case
        .open(Reply::open().header("keep-alive-interval", "20"))
        .await?;
    socket.send("x").await?;
    case.round_trip(&[Event::text("x")], Reply::nothing())
        .await?;
    case.round_trip(&[], Reply::nothing()).await?;
    Ok(())
}
