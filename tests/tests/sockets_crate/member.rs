//! A client in a room.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tests::{Client, TIMEOUT};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

/// A client that speaks the subprotocol, and expects items without gaps.
pub struct Member {
    pub client: Client,
    /// The last item.
    pub last: Option<u64>,
    /// The channel of the room, once an item has arrived.
    channel: String,
    /// The data of all items.
    pub items: Vec<String>,
    /// The newest count, and its version.
    pub count: Option<(u64, u64)>,
    /// The number of times that the client had to ask for items.
    pub resumed: usize,
    /// The number of the last probe, see [`Place::join`](crate::place::Place::join).
    pub probe: Option<u64>,
}

impl Member {
    /// Joins a room. Returns the client and its first frame.
    pub async fn join(address: SocketAddr, room: &str) -> Result<(Self, Value)> {
        Self::connect(address, &format!("/?room={room}"), None).await
    }

    /// Comes back to a room with the last item of an earlier connection.
    pub async fn resume(address: SocketAddr, room: &str, last: u64) -> Result<(Self, Value)> {
        let path = format!("/?room={room}&resume={last},room:{room}");
        Self::connect(address, &path, Some(last)).await
    }

    async fn connect(address: SocketAddr, path: &str, last: Option<u64>) -> Result<(Self, Value)> {
        let headers = [("sec-websocket-protocol", "rooms.v1")];
        let client = Client::open(address, path, &headers).await;
        let mut member = Self {
            client: client.map_err(|failed| failed.error)?,
            last,
            channel: String::new(),
            items: Vec::new(),
            count: None,
            resumed: 0,
            probe: None,
        };
        let open = member.frame().await?;
        ensure!(open["$"] == "open", "the first frame is {open}");
        Ok((member, open))
    }

    /// Returns the next frame.
    pub async fn frame(&mut self) -> Result<Value> {
        loop {
            match self.client.next().await?.context("the socket was closed")? {
                Message::Text(text) => return Ok(serde_json::from_str(&text)?),
                Message::Ping(_) | Message::Pong(_) => {}
                other => bail!("unexpected {other:?}"),
            }
        }
    }

    /// Sends a message.
    pub async fn send(&mut self, text: &str) -> Result<()> {
        self.client.send(text).await
    }

    /// Handles the next frame as clients do: drops what it has, and asks for what is missing.
    pub async fn receive(&mut self) -> Result<()> {
        let frame = self.frame().await?;
        match frame["$"].as_str() {
            Some("item") => {
                let id = frame["id"].as_u64().context("an id")?;
                let channel = frame["channel"].as_str().context("a channel")?;
                self.channel = channel.to_owned();
                match self.last {
                    Some(last) if id <= last => {}
                    Some(last) if id > last + 1 => {
                        self.resumed += 1;
                        let resume = json!({"$": "resume", "channel": channel, "id": last});
                        self.send(&resume.to_string()).await?;
                    }
                    _ => {
                        self.last = Some(id);
                        let data = frame["data"].as_str().context("a text")?;
                        self.items.push(data.to_owned());
                    }
                }
            }
            Some("count") => {
                let number = |name: &str| frame[name].as_u64().context("a number");
                let (count, version) = (number("count")?, number("version")?);
                if self.count.is_none_or(|known| known.1 < version) {
                    self.count = Some((count, version));
                }
            }
            Some("reset") => self.last = None,
            Some("probe") => self.probe = frame["number"].as_u64(),
            _ => bail!("unexpected {frame}"),
        }
        Ok(())
    }

    /// Receives until there are this many items.
    pub async fn wait_for_items(&mut self, count: usize) -> Result<()> {
        self.receive_until(|member| member.items.len() >= count)
            .await
            .with_context(|| format!("waiting for {count} items, got {:?}", self.items.len()))
    }

    /// Receives until the count is this one.
    pub async fn wait_for_count(&mut self, count: u64) -> Result<()> {
        self.receive_until(|member| member.count.is_some_and(|known| known.0 == count))
            .await
            .with_context(|| format!("waiting for count {count}, got {:?}", self.count))
    }

    /// Receives until a condition holds. The host's pings do not extend the time.
    pub async fn receive_until(&mut self, condition: impl Fn(&Self) -> bool) -> Result<()> {
        let receiving = async {
            while !condition(self) {
                self.receive().await?;
            }
            Ok(())
        };
        timeout(TIMEOUT, receiving).await?
    }

    /// Returns the channel of the room.
    pub fn channel(&self) -> &str {
        &self.channel
    }
}
