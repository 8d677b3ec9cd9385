//! Several hosts with a bus: what one publishes reaches the clients of all, whatever happens to Redis.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::{
    Client, Redis, Response, Server, burger_without_timer, eventually, kitchen, kitchen_command,
};

mod acknowledgements;
mod cluster;
mod failover;
mod lost_data;
mod outages;
mod sentinel;

/// The longest pause of the timers when the host that calls them dies.
const LEASE: Duration = Duration::from_secs(10);

/// Hosts of Socket Burger that share a Redis server.
struct Hosts {
    hosts: Vec<Host>,
    redis: Redis,
}

/// A host of Socket Burger.
struct Host {
    server: Server,
    _folder: tempfile::TempDir,
}

impl std::ops::Deref for Host {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl Hosts {
    fn start(count: usize) -> Result<Self> {
        let redis = Redis::start()?;
        let url = redis.url() + "/1";
        let hosts = (0..count).map(|_| start(&url));
        Ok(Self {
            hosts: hosts.collect::<Result<_>>()?,
            redis,
        })
    }
}

fn start(bus: &str) -> Result<Host> {
    start_with(bus, &[])
}

fn start_with(bus: &str, options: &[&str]) -> Result<Host> {
    let folder = burger_without_timer();
    let options = [&["--bus", bus], options].concat();
    Ok(Host {
        server: Server::start(folder.path(), &options)?,
        _folder: folder,
    })
}

/// Publishes a message with an id.
async fn publish(host: &Server, id: &str) -> Result<Response> {
    let item = json!({"channel": "orders", "id": id, "ws-message": {"content": message(id)}});
    host.publish("", &json!({"items": [item]}).to_string())
        .await
}

/// Publishes until the host accepts it, as publishers do.
async fn publish_until_accepted(host: &Server, id: &str) -> Result<()> {
    eventually("the bus", async || {
        let response = publish(host, id).await.ok()?;
        (response.status == 200).then_some(())
    })
    .await
}

fn message(id: &str) -> String {
    json!({"event": "news", "detail": id}).to_string()
}

/// Returns the id of the next message, or the name of another event.
async fn next(client: &mut Client) -> Result<String> {
    let event = client.event().await?;
    let id = if event["event"] == "news" {
        &event["detail"]
    } else {
        &event["event"]
    };
    Ok(id.as_str().context("a text")?.to_owned())
}

/// Publishes these ids, and waits until the client has received each once, in order.
async fn deliver(
    publisher: &Server,
    client: &mut Client,
    ids: impl IntoIterator<Item = u32> + Clone,
) -> Result<()> {
    deliver_to_all(publisher, std::slice::from_mut(client), ids).await
}

/// Does the same for several clients.
async fn deliver_to_all(
    publisher: &Server,
    clients: &mut [Client],
    ids: impl IntoIterator<Item = u32> + Clone,
) -> Result<()> {
    for id in ids.clone() {
        publish_until_accepted(publisher, &id.to_string()).await?;
    }
    for client in clients {
        receives(client, ids.clone()).await?;
    }
    Ok(())
}

/// Waits for the event that follows missed items. No item comes before it.
async fn falls_back(client: &mut Client) -> Result<()> {
    let event = next(client).await?;
    ensure!(event == "reload", "{event}");
    Ok(())
}

async fn receives(client: &mut Client, ids: impl IntoIterator<Item = u32>) -> Result<()> {
    for expected in ids {
        let id = next(client).await?;
        ensure!(id == expected.to_string(), "{id}, expected {expected}");
    }
    Ok(())
}

#[tokio::test]
async fn items_of_all_hosts_have_one_order() -> Result<()> {
    const ITEMS: usize = 100;
    let Hosts { hosts, .. } = &Hosts::start(3)?;
    let mut clients = Vec::new();
    for host in hosts {
        for _ in 0..2 {
            clients.push(host.socket("/api/ws").await?);
        }
    }
    // Each item is published twice, to two hosts.
    let publish_from = async |index: usize| -> Result<()> {
        for number in 0..ITEMS {
            for publisher in [index, (index + 1) % 3] {
                let response = publish(&hosts[index], &format!("{publisher}-{number}")).await?;
                ensure!(response.status == 200, "{response:?}");
            }
        }
        Ok(())
    };
    tokio::try_join!(publish_from(0), publish_from(1), publish_from(2))?;
    let mut first = Vec::new();
    for _ in 0..3 * ITEMS {
        first.push(next(&mut clients[0]).await?);
    }
    let mut sorted = first.clone();
    sorted.sort();
    sorted.dedup();
    ensure!(
        sorted.len() == 3 * ITEMS,
        "{} different items",
        sorted.len()
    );
    for client in &mut clients[1..] {
        for expected in &first {
            ensure!(next(client).await? == *expected, "another order");
        }
    }
    // Nothing else follows.
    publish(&hosts[0], "last").await?;
    for client in &mut clients {
        ensure!(next(client).await? == "last");
    }
    Ok(())
}

#[tokio::test]
async fn hosts_receive_only_channels_that_they_have() -> Result<()> {
    let Hosts { hosts, redis, .. } = &Hosts::start(2)?;
    let subscribers = || -> Result<usize> {
        let channels = redis.command(&["PUBSUB", "CHANNELS", "*:messages:*:orders"])?;
        let count = redis.command(&["PUBSUB", "NUMSUB", channels.trim()])?;
        Ok(count
            .lines()
            .last()
            .unwrap_or("0")
            .trim()
            .parse()
            .unwrap_or(0))
    };
    ensure!(subscribers()? == 0);
    let _client = hosts[0].socket("/api/ws").await?;
    // The host subscribes before the handshake completes.
    ensure!(subscribers()? == 1);
    let _other = hosts[1].socket("/api/ws").await?;
    ensure!(subscribers()? == 2);
    Ok(())
}

#[tokio::test]
async fn a_client_can_resume_at_another_host() -> Result<()> {
    let Hosts { hosts, .. } = &Hosts::start(2)?;
    let mut client = hosts[0].socket("/api/ws").await?;
    for id in 1..=3 {
        publish(&hosts[1], &id.to_string()).await?;
    }
    receives(&mut client, 1..=3).await?;
    drop(client);
    for id in 4..=6 {
        publish(&hosts[0], &id.to_string()).await?;
    }
    // This host had no client of the channel so far.
    let mut client = hosts[1].socket("/api/ws?after=3").await?;
    publish(&hosts[0], "7").await?;
    receives(&mut client, 4..=7).await
}

#[tokio::test]
async fn an_unusable_bus_is_an_error_at_the_start() -> Result<()> {
    let folder = burger_without_timer();
    for (url, problem) in [
        (
            "http://127.0.0.1:6379",
            "--bus: expected the URL of a Redis server",
        ),
        (
            "redis://127.0.0.1:9",
            "--bus: cannot use Redis at 127.0.0.1:9",
        ),
    ] {
        let error = Server::start_error(folder.path(), &["--bus", url])?;
        ensure!(error.contains(problem), "{error}");
    }
    let redis = Redis::start()?;
    let config = folder.path().join("runtime-config.toml");
    let url = redis.url();
    let store = format!("[key_value_store.default]\ntype = \"redis\"\nurl = \"{url}/1\"\n");
    std::fs::write(&config, store)?;
    let config = config.to_str().context("a path")?;
    let bus = url + "/1";
    let options = ["--bus", &bus, "--runtime-config-file", config];
    let error = Server::start_error(folder.path(), &options)?;
    ensure!(error.contains("same Redis database"), "{error}");
    Ok(())
}

/// Starts a host of Socket Burger whose orders are in Redis.
fn start_kitchen(redis: &Redis) -> Result<(Server, tempfile::TempDir)> {
    let folder = kitchen(redis.address, "50ms..100ms")?;
    let command = kitchen_command(folder.path(), redis.address);
    Ok((Server::run(command, &[])?, folder))
}

#[tokio::test]
async fn hosts_with_one_store_are_one_kitchen() -> Result<()> {
    let redis = Redis::start()?;
    let (first, _folder) = start_kitchen(&redis)?;
    let holder = || redis.bus_command(&["GET", "socket-host:{timers}:lease"]);
    let first_holder = eventually("the lease", async || {
        holder().ok().filter(|it| !it.is_empty())
    });
    let first_holder = first_holder.await?;
    let (second, _other_folder) = start_kitchen(&redis)?;
    let mut clients = [
        first.socket("/api/ws").await?,
        second.socket("/api/ws").await?,
    ];
    let mut ids = Vec::new();
    for client in &mut clients {
        let mut received = Vec::new();
        for _ in 0..20 {
            received.push(client.order().await?["id"].as_u64().context("an id")?);
        }
        // Each order once, and none is missing.
        let first = received[0];
        ensure!(
            received == (first..first + 20).collect::<Vec<_>>(),
            "{received:?}"
        );
        ids.push(received);
    }
    // The timer is called by the first host only, and by the other after that one has died.
    let runs = redis.bus_command(&["GET", "socket-host:{timers}:runs:/internal/orders"])?;
    ensure!(runs.parse::<u64>()? >= 20, "{runs}");
    ensure!(holder()? == first_holder);
    first.signal(rustix::process::Signal::KILL)?;
    let killed_at = Instant::now();
    let mut last = *ids[1].last().context("an id")?;
    let other_holder = eventually("another holder", async || {
        let holder = holder().ok()?;
        (!holder.is_empty() && holder != first_holder).then_some(())
    });
    other_holder.await?;
    let pause = killed_at.elapsed();
    ensure!(pause < LEASE * 2, "{pause:?}");
    // Those that were received in the meantime, and new ones. One may have been stored but not
    // published when the host was killed.
    for _ in 0..100 {
        let id = clients[1].order().await?["id"].as_u64().context("an id")?;
        ensure!((last + 1..=last + 2).contains(&id), "{id} after {last}");
        last = id;
    }
    Ok(())
}
