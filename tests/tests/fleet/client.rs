//! A client that keeps score of the orders that it receives, and reconnects and resumes as the page
//! does.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::FutureExt as _;
use serde_json::Value;
use tests::request;
use tokio::{
    sync::Mutex,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_tungstenite::tungstenite::Message;

/// The times of the page, in `client/src/reconnecting-socket.js` and `static/api.js`.
const OPEN_TIMEOUT: Duration = Duration::from_secs(6);
const PING_AFTER: Duration = Duration::from_secs(5);
const PONG_TIMEOUT: Duration = Duration::from_secs(4);
const FETCH_TIMEOUT: Duration = Duration::from_secs(8);

/// The longest pause before connecting again.
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// A client. It stops on drop.
pub struct Client {
    score: Arc<Mutex<Score>>,
    task: JoinHandle<Result<()>>,
}

/// What a client has seen.
#[derive(Clone, Debug, Default)]
pub struct Score {
    /// The newest order when the client first connected.
    pub first: u64,
    /// The orders that it has received, over all of its connections.
    pub received: Vec<u64>,
    /// The orders that it has fetched, because a later one arrived without them.
    pub fetched: BTreeSet<u64>,
    /// How often it has resumed.
    pub resumed: usize,
    /// How often it could not resume, and had to fetch.
    pub reloads: usize,
}

impl Client {
    /// Starts a client of the hosts behind `balancer`.
    pub fn start(balancer: SocketAddr) -> Self {
        let score = Arc::<Mutex<Score>>::default();
        let connection = Connection {
            balancer,
            score: score.clone(),
            position: None,
            complete_until: 0,
        };
        let task = tokio::spawn(connection.run());
        Self { score, task }
    }

    /// Returns the score so far.
    pub async fn score(&self) -> Score {
        self.score.lock().await.clone()
    }

    /// Returns the last order that was received.
    ///
    /// # Errors
    /// Fails if the client has received something that it should not.
    pub async fn last(&mut self) -> Result<Option<u64>> {
        if self.task.is_finished() {
            (&mut self.task).await??;
        }
        Ok(self.score.lock().await.received.last().copied())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Connection {
    balancer: SocketAddr,
    score: Arc<Mutex<Score>>,
    /// The id of the message with the last order.
    position: Option<String>,
    /// The last order before which none is missing.
    complete_until: u64,
}

impl Connection {
    /// Connects again and again. Ends only with an error.
    async fn run(mut self) -> Result<()> {
        loop {
            let path = match &self.position {
                Some(position) => format!("/api/ws?after={position}"),
                None => "/api/ws".to_owned(),
            };
            let open = tests::Client::open(self.balancer, &path, &[]).boxed();
            if let Ok(Ok(socket)) = timeout(OPEN_TIMEOUT, open).await {
                self.opened().await?;
                self.receive(socket).await?;
            }
            sleep(MAX_PAUSE.mul_f64(rand::random())).await;
        }
    }

    /// Fetches the latest orders, unless the connection resumes.
    async fn opened(&mut self) -> Result<()> {
        if self.position.is_some() {
            self.score.lock().await.resumed += 1;
            return Ok(());
        }
        let latest = self.fetch("").await?;
        self.complete_until = latest.last().copied().unwrap_or(99);
        self.score.lock().await.first = self.complete_until;
        Ok(())
    }

    /// Receives until the connection is lost.
    async fn receive(&mut self, mut socket: tests::Client) -> Result<()> {
        let mut is_pinged = false;
        loop {
            let silence = if is_pinged { PONG_TIMEOUT } else { PING_AFTER };
            match timeout(silence, socket.next()).await {
                Ok(Ok(Some(Message::Text(text)))) => self.handle(&text).await?,
                Ok(Ok(Some(Message::Ping(_) | Message::Pong(_)))) => {}
                Ok(_) => return Ok(()),
                Err(_) if is_pinged => return Ok(()),
                Err(_) => {
                    is_pinged = true;
                    if socket.send(r#"{"event":"ping"}"#).await.is_err() {
                        return Ok(());
                    }
                    continue;
                }
            }
            is_pinged = false;
        }
    }

    async fn handle(&mut self, text: &str) -> Result<()> {
        let event: Value = serde_json::from_str(text)?;
        match event["event"].as_str() {
            Some("pong") => Ok(()),
            Some("order-received") => self.handle_order(&event["detail"]["order"]).await,
            Some("reload") => {
                self.score.lock().await.reloads += 1;
                self.fetch_until(u64::MAX).await
            }
            _ => bail!("unexpected event: {text}"),
        }
    }

    async fn handle_order(&mut self, order: &Value) -> Result<()> {
        let id = order["id"].as_u64().context("an id")?;
        let timestamp = order["timestamp"].as_str().context("a timestamp")?;
        let last = self.score.lock().await.received.last().copied();
        ensure!(last < Some(id), "order {id} after {last:?}");
        if id > self.complete_until + 1 {
            self.fetch_until(id).await?;
        }
        self.complete_until = self.complete_until.max(id);
        self.position = Some(format!("{id}-{timestamp}"));
        self.score.lock().await.received.push(id);
        Ok(())
    }

    /// Fetches the missing orders before `end`.
    async fn fetch_until(&mut self, end: u64) -> Result<()> {
        let query = format!("?after={}", self.complete_until);
        let orders = self.fetch(&query).await?;
        let missing = orders.into_iter().filter(|id| *id < end);
        for id in missing {
            ensure!(
                id == self.complete_until + 1,
                "order {id} is fetched after {}",
                self.complete_until
            );
            self.complete_until = id;
            self.score.lock().await.fetched.insert(id);
        }
        ensure!(
            end == u64::MAX || self.complete_until + 1 == end,
            "the orders after {} are not stored",
            self.complete_until
        );
        Ok(())
    }

    /// Returns the ids of stored orders. Tries again until a host returns them.
    async fn fetch(&self, query: &str) -> Result<Vec<u64>> {
        let host = self.balancer;
        let bytes = format!("GET /api/orders{query} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let response = loop {
            let response = timeout(FETCH_TIMEOUT, request(host, &bytes)).await;
            match response {
                Ok(Ok(response)) if response.status == 200 => break response,
                _ => sleep(MAX_PAUSE.mul_f64(rand::random())).await,
            }
        };
        let body: Value = serde_json::from_str(&response.body)?;
        let orders = body["orders"].as_array().context("orders")?;
        let ids = orders.iter().map(|order| order["id"].as_u64());
        ids.collect::<Option<_>>()
            .with_context(|| format!("no ids in {body}"))
    }
}
