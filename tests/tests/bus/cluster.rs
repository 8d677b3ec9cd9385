//! A bus that is a Redis Cluster.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use tests::{Client, Cluster, Server, burger_without_timer, eventually};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{Host, deliver_to_all, start};

/// Two hosts that share a cluster, and a client of each.
struct Setup {
    cluster: Cluster,
    hosts: Vec<Host>,
    clients: Vec<Client>,
}

impl Setup {
    async fn start() -> Result<Self> {
        let cluster = Cluster::start()?;
        let bus = cluster.bus();
        let hosts = vec![start(&bus)?, start(&bus)?];
        let mut clients = Vec::new();
        for host in &hosts {
            clients.push(host.socket("/api/ws").await?);
        }
        Ok(Self {
            cluster,
            hosts,
            clients,
        })
    }

    /// Publishes items at the first host. All clients receive each once, in order.
    async fn deliver(&mut self, ids: impl IntoIterator<Item = u32> + Clone) -> Result<()> {
        deliver_to_all(&self.hosts[0], &mut self.clients, ids).await
    }

    /// Returns the slot of the channel of the clients.
    fn slot(&self) -> Result<u16> {
        self.cluster.slot("{p4c}")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn items_reach_all_hosts() -> Result<()> {
    let mut setup = Setup::start().await?;
    setup.deliver(1..=50).await?;
    // They are sent only to nodes of the channel's shard.
    let master = setup.cluster.master_of(setup.slot()?)?;
    for (index, node) in setup.cluster.nodes.iter().enumerate() {
        let channels = node.command(&["PUBSUB", "SHARDCHANNELS", "*:messages:*:orders"])?;
        ensure!(
            channels.is_empty() != (index == master),
            "{index}: {channels}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_master_of_a_channel_dies() -> Result<()> {
    let mut setup = Setup::start().await?;
    setup.deliver(1..=10).await?;
    let slot = setup.slot()?;
    let master = setup.cluster.master_of(slot)?;
    setup.cluster.replicated(master).await?;
    setup.cluster.nodes[master].stop()?;
    setup.deliver(11..=30).await?;
    ensure!(setup.cluster.master_of(slot)? != master);
    setup.cluster.nodes[master].restart()?;
    setup.deliver(31..=40).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_connections_lose_nothing() -> Result<()> {
    let mut setup = Setup::start().await?;
    for round in 0..5 {
        for node in &setup.cluster.nodes {
            node.command(&["CLIENT", "KILL", "TYPE", "pubsub"])?;
        }
        setup.deliver(round * 20..(round + 1) * 20).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_a_channel_moves_to_another_node() -> Result<()> {
    let mut setup = Setup::start().await?;
    let slot = setup.slot()?;
    for round in 0..3 {
        setup.deliver(round * 20..round * 20 + 10).await?;
        let target = setup.cluster.other_master(slot)?;
        setup.cluster.move_slot(slot, target)?;
        setup.deliver(round * 20 + 10..(round + 1) * 20).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_of_all_nodes_have_subscribers() -> Result<()> {
    const CHANNELS: usize = 40;
    let mut cluster = Cluster::start()?;
    let backend = format!("http://{}", backend().await?);
    let bus = cluster.bus();
    let host = Server::in_front_of(&backend, &["--bus", &bus])?;
    let other = Server::in_front_of(&backend, &["--bus", &bus])?;
    let mut clients = Vec::new();
    for number in 0..CHANNELS {
        clients.push(host.socket(&format!("/channel-{number}")).await?);
    }
    let mut deliver = async |text: &str| -> Result<()> {
        for number in 0..CHANNELS {
            let channel = format!("channel-{number}");
            let item = json!({"channel": channel, "id": text, "ws-message": {"content": text}});
            let body = json!({"items": [item]}).to_string();
            eventually("the bus", async || {
                let response = other.publish("", &body).await.ok()?;
                (response.status == 200).then_some(())
            })
            .await?;
        }
        for client in &mut clients {
            let message = client.next().await?.context("the socket was closed")?;
            ensure!(message.to_text()? == text, "{message}, expected {text}");
        }
        Ok(())
    };
    deliver("first").await?;
    host.wait_for_metric("socket_host_bus{state=\"up\"} 1")
        .await?;
    let master = cluster.master_of(0)?;
    cluster.replicated(master).await?;
    cluster.nodes[master].stop()?;
    deliver("second").await?;
    host.wait_for_metric("socket_host_bus{state=\"up\"} 1")
        .await?;
    cluster.nodes[master].restart()?;
    deliver("third").await
}

/// Starts a backend that subscribes each WebSocket to the channel that its path names.
async fn backend() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    Ok(address)
}

/// Answers one request of WebSocket-over-HTTP.
async fn answer(mut stream: TcpStream) -> Result<()> {
    let mut request = String::new();
    while !request.contains("\r\n\r\n") {
        let mut bytes = [0; 4096];
        let count = stream.read(&mut bytes).await?;
        if count == 0 {
            bail!("the request ends early");
        }
        request += std::str::from_utf8(&bytes[..count])?;
    }
    let path = request.split(' ').nth(1).context("no path")?;
    let channel = path.trim_start_matches('/');
    let is_missed = request.to_lowercase().contains("\r\ngrip-last:");
    let event = if is_missed {
        "m:missed".to_owned()
    } else {
        format!("c:{}", json!({"type": "subscribe", "channel": channel}))
    };
    let open = if is_missed { "" } else { "OPEN\r\n" };
    let body = format!("{open}TEXT {:X}\r\n{event}\r\n", event.len());
    let response = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/websocket-events\r\n\
         Sec-WebSocket-Extensions: grip\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(response.as_bytes()).await?;
    Ok(())
}

#[tokio::test]
async fn unsupported_options_are_errors() -> Result<()> {
    let folder = burger_without_timer();
    let options: [(&[&str], &str); 2] = [
        (
            &["--bus", "redis-cluster://127.0.0.1:7000/1"],
            "a cluster has only the database 0",
        ),
        (
            &["--bus", "redis-cluster://127.0.0.1:7000", "--bus-wait", "1"],
            "--bus-wait does not work with a cluster",
        ),
    ];
    for (options, problem) in options {
        let error = Server::start_error(folder.path(), options)?;
        ensure!(error.contains(problem), "{error}");
    }
    Ok(())
}
