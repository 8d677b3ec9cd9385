//! `Grip-Sig`: the token that shows a backend who its requests come from.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use grip::{Event, Key};

use crate::{
    backend::{Reply, Request},
    case::{Case, cases, same},
    proxy::KEY,
};

cases! {
    on_websocket_requests
    on_http_requests
}

fn verify(request: &Request) -> Result<()> {
    let token = request.header("grip-sig").context("one Grip-Sig")?;
    let now = SystemTime::now();
    let claims = grip::signature::verify(&Key::parse(KEY)?, token, now)?;
    let left = claims.expires.duration_since(now)?;
    ensure!(left > Duration::from_secs(10), "{left:?} left");
    ensure!(
        claims.issuer.is_some_and(|issuer| !issuer.is_empty()),
        "no issuer"
    );
    let other = Key::parse("another key")?;
    ensure!(grip::signature::verify(&other, token, now).is_err());
    Ok(())
}

async fn on_websocket_requests(case: &Case) -> Result<()> {
    let asked = case.connect(&[("grip-sig", "a.b.c")]).await?;
    let request = case.script.next().await?;
    verify(&request)?;
    request.reply(Reply::open())?;
    let mut socket = asked.await??.accepted()?;
    socket.send("x").await?;
    let request = case.script.next().await?;
    request.expect(&[Event::text("x")])?;
    verify(&request)?;
    request.reply(Reply::nothing())
}

async fn on_http_requests(case: &Case) -> Result<()> {
    let asked = case.request("GET", &[("grip-sig", "a.b.c")], "").await?;
    let request = case.script.next().await?;
    verify(&request)?;
    request.reply(Reply::new(200))?;
    same("status", asked.await??.status, 200)
}
