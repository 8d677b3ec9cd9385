//! Three hosts behind nginx, and clients that receive every order once and in order, whatever happens
//! to the hosts and to Redis.

use std::{net::SocketAddr, time::Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use tempfile::TempDir;
use tests::{Nginx, Proxy, Redis, Server, eventually, free_address, kitchen, kitchen_command};
use tokio::task::block_in_place;

use self::{
    client::Client,
    fault::{Fault, Step, steps},
    published::Published,
};

mod client;
mod fault;
mod published;

const HOSTS: usize = 3;
const CLIENTS: usize = 300;

/// How many orders follow each step.
const NEW_ORDERS: u64 = 20;

/// A host that can be started again.
struct Host {
    address: SocketAddr,
    folder: TempDir,
    /// Its connections to the bus.
    bus: Proxy,
    /// `None` while it does not run.
    server: Option<Server>,
}

impl Host {
    async fn start(redis: &Redis, store: &Proxy) -> Result<Self> {
        let mut host = Self {
            address: free_address()?,
            folder: kitchen(store.address, "30ms..70ms")?,
            bus: Proxy::start(redis.address).await?,
            server: None,
        };
        host.restart()?;
        Ok(host)
    }

    /// Starts the host at its address.
    fn restart(&mut self) -> Result<()> {
        let command = kitchen_command(self.folder.path(), self.bus.address);
        let listen = self.address.to_string();
        // The proxy must not wait meanwhile.
        let server = block_in_place(|| Server::run(command, &["--listen", &listen]))?;
        self.server = Some(server);
        Ok(())
    }

    fn server(&self) -> Result<&Server> {
        self.server.as_ref().context("the host does not run")
    }
}

/// Hosts with one Redis server behind nginx, and their clients.
struct Fleet {
    hosts: Vec<Host>,
    clients: Vec<Client>,
    redis: Redis,
    replica: Redis,
    /// The connections of all hosts to the orders.
    store: Proxy,
    _nginx: Nginx,
}

impl Fleet {
    async fn start() -> Result<Self> {
        let (redis, replica) = (Redis::start()?, Redis::start()?);
        replica.replicate(Some(&redis))?;
        let store = Proxy::start(redis.address).await?;
        let mut hosts = Vec::new();
        for _ in 0..HOSTS {
            hosts.push(Host::start(&redis, &store).await?);
        }
        let addresses: Vec<_> = hosts.iter().map(|host| host.address).collect();
        let nginx = Nginx::start(&addresses)?;
        let clients = (0..CLIENTS).map(|_| Client::start(nginx.address));
        Ok(Self {
            clients: clients.collect(),
            hosts,
            redis,
            replica,
            store,
            _nginx: nginx,
        })
    }

    async fn begin(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::RestartRedis => self.redis.stop(),
            Fault::StallRedis => self.redis.signal(Signal::STOP),
            Fault::Failover => self.promote().await,
            // Redis may not respond yet.
            Fault::KillSubscribers => Ok(()),
            Fault::StallBus(host) => {
                self.hosts[host].bus.stall();
                Ok(())
            }
            Fault::KillHost(host) => {
                self.hosts[host].server = None;
                Ok(())
            }
            Fault::StopHost(host) => self.hosts[host].server()?.signal(Signal::TERM),
        }
    }

    async fn end(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::RestartRedis => self.redis.restart(),
            Fault::StallRedis => self.redis.signal(Signal::CONT),
            Fault::Failover => {
                for proxy in self.hosts.iter().map(|host| &host.bus).chain([&self.store]) {
                    proxy.cut();
                    proxy.switch_to(self.redis.address);
                }
                Ok(())
            }
            Fault::KillSubscribers => {
                let kill = ["CLIENT", "KILL", "TYPE", "pubsub"];
                self.redis.command(&kill).map(drop)
            }
            Fault::StallBus(_) => Ok(()),
            Fault::KillHost(host) => self.hosts[host].restart(),
            Fault::StopHost(host) => {
                let server = self.hosts[host].server.take();
                let exit = server.context("the host does not run")?.wait().await?;
                ensure!(exit == Some(0), "exit code {exit:?}");
                self.hosts[host].restart()
            }
        }
    }

    /// Promotes the replica once it has everything. The connections still lead to the former master.
    async fn promote(&mut self) -> Result<()> {
        eventually("a replica to promote", async || {
            let answer = self.redis.command(&["FAILOVER"]).ok()?;
            (answer == "OK").then_some(())
        })
        .await?;
        eventually("the promotion", async || {
            let role = self.replica.command(&["ROLE"]).ok()?;
            role.starts_with("master").then_some(())
        })
        .await?;
        std::mem::swap(&mut self.redis, &mut self.replica);
        Ok(())
    }

    async fn run(&mut self, step: &Step) -> Result<()> {
        for fault in &step.faults {
            self.begin(*fault).await?;
        }
        tokio::time::sleep(step.outage).await;
        let mut faults = step.faults.clone();
        faults.sort_unstable();
        for fault in faults {
            self.end(fault).await?;
        }
        self.wait_for_new_orders().await
    }

    /// Prints the logs of the hosts that run.
    fn print_logs(&self) {
        for server in self.hosts.iter().filter_map(|host| host.server.as_ref()) {
            eprintln!("log of {}:\n{}", server.address, server.log_text());
        }
    }

    /// Waits until each client has received [`NEW_ORDERS`] that none has received yet.
    async fn wait_for_new_orders(&mut self) -> Result<()> {
        let mut newest = 0;
        for client in &mut self.clients {
            newest = newest.max(client.last().await?.unwrap_or(0));
        }
        self.wait_for_order(newest + NEW_ORDERS).await
    }

    /// Waits until each client has received this order or a later one.
    async fn wait_for_order(&mut self, id: u64) -> Result<()> {
        let what = format!("order {id}");
        for (index, client) in self.clients.iter_mut().enumerate() {
            let received = eventually(&what, async || match client.last().await {
                Ok(last) if last < Some(id) => None,
                other => Some(other),
            });
            let received = received.await.and_then(|last| last);
            received.with_context(|| format!("client {index}"))?;
        }
        Ok(())
    }
}

