//! `Grip-Sig`: the token that authenticates the proxy to the backend.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use grip::{Event, Key};

use crate::{
    backend::{Reply, Request},
    case::{Case, cases, ensure_eq},
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
    let validity = claims.expires.duration_since(now)?;
    ensure!(validity > Duration::from_secs(10), "valid for {validity:?}");
    ensure!(
        claims.issuer.is_some_and(|issuer| !issuer.is_empty()),
        "no issuer"
    );
    let other = Key::parse("another key")?;
    ensure!(grip::signature::verify(&other, token, now).is_err());
    Ok(())
}

async fn on_websocket_requests(case: &Case) -> Result<()> {
    let pending = case.connect(&[("grip-sig", "a.b.c")]).await?;
    let request = case.script.next().await?;
    verify(&request)?;
    request.reply(Reply::open())?;
    let mut socket = pending.await??.accepted()?;
    socket.send("x").await?;
    let request = case.script.next().await?;
    request.expect(&[Event::text("x")])?;
    verify(&request)?;
    request.reply(Reply::nothing())
}

async fn on_http_requests(case: &Case) -> Result<()> {
    let pending = case.request("GET", &[("grip-sig", "a.b.c")], "").await?;
    let request = case.script.next().await?;
    verify(&request)?;
    request.reply(Reply::new(200))?;
    ensure_eq("status", pending.await??.status, 200)
}
