//! Frames that components send by tokens.

use anyhow::{Result, ensure};
use tests::{Server, eventually, typed};

use crate::{ask, text};

#[tokio::test]
async fn any_call_can_send_to_any_websocket() -> Result<()> {
    let folder = typed("");
    let host = Server::start(folder.path(), &[])?;
    let mut first = host.socket("/").await?;
    let mut second = host.socket("/").await?;
    let token = ask(&mut first, "token").await?;
    ensure!(ask(&mut second, &format!("send {token} hello")).await? == "sent");
    ensure!(text(&mut first).await? == "hello");
    ensure!(ask(&mut second, &format!("join {token} room")).await? == "Ok(())");
    second.send("publish room news").await?;
    ensure!(text(&mut first).await? == "news");
    Ok(())
}

#[tokio::test]
async fn a_request_can_send_to_a_websocket() -> Result<()> {
    let folder = typed("");
    let host = Server::start(folder.path(), &[])?;
    let mut client = host.socket("/").await?;
    let token = ask(&mut client, "token").await?;
    ensure!(host.get(&format!("/notify?{token}")).await? == (200, "sent".into()));
    ensure!(text(&mut client).await? == "from a request");
    Ok(())
}

#[tokio::test]
async fn names_and_messages_have_limits() -> Result<()> {
    let folder = typed("");
    let host = Server::start(folder.path(), &[])?;
    let mut client = host.socket("/").await?;
    let token = ask(&mut client, "token").await?;
    let longest = "c".repeat(1024);
    ensure!(ask(&mut client, &format!("join {token} {longest}")).await? == "Ok(())");
    for name in ["", &format!("{longest}c")] {
        let joined = ask(&mut client, &format!("join {token} {name}")).await?;
        ensure!(joined.contains("of 1 to 1024 bytes"), "{joined}");
    }
    client.send(&format!("publish {longest}c x")).await?;
    let refused = text(&mut client).await?;
    ensure!(refused.contains("of 1 to 1024 bytes"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn a_result_can_be_taken_once() -> Result<()> {
    let folder = typed("");
    let host = Server::start(folder.path(), &[])?;
    let mut client = host.socket("/").await?;
    ensure!(ask(&mut client, "future").await? == "one");
    ensure!(text(&mut client).await? == "sent taken");
    Ok(())
}

#[tokio::test]
async fn a_token_ends_with_its_websocket() -> Result<()> {
    let folder = typed("");
    let host = Server::start(folder.path(), &[])?;
    let mut other = host.socket("/").await?;
    let mut client = host.socket("/").await?;
    let token = ask(&mut client, "token").await?;
    ensure!(
        token.len() == 43 && !token.contains(['+', '/', '=']),
        "{token}"
    );
    client.send("close 1000 done").await?;
    ensure!(client.closed().await? == Some(1000));
    drop(client);
    eventually("the end of the token", async || {
        let sent = ask(&mut other, &format!("send {token} hello")).await.ok()?;
        (sent == "connection-lost").then_some(())
    })
    .await?;
    let joined = ask(&mut other, &format!("join {token} room")).await?;
    ensure!(joined == "Err(Error::ConnectionLost)", "{joined}");
    // Nothing that a client could guess is a token.
    for token in [
        "",
        "x",
        "AAAAAAAAAAAAAAAAAAAAAA",
        &"A".repeat(43),
        &"A".repeat(1000),
    ] {
        let sent = ask(&mut other, &format!("send {token} hello")).await?;
        ensure!(sent == "connection-lost", "{token}: {sent}");
    }
    Ok(())
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed() -> Result<()> {
    let folder = typed("");
    let host = Server::start(folder.path(), &[])?;
    let mut client = host.socket("/").await?;
    client.send("flood 100000").await?;
    host.wait_for_log(&["client does not keep up"]).await?;
    let mut other = host.socket("/").await?;
    ensure!(ask(&mut other, "still").await? == "still");
    Ok(())
}
