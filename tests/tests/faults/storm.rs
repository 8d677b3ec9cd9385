//! All clients lose their connection at once, and come back.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::future::{join_all, try_join_all};
use rand::RngExt as _;
use tests::{Client, Server, burger};

/// A client that must receive each order once, and in order.
struct Guest {
    socket: Option<Client>,
    /// The id of the last order, and that of its message.
    last: (u64, String),
}

impl Guest {
    /// Opens a WebSocket and receives an order.
    async fn join(host: &Server) -> Result<Self> {
        let mut socket = open(host, "/api/ws").await?.0;
        let last = ids(&socket.order().await?)?;
        Ok(Self {
            socket: Some(socket),
            last,
        })
    }

    /// Opens a WebSocket after a delay, and receives what follows the last order. Returns the number
    /// of attempts.
    async fn come_back(&mut self, host: &Server, delay: Duration) -> Result<usize> {
        tokio::time::sleep(delay).await;
        let path = format!("/api/ws?after={}", self.last.1);
        let (socket, attempts) = open(host, &path).await?;
        self.socket = Some(socket);
        self.receive(1).await?;
        Ok(attempts)
    }

    /// Receives a number of orders.
    async fn receive(&mut self, count: usize) -> Result<()> {
        let socket = self.socket.as_mut().context("no WebSocket")?;
        for _ in 0..count {
            let (id, message) = ids(&socket.order().await?)?;
            ensure!(id == self.last.0 + 1, "{id} after {}", self.last.0);
            self.last = (id, message);
        }
        Ok(())
    }
}

/// Opens a WebSocket, again and again while the host refuses. Returns the number of attempts.
async fn open(host: &Server, path: &str) -> Result<(Client, usize)> {
    for attempt in 1..=100 {
        match Client::open(host.address, path, &[]).await {
            Ok(client) => return Ok((client, attempt)),
            Err(refused) if refused.status.is_none_or(|status| status == 503) => {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Err(refused) => return Err(refused.error),
        }
    }
    anyhow::bail!("refused too often")
}

/// Returns the id of an order, and that of its message.
fn ids(order: &serde_json::Value) -> Result<(u64, String)> {
    let id = order["id"].as_u64().context("an id")?;
    let timestamp = order["timestamp"].as_str().context("a timestamp")?;
    Ok((id, format!("{id}-{timestamp}")))
}

/// Cuts all clients off at once, a number of times. Each comes back within `jitter`.
async fn storm(clients: usize, rounds: usize, jitter: Duration) -> Result<()> {
    let folder = burger("200ms");
    let host = Server::start(folder.path(), &["--quiet"])?;
    let mut guests = Vec::with_capacity(clients);
    while guests.len() < clients {
        let batch = (clients - guests.len()).min(200);
        guests.extend(try_join_all((0..batch).map(|_| Guest::join(&host))).await?);
    }
    println!("{clients} clients, jitter {jitter:?}");
    for round in 1..=rounds {
        for guest in &mut guests {
            // Without a close frame.
            guest.socket = None;
        }
        let cut = Instant::now();
        let returns = guests.iter_mut().map(|guest| {
            let delay = jitter.mul_f64(rand::rng().random::<f64>());
            let host = &host;
            async move {
                let attempts = guest.come_back(host, delay).await?;
                anyhow::Ok((attempts, cut.elapsed()))
            }
        });
        let mut times = Vec::with_capacity(clients);
        let mut attempts = 0;
        for returned in join_all(returns).await {
            let (tries, time) = returned?;
            attempts += tries;
            times.push(time);
        }
        times.sort();
        println!(
            "round {round}: half were back after {:?}, all after {:?}, with {attempts} handshakes",
            times[clients / 2],
            times[clients - 1]
        );
        try_join_all(guests.iter_mut().map(|guest| guest.receive(3))).await?;
    }
    let sessions = host.count("sessions").await?;
    ensure!(sessions as usize >= clients, "{sessions} sessions");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_are_cut_off_come_back_and_miss_nothing() -> Result<()> {
    for jitter in [Duration::ZERO, Duration::from_secs(1)] {
        storm(100, 2, jitter).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes some minutes"]
async fn thousands_come_back_and_miss_nothing() -> Result<()> {
    for jitter in [Duration::ZERO, Duration::from_secs(5)] {
        storm(2000, 10, jitter).await?;
    }
    Ok(())
}
