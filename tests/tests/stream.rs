//! Orders as server-sent events: delivery once and in order, including after a reconnect.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tests::{Server, TIMEOUT, burger, eventually};
use tokio::{net::TcpStream, time::timeout};

/// A client of a held stream, like an `EventSource`.
struct Events {
    body: Incoming,
    text: String,
    /// Closes the connection on drop.
    _sender: http1::SendRequest<Empty<Bytes>>,
}

impl Events {
    async fn open(host: &Server, last: Option<u64>) -> Result<Self> {
        let tcp = TcpStream::connect(host.address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await?;
        tokio::spawn(connection);
        let mut request = Request::get("/api/orders/stream")
            .header("host", host.address.to_string())
            .header("accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = sender.send_request(request.body(Empty::new())?).await?;
        ensure!(response.status() == 200, "{response:?}");
        let has = |name: &str| response.headers().keys().any(|key| key.as_str() == name);
        ensure!(
            response.headers()["content-type"] == "text/event-stream",
            "{response:?}"
        );
        ensure!(!has("grip-hold") && !has("grip-channel"), "{response:?}");
        Ok(Self {
            body: response.into_body(),
            text: String::new(),
            _sender: sender,
        })
    }

    /// Returns the id of the next new order.
    async fn order(&mut self) -> Result<u64> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                let field = |name: &str| {
                    let mut lines = event.lines();
                    lines.find_map(|line| line.strip_prefix(name).map(str::to_owned))
                };
                if field("event: ").as_deref() != Some("order-received") {
                    continue;
                }
                let id = field("id: ").context("no id")?.parse()?;
                let data: Value = serde_json::from_str(&field("data: ").context("no data")?)?;
                ensure!(data["event"] == "order-received", "{data}");
                ensure!(data["detail"]["order"]["id"] == id, "{data}");
                return Ok(id);
            }
            let part = timeout(TIMEOUT, self.body.frame()).await?;
            let part = part.context("the stream ended")??;
            if let Some(data) = part.data_ref() {
                self.text.push_str(std::str::from_utf8(data)?);
            }
        }
    }

    /// Fails unless the next new orders are the `count` orders from `first` on.
    async fn expect_orders(&mut self, first: u64, count: u64) -> Result<()> {
        for expected in first..first + count {
            let id = self.order().await?;
            ensure!(id == expected, "received order {id}, expected {expected}");
        }
        Ok(())
    }
}

#[tokio::test]
async fn orders_are_received_once_and_in_order_even_after_a_reconnect() -> Result<()> {
    let folder = burger("30ms");
    let host = Server::start(folder.path(), &[])?;
    let holds = async || {
        let health = host.health().await.ok()?;
        health["holds"]["stream"].as_u64()
    };

    let mut events = Events::open(&host, None).await?;
    let first = events.order().await?;
    events.expect_orders(first + 1, 9).await?;
    ensure!(holds().await == Some(1));
    drop(events);
    // A client that disconnects is unsubscribed.
    eventually("the end of the hold", async || {
        (holds().await? == 0).then_some(())
    })
    .await?;

    let last = first + 9;
    eventually("orders made meanwhile", async || {
        let (status, _) = host.get(&format!("/api/orders/{}", last + 20)).await.ok()?;
        (status == 200).then_some(())
    })
    .await?;
    let mut events = Events::open(&host, Some(last)).await?;
    events.expect_orders(last + 1, 40).await?;

    // So far behind that the host fetches several parts.
    drop(events);
    eventually("many more orders", async || {
        let (status, _) = host
            .get(&format!("/api/orders/{}", last + 250))
            .await
            .ok()?;
        (status == 200).then_some(())
    })
    .await?;
    let mut events = Events::open(&host, Some(last)).await?;
    events.expect_orders(last + 1, 270).await
}
