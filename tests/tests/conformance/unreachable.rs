//! A backend that is not there, or comes back. These cases have a proxy of their own.

use std::time::Duration;

use anyhow::Result;
use grip::Event;

use crate::{
    backend::{Backend, Reply},
    case::{Case, cases, same},
    client,
    proxy::{Proxy, free_address},
};

cases! {
    http
    open
    retried
}

async fn http(case: &Case) -> Result<()> {
    let proxy = case.own_proxy(free_address()?).await?;
    let request = client::request("GET", "/", &[], "")?;
    same(
        "status",
        client::send(proxy.public, request).await?.status,
        502,
    )
}

async fn open(case: &Case) -> Result<()> {
    let proxy = case.own_proxy(free_address()?).await?;
    let asked = case.connect_to(proxy.public, &[])?;
    same("status", asked.await??.refused()?.status, 502)
}

/// What a client says while the backend restarts arrives, once and in order.
async fn retried(case: &Case) -> Result<()> {
    let backend = Backend::start().await?;
    let script = backend.script(case.channel());
    let address = backend.address();
    let proxy: Proxy = case.own_proxy(address).await?;
    let asked = case.connect_to(proxy.public, &[])?;
    script
        .next()
        .await?
        .reply(Reply::open().header("set-meta-user", "ada"))?;
    let mut socket = asked.await??.accepted()?;
    backend.stop().await?;
    drop(script);
    // The proxy has heard of it.
    case.settle().await;
    socket.send("1").await?;
    socket.send("2").await?;
    // The first tries fail; the next comes after 1 to 2 s.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let backend = Backend::start_at(address).await?;
    let script = backend.script(case.channel());
    let mut events = Vec::new();
    while events.len() < 2 {
        let request = script.next().await?;
        same("user", request.header("meta-user"), Some("ada"))?;
        events.extend(request.events()?);
        request.reply(Reply::events(&[Event::text("yes")]))?;
        socket.expect("yes").await?;
    }
    same("events", events, ["1", "2"].map(Event::text).to_vec())
}
