//! A master that sentinels watch, and replace by its replica.

use anyhow::{Context as _, Result, ensure};
use tests::{MASTER, Redis, eventually};

use super::{Host, deliver_to_all, publish_until_accepted, start};

/// A master, its replica, and the sentinels that watch them.
struct Watched {
    servers: Vec<Redis>,
    sentinels: Vec<Redis>,
}

impl Watched {
    async fn start() -> Result<Self> {
        let master = Redis::start()?;
        let replica = Redis::start_replica(master.address)?;
        replica.caught_up(&master).await?;
        let sentinels = (0..3).map(|_| Redis::start_sentinel(master.address, 2));
        let sentinels: Vec<_> = sentinels.collect::<Result<_>>()?;
        let watched = Self {
            servers: vec![master, replica],
            sentinels,
        };
        for sentinel in &watched.sentinels {
            eventually("the sentinels", async || {
                let state = sentinel.command(&["SENTINEL", "MASTER", MASTER]).ok()?;
                let lines: Vec<_> = state.lines().collect();
                let has = |name, count| lines.windows(2).any(|pair| pair == [name, count]);
                (has("num-slaves", "1") && has("num-other-sentinels", "2")).then_some(())
            })
            .await?;
        }
        Ok(watched)
    }

    fn bus(&self) -> String {
        let addresses = self.sentinels.iter().map(|it| it.address.to_string());
        let addresses: Vec<_> = addresses.collect();
        format!("redis-sentinel://{}/{MASTER}/1", addresses.join(","))
    }

    /// Returns the index of the server that a sentinel names as the master.
    fn master(&self) -> Result<usize> {
        let address =
            self.sentinels[0].command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER])?;
        let is_master = |it: &Redis| address.ends_with(&it.address.port().to_string());
        let index = self.servers.iter().position(is_master);
        index.context("an unknown master")
    }

    async fn has_master(&self, index: usize) -> Result<()> {
        eventually("the failover", async || {
            (self.master().ok()? == index).then_some(())
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_follow_the_master_that_sentinels_name() -> Result<()> {
    let mut watched = Watched::start().await?;
    let bus = watched.bus();
    let hosts: [Host; 2] = [start(&bus)?, start(&bus)?];
    let mut clients = [
        hosts[0].socket("/api/ws").await?,
        hosts[1].socket("/api/ws").await?,
    ];
    let mut deliver = async |ids: std::ops::RangeInclusive<u32>| {
        deliver_to_all(&hosts[0], &mut clients, ids).await
    };
    deliver(1..=10).await?;
    watched.servers[1].caught_up(&watched.servers[0]).await?;
    // The master dies.
    watched.servers[0].stop()?;
    deliver(11..=20).await?;
    watched.has_master(1).await?;
    // It comes back as a replica, and takes over.
    watched.servers[0].restart()?;
    eventually("the replica", async || {
        let info = watched.servers[0].command(&["INFO", "replication"]).ok()?;
        info.contains("role:slave").then_some(())
    })
    .await?;
    watched.servers[0].caught_up(&watched.servers[1]).await?;
    eventually("the start of the failover", async || {
        let command = ["SENTINEL", "FAILOVER", MASTER];
        let reply = watched.sentinels[0].command(&command).ok()?;
        (reply == "OK").then_some(())
    })
    .await?;
    watched.has_master(0).await?;
    deliver(21..=30).await?;
    // One sentinel is enough to find it.
    for sentinel in &mut watched.sentinels[..2] {
        sentinel.stop()?;
    }
    watched.servers[0].command(&["CLIENT", "KILL", "TYPE", "pubsub"])?;
    let late = start(&bus)?;
    publish_until_accepted(&late, "31").await?;
    deliver(31..=40).await
}

#[tokio::test]
async fn an_unknown_master_is_an_error_at_the_start() -> Result<()> {
    let redis = Redis::start()?;
    let sentinel = Redis::start_sentinel(redis.address, 1)?;
    let folder = tests::burger_without_timer();
    for (bus, problem) in [
        (
            format!("redis-sentinel://{}/other/1", sentinel.address),
            "--bus: cannot use Redis at other of",
        ),
        (
            format!("redis-sentinel://{}", sentinel.address),
            "expected the name of the master",
        ),
    ] {
        let error = tests::Server::start_error(folder.path(), &["--bus", &bus])?;
        ensure!(error.contains(problem), "{error}");
    }
    Ok(())
}
