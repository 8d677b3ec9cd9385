//! Redis has lost items. Clients are notified.

use anyhow::Result;

use super::{Hosts, next, publish, receives};

#[tokio::test]
async fn clients_learn_that_redis_has_lost_its_data() -> Result<()> {
    let Hosts { hosts, redis, .. } = &Hosts::start(2)?;
    let mut clients = [
        hosts[0].socket("/api/ws").await?,
        hosts[1].socket("/api/ws").await?,
    ];
    for id in 1..=3 {
        publish(&hosts[0], &id.to_string()).await?;
    }
    for client in &mut clients {
        receives(client, 1..=3).await?;
    }
    redis.command(&["FLUSHALL"])?;
    publish(&hosts[0], "4").await?;
    publish(&hosts[0], "5").await?;
    for client in &mut clients {
        // Items may be among what was missed.
        while next(client).await? != "reload" {}
    }
    publish(&hosts[1], "6").await?;
    for client in &mut clients {
        while next(client).await? != "6" {}
    }
    Ok(())
}
