//! What the backend asks to be told again with each request: `Set-Meta-*` and `Meta-*`.

use anyhow::Result;
use grip::Event;

use crate::{
    backend::Reply,
    case::{Case, cases, same},
};

cases! {
    remembered
    replaced_and_forgotten
    not_from_the_client
}

async fn remembered(case: &Case) -> Result<()> {
    let reply = Reply::open()
        .header("set-meta-user", "ada")
        .header("set-meta-room", "a b c");
    let mut socket = case.open(reply).await?;
    for text in ["1", "2"] {
        socket.send(text).await?;
        let headers = case
            .exchange(&[Event::text(text)], Reply::nothing())
            .await?;
        same(
            "user",
            headers.get("meta-user").map(|value| value.as_bytes()),
            Some(&b"ada"[..]),
        )?;
        same(
            "room",
            headers.get("meta-room").map(|value| value.as_bytes()),
            Some(&b"a b c"[..]),
        )?;
    }
    Ok(())
}

async fn replaced_and_forgotten(case: &Case) -> Result<()> {
    let reply = Reply::open()
        .header("set-meta-user", "ada")
        .header("set-meta-room", "1");
    let mut socket = case.open(reply).await?;
    socket.send("1").await?;
    let reply = Reply::nothing()
        .header("set-meta-user", "bob")
        .header("set-meta-room", "");
    case.exchange(&[Event::text("1")], reply).await?;
    socket.send("2").await?;
    let headers = case.exchange(&[Event::text("2")], Reply::nothing()).await?;
    same(
        "user",
        headers.get("meta-user").map(|value| value.as_bytes()),
        Some(&b"bob"[..]),
    )?;
    same("room", headers.get("meta-room"), None)
}

async fn not_from_the_client(case: &Case) -> Result<()> {
    let asked = case.connect(&[("meta-user", "forged")]).await?;
    let request = case.script.next().await?;
    same("on OPEN", request.header("meta-user"), None)?;
    request.reply(Reply::open().header("set-meta-user", "ada"))?;
    let mut socket = asked.await??.accepted()?;
    socket.send("x").await?;
    let request = case.script.next().await?;
    same("later", request.header("meta-user"), Some("ada"))?;
    request.reply(Reply::nothing())
}
