//! An unreachable or restarting backend. These cases use their own proxy.

use std::time::Duration;

use anyhow::Result;
use grip::Event;
use tests::free_address;

use crate::{
    backend::{Backend, Reply},
    case::{Case, cases, ensure_eq},
    client,
    proxy::Proxy,
};

cases! {
    http
    open
    retried
}

async fn http(case: &Case) -> Result<()> {
    let proxy = case.start_proxy(free_address()?).await?;
    let request = client::request("GET", "/", &[], "")?;
    ensure_eq(
        "status",
        client::send(proxy.public, request).await?.status,
        502,
    )
}

async fn open(case: &Case) -> Result<()> {
    let proxy = case.start_proxy(free_address()?).await?;
    let pending = case.connect_to(proxy.public, &[])?;
    ensure_eq("status", pending.await??.refused()?.status, 502)
}

/// Messages sent while the backend restarts are delivered once and in order.
async fn retried(case: &Case) -> Result<()> {
    let backend = Backend::start().await?;
    let script = backend.script(case.channel());
    let address = backend.address();
    let proxy: Proxy = case.start_proxy(address).await?;
    let pending = case.connect_to(proxy.public, &[])?;
    script
        .next()
        .await?
        .reply(Reply::open().header("set-meta-user", "ada"))?;
    let mut socket = pending.await??.accepted()?;
    backend.stop().await?;
    drop(script);
    // Time for the proxy to notice.
    case.settle().await;
    socket.send("1").await?;
    socket.send("2").await?;
    // The first attempts fail; the next follows after 1 to 2 s.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let backend = Backend::start_at(address).await?;
    let script = backend.script(case.channel());
    let mut events = Vec::new();
    while events.len() < 2 {
        let request = script.next().await?;
        ensure_eq("user", request.header("meta-user"), Some("ada"))?;
        events.extend(request.events()?);
        request.reply(Reply::events(&[Event::text("yes")]))?;
        socket.expect("yes").await?;
    }
    ensure_eq("events", events, ["1", "2"].map(Event::text).to_vec())
}
