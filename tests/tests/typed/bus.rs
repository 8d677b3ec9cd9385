//! Tokens and channels of several hosts that share a bus.

use anyhow::{Result, ensure};
use tempfile::TempDir;
use tests::{Redis, Server, eventually, typed};

use crate::{ask, text};

/// Starts two hosts that share a bus, each with its folder.
fn two_hosts(redis: &Redis) -> Result<([TempDir; 2], [Server; 2])> {
    let url = redis.url() + "/1";
    let folders = [typed(""), typed("")];
    let start = |folder: &TempDir| Server::start(folder.path(), &["--bus", &url]);
    let hosts = [start(&folders[0])?, start(&folders[1])?];
    Ok((folders, hosts))
}

#[tokio::test]
async fn frames_cross_the_bus_in_order() -> Result<()> {
    let redis = Redis::start()?;
    let (_folders, [here, there]) = two_hosts(&redis)?;
    let mut near = here.socket("/").await?;
    let mut far = there.socket("/").await?;
    let token = ask(&mut far, "token").await?;
    for number in 0..50 {
        let sent = ask(&mut near, &format!("send {token} {number}")).await?;
        ensure!(sent == "sent", "{sent}");
    }
    for number in 0..50 {
        ensure!(text(&mut far).await? == number.to_string());
    }
    ensure!(ask(&mut near, &format!("join {token} room")).await? == "Ok(())");
    near.send("publish room everywhere").await?;
    ensure!(text(&mut far).await? == "everywhere");
    // Also once the WebSocket, and then its host, is gone.
    far.send("close 1000 done").await?;
    ensure!(far.closed().await? == Some(1000));
    eventually("the end of the token", async || {
        let sent = ask(&mut near, &format!("send {token} hello")).await.ok()?;
        (sent == "connection-lost").then_some(())
    })
    .await?;
    let mut far = there.socket("/").await?;
    let token = ask(&mut far, "token").await?;
    drop(there);
    let sent = ask(&mut near, &format!("send {token} hello")).await?;
    ensure!(sent == "connection-lost", "{sent}");
    Ok(())
}

#[tokio::test]
async fn without_a_bus_there_is_no_other_host() -> Result<()> {
    let folders = [typed(""), typed("")];
    let here = Server::start(folders[0].path(), &[])?;
    let there = Server::start(folders[1].path(), &[])?;
    let mut near = here.socket("/").await?;
    let mut far = there.socket("/").await?;
    let token = ask(&mut far, "token").await?;
    let sent = ask(&mut near, &format!("send {token} hello")).await?;
    ensure!(sent == "connection-lost", "{sent}");
    Ok(())
}

#[tokio::test]
async fn while_the_bus_is_down_this_host_works() -> Result<()> {
    let mut redis = Redis::start()?;
    let (_folders, [here, there]) = two_hosts(&redis)?;
    let mut near = here.socket("/").await?;
    let mut far = there.socket("/").await?;
    let own = ask(&mut near, "token").await?;
    let other = ask(&mut far, "token").await?;
    redis.stop()?;
    here.wait_for_log(&["bus: down"]).await?;
    let sent = ask(&mut near, &format!("send {other} hello")).await?;
    ensure!(sent == "connection-lost", "{sent}");
    let joined = ask(&mut near, &format!("join {other} room")).await?;
    ensure!(joined.contains("does not answer"), "{joined}");
    near.send("publish room x").await?;
    let published = text(&mut near).await?;
    ensure!(published.contains("the bus is down"), "{published}");
    near.send(&format!("send {own} to myself")).await?;
    ensure!(text(&mut near).await? == "to myself" && text(&mut near).await? == "sent");
    // Takes effect when the bus is back.
    ensure!(ask(&mut near, &format!("join {own} room")).await? == "Ok(())");
    redis.restart()?;
    here.wait_for_log(&["bus: connected"]).await?;
    ensure!(near.closed().await? == Some(1013));
    let mut again = here.socket("/").await?;
    ensure!(ask(&mut again, "subscribe room").await? == "subscribed to room");
    far.send("publish room back").await?;
    ensure!(text(&mut again).await? == "back");
    Ok(())
}
