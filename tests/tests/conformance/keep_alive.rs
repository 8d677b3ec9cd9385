//! `Keep-Alive-Interval`: empty requests for a connection on which nothing happens.
//!
//! These cases are slow: 20 s is the shortest interval there is.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use grip::Event;

use crate::{
    backend::Reply,
    case::{Case, cases},
};

/// Less than the shortest interval: Pushpin's timers are coarse.
const LEAST: Duration = Duration::from_secs(19);

cases! {
    empty_request
    at_least_20_s
    stopped
    stays_when_not_said_again
}

async fn empty_request(case: &Case) -> Result<()> {
    let since = Instant::now();
    let mut socket = case
        .open(Reply::open().header("keep-alive-interval", "20"))
        .await?;
    let reply = Reply::events(&[Event::text("still here")]).header("keep-alive-interval", "20");
    case.exchange(&[], reply).await?;
    ensure!(since.elapsed() >= LEAST, "{:?}", since.elapsed());
    socket.expect("still here").await
}

async fn at_least_20_s(case: &Case) -> Result<()> {
    let since = Instant::now();
    let _socket = case
        .open(Reply::open().header("keep-alive-interval", "1"))
        .await?;
    case.exchange(&[], Reply::nothing()).await?;
    ensure!(since.elapsed() >= LEAST, "{:?}", since.elapsed());
    Ok(())
}

async fn stopped(case: &Case) -> Result<()> {
    let mut socket = case
        .open(Reply::open().header("keep-alive-interval", "20"))
        .await?;
    socket.send("x").await?;
    let reply = Reply::nothing().header("keep-alive-interval", "0");
    case.exchange(&[Event::text("x")], reply).await?;
    tokio::time::sleep(LEAST + Duration::from_secs(3)).await;
    case.no_request().await
}

async fn stays_when_not_said_again(case: &Case) -> Result<()> {
    let mut socket = case
        .open(Reply::open().header("keep-alive-interval", "20"))
        .await?;
    socket.send("x").await?;
    case.exchange(&[Event::text("x")], Reply::nothing()).await?;
    case.exchange(&[], Reply::nothing()).await?;
    Ok(())
}
