//! `Keep-Alive-Interval`: empty requests for a connection on which nothing happens.
//!
//! These cases are slow: 20 s is the shortest interval there is.

use anyhow::Result;
use grip::Event;

use crate::{
    backend::Reply,
    case::{Case, cases, same},
};

cases! {
    empty_request
    at_least_20_s
    stopped
    stays_when_not_said_again
}

async fn empty_request(case: &Case) -> Result<()> {
    let mut socket = case
        .open(Reply::open().header("keep-alive-interval", "20"))
        .await?;
    let since = tokio::time::Instant::now();
    let reply = Reply::events(&[Event::text("still here")]).header("keep-alive-interval", "20");
    case.exchange(&[], reply).await?;
    let after = since.elapsed().as_secs();
    same("seconds", (19..=25).contains(&after), true)?;
    socket.expect("still here").await
}

async fn at_least_20_s(case: &Case) -> Result<()> {
    let _socket = case
        .open(Reply::open().header("keep-alive-interval", "1"))
        .await?;
    let since = tokio::time::Instant::now();
    case.exchange(&[], Reply::nothing()).await?;
    let after = since.elapsed().as_secs();
    same("seconds", (19..=25).contains(&after), true)
}

async fn stopped(case: &Case) -> Result<()> {
    let mut socket = case
        .open(Reply::open().header("keep-alive-interval", "20"))
        .await?;
    socket.send("x").await?;
    let reply = Reply::nothing().header("keep-alive-interval", "0");
    case.exchange(&[Event::text("x")], reply).await?;
    tokio::time::sleep(std::time::Duration::from_secs(22)).await;
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