/// Lets faults happen, and checks what each client has received.
async fn run(seed: u64, rounds: usize) -> Result<()> {
    let mut fleet = Fleet::start().await?;
    let mut published = Published::default();
    fleet.wait_for_new_orders().await?;
    let started = Instant::now();
    for (number, step) in steps(seed, rounds).iter().enumerate() {
        let ran = fleet.run(step).await;
        if ran.is_err() {
            fleet.print_logs();
        }
        ran.with_context(|| format!("seed {seed}, step {number}: {step:?}"))?;
        published.update(&fleet.redis)?;
        eprintln!(
            "{:?}: {step:?}, {} orders",
            started.elapsed(),
            published.len()
        );
    }
    let last = published.last().context("no orders")?;
    fleet.wait_for_order(last).await?;
    let (mut resumed, mut unpublished) = (0, 0);
    for (index, client) in fleet.clients.iter().enumerate() {
        let score = client.score().await;
        published
            .check(&score)
            .with_context(|| format!("seed {seed}, client {index}: {score:?}"))?;
        resumed += score.resumed;
        unpublished = unpublished.max(score.fetched.len());
    }
    let orders = published.len();
    eprintln!(
        "seed {seed}: {orders} orders, {CLIENTS} clients, resumed {resumed} times, {unpublished} \
         orders not published"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_lose_nothing() -> Result<()> {
    run(1, 2).await
}

/// `FLEET_SEED` repeats a run.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes several minutes"]
async fn many_faults_lose_nothing() -> Result<()> {
    let seed = match std::env::var("FLEET_SEED") {
        Ok(seed) => seed.parse()?,
        Err(_) => rand::random(),
    };
    run(seed, 15).await
}
