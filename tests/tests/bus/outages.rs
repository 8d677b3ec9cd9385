//! Redis or the connections to it are down for a while. Nothing is lost.

use anyhow::{Result, ensure};
use tests::{COMPONENT_PING, Proxy, Redis};

use super::{Hosts, deliver, publish, publish_until_accepted, receives, start};

#[tokio::test]
async fn nothing_is_lost_when_redis_restarts() -> Result<()> {
    let mut all = Hosts::start(2)?;
    let mut client = all.hosts[0].socket("/api/ws").await?;
    publish_until_accepted(&all.hosts[1], "1").await?;
    receives(&mut client, [1]).await?;
    all.redis.stop()?;
    let refused = publish(&all.hosts[1], "2").await?;
    ensure!(
        refused.status == 503 && refused.head.contains("retry-after: 1"),
        "{refused:?}"
    );
    all.hosts[0]
        .wait_for_metric("socket_host_bus{state=\"down\"} 1")
        .await?;
    ensure!(all.hosts[0].health().await?["bus"] == "down");
    // The host serves on, and subscribes when Redis is back.
    let mut late = all.hosts[0].socket("/api/ws?after=1").await?;
    late.send(COMPONENT_PING).await?;
    ensure!(late.event().await?["event"] == "pong");
    all.redis.restart()?;
    for id in 2..=20 {
        publish_until_accepted(&all.hosts[1], &id.to_string()).await?;
    }
    receives(&mut client, 2..=20).await?;
    receives(&mut late, 2..=20).await?;
    all.hosts[0]
        .wait_for_metric("socket_host_bus{state=\"up\"} 1")
        .await
}

#[tokio::test]
async fn killed_connections_lose_nothing() -> Result<()> {
    let Hosts { hosts, redis, .. } = &Hosts::start(2)?;
    let mut client = hosts[0].socket("/api/ws").await?;
    for id in 1..=200 {
        publish_until_accepted(&hosts[1], &id.to_string()).await?;
        if id % 20 == 0 {
            redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"])?;
        }
    }
    receives(&mut client, 1..=200).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_connection_is_replaced() -> Result<()> {
    let redis = Redis::start()?;
    let proxy = Proxy::start(redis.address).await?;
    let host = start(&proxy.bus())?;
    let other = start(&(redis.url() + "/1"))?;
    let mut client = host.socket("/api/ws").await?;
    deliver(&other, &mut client, [1]).await?;
    proxy.stall();
    deliver(&other, &mut client, 2..=5).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_was_cut_off_reads_what_it_has_missed() -> Result<()> {
    let redis = Redis::start()?;
    let proxy = Proxy::start(redis.address).await?;
    let host = start(&proxy.bus())?;
    let other = start(&(redis.url() + "/1"))?;
    let mut client = host.socket("/api/ws").await?;
    deliver(&other, &mut client, 1..=3).await?;
    proxy.cut();
    host.wait_for_metric("socket_host_bus{state=\"down\"} 1")
        .await?;
    ensure!(publish(&host, "refused").await?.status == 503);
    for id in 4..=50 {
        ensure!(publish(&other, &id.to_string()).await?.status == 200);
    }
    proxy.switch_to(redis.address);
    receives(&mut client, 4..=50).await?;
    deliver(&host, &mut client, 51..=60).await
}
