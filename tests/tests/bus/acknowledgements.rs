//! Publish requests that wait until replicas have the items.

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use tests::{Proxy, Redis, Server, burger_without_timer};

use super::{next, publish, publish_until_accepted, start_with};

#[tokio::test(flavor = "multi_thread")]
async fn items_must_reach_a_replica() -> Result<()> {
    let master = Redis::start()?;
    let replication = Proxy::start(master.address).await?;
    let replica = Redis::start_replica(replication.address)?;
    replica.caught_up(&master).await?;
    let host = start_with(&(master.url() + "/1"), &["--bus-wait", "1"])?;
    let mut client = host.socket("/api/ws").await?;
    ensure!(publish(&host, "1").await?.status == 200);
    let items = replica.bus_command(&["KEYS", "*:items:orders"])?;
    ensure!(!items.is_empty());
    ensure!(next(&mut client).await? == "1");

    replication.cut();
    for _ in 0..2 {
        let refused = publish(&host, "2").await?;
        let text = "0 of 1 replicas of the bus have acknowledged the items";
        ensure!(
            refused.status == 503
                && refused.head.contains("retry-after: 1")
                && refused.body.contains(text),
            "{refused:?}"
        );
    }
    replication.switch_to(master.address);
    publish_until_accepted(&host, "2").await?;
    // It was delivered once.
    publish_until_accepted(&host, "3").await?;
    ensure!(next(&mut client).await? == "2");
    ensure!(next(&mut client).await? == "3");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_wait_at_the_same_time() -> Result<()> {
    let master = Redis::start()?;
    let replica = Redis::start_replica(master.address)?;
    replica.caught_up(&master).await?;
    let host = start_with(&(master.url() + "/1"), &["--bus-wait", "1"])?;
    let mut client = host.socket("/api/ws").await?;
    let ids: Vec<_> = (0..200).map(|id| format!("{id:03}")).collect();
    try_join_all(ids.iter().map(|id| publish_until_accepted(&host, id))).await?;
    let mut received = Vec::new();
    for _ in &ids {
        received.push(next(&mut client).await?);
    }
    received.sort();
    ensure!(received == ids);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connection_is_opened_again() -> Result<()> {
    let mut master = Redis::start()?;
    let replica = Redis::start_replica(master.address)?;
    replica.caught_up(&master).await?;
    let host = start_with(&(master.url() + "/1"), &["--bus-wait", "1"])?;
    for id in 1..=3 {
        publish_until_accepted(&host, &format!("a{id}")).await?;
        master.command(&["CLIENT", "KILL", "TYPE", "normal"])?;
        publish_until_accepted(&host, &format!("b{id}")).await?;
        master.stop()?;
        ensure!(publish(&host, &format!("c{id}")).await?.status == 503);
        master.restart()?;
    }
    publish_until_accepted(&host, "d").await
}

#[tokio::test]
async fn replicas_need_a_bus() -> Result<()> {
    let folder = burger_without_timer();
    let error = Server::start_error(folder.path(), &["--bus-wait", "1"])?;
    ensure!(
        error.contains("--bus-wait needs a bus: set --bus"),
        "{error}"
    );
    Ok(())
}
