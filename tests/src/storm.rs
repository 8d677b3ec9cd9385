//! A storm: many clients lose their connections at once, connect again at once, and resume.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_tungstenite::tungstenite::Message;

use crate::{Client, TIMEOUT, request};

/// The items that are published in a round, while clients are away and while they return.
const ITEMS: usize = 20;
const ITEM_PAUSE: Duration = Duration::from_millis(20);

/// The longest pause of a client after a handshake that failed.
const MAX_RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Clients that open for the first time at the same time.
const OPENING: usize = 64;

/// What the content of an item starts with, before its number.
const PREFIX: &str = "item ";

/// Clients of Socket Burger.
pub struct Storm {
    address: SocketAddr,
    control: SocketAddr,
    clients: Vec<Client>,
    /// Makes the ids of the items unique.
    run_id: u32,
    /// The number of the last item.
    last: usize,
}

/// What happened in a round, or in several.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The time from the cut until each client was connected again.
    pub connected: Vec<Duration>,
    /// The time from the cut until all clients had received everything.
    pub complete: Duration,
    /// The handshakes that failed. The clients have tried again.
    pub refused: usize,
    /// The items that a client has not received, or not in order.
    pub lost: usize,
}

impl Storm {
    /// Opens clients, which receive a first item.
    pub async fn start(address: SocketAddr, control: SocketAddr, clients: usize) -> Result<Self> {
        let mut storm = Self {
            address,
            control,
            clients: Vec::new(),
            run_id: rand::random(),
            last: 0,
        };
        while storm.clients.len() < clients {
            let count = OPENING.min(clients - storm.clients.len());
            let mut opening = JoinSet::new();
            for _ in 0..count {
                opening.spawn(async move { Client::open(address, "/api/ws", &[]).await });
            }
            for opened in opening.join_all().await {
                storm.clients.push(opened.map_err(|failed| failed.error)?);
            }
        }
        storm.publish(0).await?;
        for client in &mut storm.clients {
            while item(&client.next().await?.context("closed")?) != Some(0) {}
        }
        Ok(storm)
    }

    /// Cuts all clients, and waits until they are back and have received everything. Each waits for
    /// a part of `jitter` before it connects.
    pub async fn round(&mut self, jitter: Duration) -> Result<Outcome> {
        let first = self.last + 1;
        self.last += ITEMS;
        let count = self.clients.len();
        let cut = Instant::now();
        self.clients.clear();
        let mut returning = JoinSet::new();
        for _ in 0..count {
            let mut client = Returning {
                address: self.address,
                run_id: self.run_id,
                received: first - 1,
                end: self.last,
                outcome: Outcome::default(),
            };
            let pause = jitter.mul_f64(rand::random());
            returning.spawn(async move {
                sleep(pause).await;
                let socket = client.run(cut).await?;
                anyhow::Ok((socket, client.outcome))
            });
        }
        let publishing = async {
            for number in first..=self.last {
                self.publish(number).await?;
                sleep(ITEM_PAUSE).await;
            }
            anyhow::Ok(())
        };
        let (published, returned) = tokio::join!(publishing, returning.join_all());
        published?;
        let mut outcome = Outcome::default();
        for returned in returned {
            let (socket, of_client) = returned?;
            self.clients.push(socket);
            outcome.add(of_client);
        }
        Ok(outcome)
    }

    /// Publishes an item.
    async fn publish(&self, number: usize) -> Result<()> {
        let content = format!("{PREFIX}{number}");
        let item = json!({
            "channel": "orders",
            "id": id(self.run_id, number),
            "formats": {"ws-message": {"content": content}},
        });
        let body = json!({ "items": [item] }).to_string();
        let length = body.len();
        let bytes = format!(
            "POST /publish/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let response = request(self.control, &bytes).await?;
        ensure!(response.status == 200, "publishing: {response:?}");
        Ok(())
    }
}

impl Outcome {
    /// Adds the outcome of another round, or of a client.
    pub fn add(&mut self, other: Self) {
        self.connected.extend(other.connected);
        self.complete = self.complete.max(other.complete);
        self.refused += other.refused;
        self.lost += other.lost;
    }
}

/// A client that was cut.
struct Returning {
    address: SocketAddr,
    run_id: u32,
    /// The last item that it has received.
    received: usize,
    /// The last item that it must receive.
    end: usize,
    outcome: Outcome,
}

impl Returning {
    /// Connects and resumes until the last item has arrived.
    async fn run(&mut self, cut: Instant) -> Result<Client> {
        while cut.elapsed() < TIMEOUT {
            let path = format!("/api/ws?after={}", id(self.run_id, self.received));
            let Ok(mut socket) = Client::open(self.address, &path, &[]).await else {
                self.outcome.refused += 1;
                sleep(MAX_RETRY_PAUSE.mul_f64(rand::random())).await;
                continue;
            };
            if self.outcome.connected.is_empty() {
                self.outcome.connected.push(cut.elapsed());
            }
            let receiving = timeout(TIMEOUT, self.receive(&mut socket)).await;
            if receiving.context("an item is missing")? {
                self.outcome.complete = cut.elapsed();
                return Ok(socket);
            }
        }
        bail!("a client is not back after {TIMEOUT:?}")
    }

    /// Receives until the last item, and returns whether it has arrived before the connection ended.
    async fn receive(&mut self, socket: &mut Client) -> bool {
        while self.received < self.end {
            let Ok(Some(message)) = socket.next().await else {
                return false;
            };
            if let Some(number) = item(&message) {
                let is_next = number == self.received + 1;
                self.outcome.lost += usize::from(!is_next);
                self.received = number;
            } else if message
                .to_text()
                .is_ok_and(|text| text.contains("\"reload\""))
            {
                // The host could not resume.
                self.outcome.lost += self.end - self.received;
                self.received = self.end;
            }
        }
        true
    }
}

/// Returns the number of an item.
fn item(message: &Message) -> Option<usize> {
    message.to_text().ok()?.strip_prefix(PREFIX)?.parse().ok()
}

fn id(run_id: u32, number: usize) -> String {
    format!("storm-{run_id}-{number}")
}
