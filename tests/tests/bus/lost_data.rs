//! Redis has lost items, or does not keep them any longer. Clients are notified, and receive no part of
//! what they have missed.

use anyhow::{Result, ensure};
use tests::{Client, Proxy, Redis, Server};

use super::{
    Host, Hosts, deliver, falls_back, next, publish, publish_until_accepted, receives, start,
};

/// A host whose connections to Redis can be cut, one without that, and a client of each.
struct Setup {
    redis: Redis,
    proxy: Proxy,
    host: Host,
    other: Host,
    client: Client,
    other_client: Client,
}

impl Setup {
    /// Starts it, and delivers the items 1 to 5 to both clients.
    async fn start() -> Result<Self> {
        let redis = Redis::start()?;
        let proxy = Proxy::start(redis.address).await?;
        let host = start(&proxy.bus())?;
        let other = start(&(redis.url() + "/1"))?;
        let mut client = host.socket("/api/ws").await?;
        let mut other_client = other.socket("/api/ws").await?;
        deliver(&other, &mut client, 1..=5).await?;
        receives(&mut other_client, 1..=5).await?;
        Ok(Self {
            redis,
            proxy,
            host,
            other,
            client,
            other_client,
        })
    }

    /// Cuts the connections of the host, and publishes the items 6 to 300 at the other one.
    async fn miss_items(&mut self) -> Result<()> {
        self.proxy.cut();
        self.host
            .wait_for_metric("socket_host_bus{state=\"down\"} 1")
            .await?;
        deliver(&self.other, &mut self.other_client, 6..=300).await
    }

    /// Waits until both clients are notified of missed items, and then receive items again.
    async fn all_fall_back(&mut self) -> Result<()> {
        falls_back(&mut self.client).await?;
        falls_back(&mut self.other_client).await?;
        goes_on(&self.host, &mut self.client).await?;
        goes_on(&self.host, &mut self.other_client).await
    }

    fn connect(&self) {
        self.proxy.switch_to(self.redis.address);
    }

    /// Runs a command of Redis for a key of the channel.
    fn command(&self, command: &[&str], kind: &str, arguments: &[&str]) -> Result<String> {
        let key = self.key(kind)?;
        self.redis
            .bus_command(&[command, &[&*key], arguments].concat())
    }

    fn key(&self, kind: &str) -> Result<String> {
        let pattern = format!("*:{kind}:orders");
        let key = self.redis.bus_command(&["KEYS", &pattern])?;
        ensure!(!key.is_empty(), "no {kind}");
        Ok(key)
    }
}

/// Waits until an item is delivered.
async fn goes_on(publisher: &Server, client: &mut Client) -> Result<()> {
    publish_until_accepted(publisher, "last").await?;
    while next(client).await? != "last" {}
    Ok(())
}

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

#[tokio::test(flavor = "multi_thread")]
async fn a_trimmed_stream_is_not_delivered_in_part() -> Result<()> {
    let mut setup = Setup::start().await?;
    setup.miss_items().await?;
    setup.command(&["XTRIM"], "items", &["MAXLEN", "10"])?;
    setup.connect();
    falls_back(&mut setup.client).await?;
    // Nobody else has missed anything.
    deliver(&setup.host, &mut setup.client, 301..=310).await?;
    receives(&mut setup.other_client, 301..=310).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evicted_stream_is_not_delivered_in_part() -> Result<()> {
    let mut setup = Setup::start().await?;
    setup.miss_items().await?;
    setup.command(&["DEL"], "items", &[])?;
    deliver(&setup.other, &mut setup.other_client, 301..=305).await?;
    setup.connect();
    falls_back(&mut setup.client).await?;
    deliver(&setup.host, &mut setup.client, 306..=310).await?;
    receives(&mut setup.other_client, 306..=310).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evicted_stream_does_not_matter_without_missed_items() -> Result<()> {
    let mut setup = Setup::start().await?;
    ensure!(setup.command(&["DEL"], "items", &[])? == "1");
    deliver(&setup.host, &mut setup.client, 6..=10).await?;
    receives(&mut setup.other_client, 6..=10).await
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_learn_that_a_position_was_evicted() -> Result<()> {
    let mut setup = Setup::start().await?;
    setup.command(&["DEL"], "position", &[])?;
    publish_until_accepted(&setup.other, "6").await?;
    setup.all_fall_back().await
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_learn_that_redis_has_evicted_keys() -> Result<()> {
    let mut setup = Setup::start().await?;
    let set = |name, value| setup.redis.command(&["CONFIG", "SET", name, value]);
    set("maxmemory-policy", "allkeys-random")?;
    set("maxmemory", "1")?;
    // Evicts all keys, and is refused.
    ensure!(setup.redis.command(&["SET", "a", "b"]).is_err());
    set("maxmemory", "0")?;
    publish_until_accepted(&setup.other, "6").await?;
    setup.all_fall_back().await
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_learn_that_redis_has_restarted_without_its_data() -> Result<()> {
    let mut setup = Setup::start().await?;
    setup.redis.stop()?;
    setup.redis.delete_data()?;
    setup.redis.restart()?;
    setup.all_fall_back().await
}

#[tokio::test(flavor = "multi_thread")]
async fn reissued_offsets_are_noticed_while_connections_stay_open() -> Result<()> {
    let mut setup = Setup::start().await?;
    // Takes the items 6 to 8 back, as a replica does that is promoted without them.
    let kinds = ["position", "items"];
    for kind in kinds {
        setup.command(&["COPY"], kind, &[&format!("copy-of-{kind}")])?;
    }
    deliver(&setup.other, &mut setup.client, 6..=8).await?;
    receives(&mut setup.other_client, 6..=8).await?;
    for kind in kinds {
        let key = setup.key(kind)?;
        let copy = format!("copy-of-{kind}");
        setup.redis.bus_command(&["COPY", &copy, &key, "REPLACE"])?;
    }
    publish_until_accepted(&setup.other, "9").await?;
    setup.all_fall_back().await
}
