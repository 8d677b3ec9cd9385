//! A replica is promoted. The hosts reach Redis by an address that then leads to it.

use anyhow::{Result, ensure};
use tests::{Client, Proxy, Redis};

use super::{
    Host, deliver, deliver_to_all, falls_back, next, publish_until_accepted, receives, start,
};

/// A master and its replica, two hosts, and a client of each. The first host reaches Redis by a proxy.
struct Setup {
    master: Redis,
    replica: Redis,
    /// In front of the master, for the replica.
    replication: Proxy,
    proxies: Vec<Proxy>,
    hosts: Vec<Host>,
    clients: Vec<Client>,
}

impl Setup {
    /// Starts it, and delivers the items 1 to 5 to all clients.
    async fn start() -> Result<Self> {
        let master = Redis::start()?;
        let replication = Proxy::start(master.address).await?;
        let replica = Redis::start_replica(replication.address)?;
        replica.caught_up(&master).await?;
        let (mut proxies, mut hosts, mut clients) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..2 {
            let proxy = Proxy::start(master.address).await?;
            let host = start(&proxy.bus())?;
            clients.push(host.socket("/api/ws").await?);
            proxies.push(proxy);
            hosts.push(host);
        }
        let mut setup = Self {
            master,
            replica,
            replication,
            proxies,
            hosts,
            clients,
        };
        setup.deliver(1..=5).await?;
        setup.replica.caught_up(&setup.master).await?;
        Ok(setup)
    }

    /// Publishes items at the first host. All clients receive them, and nothing else.
    async fn deliver(&mut self, ids: impl IntoIterator<Item = u32> + Clone) -> Result<()> {
        deliver_to_all(&self.hosts[0], &mut self.clients, ids).await
    }

    /// Promotes the replica, and lets new connections lead to it.
    fn promote(&self) -> Result<()> {
        self.replica.replicate(None)?;
        for proxy in &self.proxies {
            proxy.switch_to(self.replica.address);
        }
        Ok(())
    }

    /// Waits until all clients are notified of missed items, without having received a later one, and
    /// then receive items again, each once.
    async fn all_fall_back(&mut self) -> Result<()> {
        for client in &mut self.clients {
            falls_back(client).await?;
        }
        publish_until_accepted(&self.hosts[0], "1000").await?;
        for client in &mut self.clients {
            let mut last = 0;
            while last != 1000 {
                let id = next(client).await?.parse()?;
                ensure!(id > last, "{id} after {last}");
                last = id;
            }
        }
        self.deliver(1001..=1010).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_if_the_replica_had_everything() -> Result<()> {
    let mut setup = Setup::start().await?;
    setup.master.stop()?;
    setup.promote()?;
    setup.deliver(6..=50).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_was_demoted_is_left() -> Result<()> {
    let mut setup = Setup::start().await?;
    setup.promote()?;
    setup.master.replicate(Some(&setup.replica))?;
    // All connections are still open.
    setup.deliver(6..=20).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demoted_master_is_noticed_without_publishing_to_it() -> Result<()> {
    let mut setup = Setup::start().await?;
    setup.promote()?;
    let publisher = start(&(setup.replica.url() + "/1"))?;
    // A replica without a connection to its master forwards nothing to its subscribers.
    setup.master.command(&["REPLICAOF", "127.0.0.1", "9"])?;
    for id in 6..=20 {
        publish_until_accepted(&publisher, &id.to_string()).await?;
    }
    for client in &mut setup.clients {
        receives(client, 6..=20).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_learn_that_the_replica_lacks_items() -> Result<()> {
    let mut setup = Setup::start().await?;
    setup.replication.cut();
    setup.deliver(6..=8).await?;
    setup.master.stop()?;
    setup.promote()?;
    setup.all_fall_back().await
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_learn_that_the_offsets_of_lost_items_were_given_out_again() -> Result<()> {
    let mut setup = Setup::start().await?;
    setup.replication.cut();
    setup.deliver(6..=8).await?;
    for proxy in &setup.proxies {
        proxy.cut();
    }
    setup.master.stop()?;
    setup.replica.replicate(None)?;
    let publisher = start(&(setup.replica.url() + "/1"))?;
    // As many items as were lost, and one more.
    for id in 9..=12 {
        publish_until_accepted(&publisher, &id.to_string()).await?;
    }
    setup.promote()?;
    setup.all_fall_back().await
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_have_not_received_the_lost_items_learn_of_them() -> Result<()> {
    let mut setup = Setup::start().await?;
    setup.replication.cut();
    setup.proxies[1].cut();
    setup.hosts[1]
        .wait_for_metric("socket_host_bus{state=\"down\"} 1")
        .await?;
    deliver(&setup.hosts[0], &mut setup.clients[0], 6..=8).await?;
    setup.master.stop()?;
    setup.promote()?;
    setup.all_fall_back().await
}
