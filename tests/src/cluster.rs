//! A Redis Cluster of child processes.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use crate::{Redis, TIMEOUT, address::free_address, redis::redis_cli};

/// The masters of a cluster. Each has a replica.
const MASTERS: usize = 3;

/// A running cluster. Killed on drop.
pub struct Cluster {
    /// The nodes, in no particular order.
    pub nodes: Vec<Redis>,
}

/// A line of `CLUSTER NODES`.
struct Node {
    id: String,
    port: u16,
    is_master: bool,
    /// The id of its master, or `-`.
    master: String,
    has_failed: bool,
    slots: Vec<(u16, u16)>,
}

impl Cluster {
    /// Starts a cluster, and waits until it serves all slots.
    pub fn start() -> Result<Self> {
        let nodes = (0..2 * MASTERS).map(|_| {
            let bus_port = free_address()?.port().to_string();
            Redis::start_with(&[
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                &bus_port,
                "--cluster-node-timeout",
                "1500",
                "--cluster-allow-replica-migration",
                "no",
            ])
        });
        let cluster = Self {
            nodes: nodes.collect::<Result<_>>()?,
        };
        let addresses: Vec<_> = cluster.addresses();
        let mut arguments = vec!["--cluster", "create"];
        arguments.extend(addresses.iter().map(String::as_str));
        arguments.extend(["--cluster-replicas", "1", "--cluster-yes"]);
        redis_cli(&arguments)?;
        let deadline = Instant::now() + TIMEOUT;
        while !cluster.is_complete()? {
            ensure!(Instant::now() < deadline, "the cluster is not complete");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Ok(cluster)
    }

    /// Returns the URL of the bus, with all nodes.
    pub fn bus(&self) -> String {
        format!("redis-cluster://{}", self.addresses().join(","))
    }

    fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|it| it.address.to_string()).collect()
    }

    /// Waits until the replica of a master has everything that it has.
    pub async fn replicated(&self, master: usize) -> Result<()> {
        let master = &self.nodes[master];
        let nodes = parse_nodes(self.running()?)?;
        let port = master.address.port();
        let master_node = nodes.iter().find(|it| it.port == port);
        let id = &master_node.context("no node")?.id;
        let replica = nodes.iter().find(|it| it.master == *id);
        let replica = self.index(replica.context("no replica")?)?;
        self.nodes[replica].caught_up(master).await
    }

    /// Returns whether all nodes know that all slots are served.
    fn is_complete(&self) -> Result<bool> {
        for node in &self.nodes {
            let info = node.command(&["CLUSTER", "INFO"])?;
            if !info.contains("cluster_state:ok") {
                return Ok(false);
            }
            let masters = parse_nodes(node)?.iter().filter(|it| it.is_master).count();
            if masters != MASTERS {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns the slot of a key.
    pub fn slot(&self, key: &str) -> Result<u16> {
        let slot = self.running()?.command(&["CLUSTER", "KEYSLOT", key])?;
        Ok(slot.parse()?)
    }

    /// Returns the index of the master that serves a slot.
    pub fn master_of(&self, slot: u16) -> Result<usize> {
        let nodes = parse_nodes(self.running()?)?;
        let serves = |node: &Node| {
            let mut slots = node.slots.iter();
            node.is_master
                && !node.has_failed
                && slots.any(|(first, last)| (*first..=*last).contains(&slot))
        };
        let node = nodes.iter().find(|it| serves(it)).context("no master")?;
        self.index(node)
    }

    /// Moves a slot with its keys from one master to another.
    pub fn move_slot(&self, slot: u16, target: usize) -> Result<()> {
        let source = self.master_of(slot)?;
        let nodes = parse_nodes(self.running()?)?;
        let id = |index: usize| -> Result<&str> {
            let port = self.nodes[index].address.port();
            let node = nodes.iter().find(|it| it.port == port);
            Ok(&node.context("no node")?.id)
        };
        let slot = slot.to_string();
        let set = |index: usize, state: &str, id: &str| {
            self.nodes[index].command(&["CLUSTER", "SETSLOT", &slot, state, id])
        };
        set(target, "IMPORTING", id(source)?)?;
        set(source, "MIGRATING", id(target)?)?;
        let target_port = self.nodes[target].address.port().to_string();
        let deadline = Instant::now() + TIMEOUT;
        loop {
            ensure!(Instant::now() < deadline, "the slot cannot be moved");
            let keys = ["CLUSTER", "GETKEYSINSLOT", &slot, "100"];
            let keys = self.nodes[source].command(&keys)?;
            if keys.is_empty() {
                break;
            }
            let mut migrate = vec![
                "MIGRATE",
                "127.0.0.1",
                &target_port,
                "",
                "0",
                "5000",
                "KEYS",
            ];
            migrate.extend(keys.lines());
            self.nodes[source].command(&migrate)?;
        }
        set(target, "NODE", id(target)?)?;
        set(source, "NODE", id(target)?)?;
        Ok(())
    }

    /// Returns a master other than those that serve a slot.
    pub fn other_master(&self, slot: u16) -> Result<usize> {
        let owner = self.master_of(slot)?;
        let nodes = parse_nodes(self.running()?)?;
        let masters = nodes.iter().filter(|it| it.is_master && !it.has_failed);
        for master in masters {
            let index = self.index(master)?;
            if index != owner {
                return Ok(index);
            }
        }
        anyhow::bail!("no other master")
    }

    fn index(&self, node: &Node) -> Result<usize> {
        let mut nodes = self.nodes.iter();
        let index = nodes.position(|it| it.address.port() == node.port);
        index.context("an unknown node")
    }

    fn running(&self) -> Result<&Redis> {
        let mut nodes = self.nodes.iter();
        nodes.find(|it| it.is_running()).context("no node runs")
    }
}

fn parse_nodes(redis: &Redis) -> Result<Vec<Node>> {
    let nodes = redis.command(&["CLUSTER", "NODES"])?;
    nodes.lines().map(parse_node).collect()
}

fn parse_node(line: &str) -> Result<Node> {
    let fields: Vec<_> = line.split(' ').collect();
    let [id, address, flags, master, ..] = *fields else {
        anyhow::bail!("unexpected line {line:?}");
    };
    let (address, _) = address.split_once('@').context("no cluster port")?;
    let (_, port) = address.rsplit_once(':').context("no port")?;
    let slots = fields.iter().skip(8).filter(|it| !it.starts_with('['));
    let slots = slots.map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Ok((first.parse()?, last.parse()?))
    });
    Ok(Node {
        id: id.to_owned(),
        port: port.parse()?,
        is_master: flags.contains("master"),
        master: master.to_owned(),
        has_failed: flags.contains("fail"),
        slots: slots.collect::<Result<_>>()?,
    })
}
