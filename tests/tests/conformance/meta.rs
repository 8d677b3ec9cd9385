//! `Set-Meta-*` and `Meta-*`: metadata that the proxy stores and returns with each request.

use anyhow::Result;
use grip::Event;

use crate::{
    backend::Reply,
    case::{Case, cases, ensure_eq},
};

cases! {
    stored
    replaced_and_removed
    not_from_the_client
}

async fn stored(case: &Case) -> Result<()> {
    let reply = Reply::open()
        .header("set-meta-user", "ada")
        .header("set-meta-room", "a b c");
    let mut socket = case.open(reply).await?;
    for text in ["1", "2"] {
        socket.send(text).await?;
        let headers = case
            .round_trip(&[Event::text(text)], Reply::nothing())
            .await?;
        ensure_eq(
            "user",
            headers.get("meta-user").map(|value| value.as_bytes()),
            Some(&b"ada"[..]),
        )?;
        ensure_eq(
            "room",
            headers.get("meta-room").map(|value| value.as_bytes()),
            Some(&b"a b c"[..]),
        )?;
    }
    Ok(())
}

async fn replaced_and_removed(case: &Case) -> Result<()> {
    let reply = Reply::open()
        .header("set-meta-user", "ada")
        .header("set-meta-room", "1");
    let mut socket = case.open(reply).await?;
    socket.send("1").await?;
    let reply = Reply::nothing()
        .header("set-meta-user", "bob")
        .header("set-meta-room", "");
    case.round_trip(&[Event::text("1")], reply).await?;
    socket.send("2").await?;
    let headers = case
        .round_trip(&[Event::text("2")], Reply::nothing())
        .await?;
    ensure_eq(
        "user",
        headers.get("meta-user").map(|value| value.as_bytes()),
        Some(&b"bob"[..]),
    )?;
    ensure_eq("room", headers.get("meta-room"), None)
}

async fn not_from_the_client(case: &Case) -> Result<()> {
    let pending = case.connect(&[("meta-user", "forged")]).await?;
    let request = case.script.next().await?;
    ensure_eq("on OPEN", request.header("meta-user"), None)?;
    request.reply(Reply::open().header("set-meta-user", "ada"))?;
    let mut socket = pending.await??.accepted()?;
    socket.send("x").await?;
    let request = case.script.next().await?;
    ensure_eq("later", request.header("meta-user"), Some("ada"))?;
    request.reply(Reply::nothing())
}
