//! The orders as server-sent events: each of them once and in order, also after an absence.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tests::{PATIENCE, Server, burger, eventually};
use tokio::{net::TcpStream, time::timeout};

/// A held stream as an `EventSource` has it.
struct Events {
    body: Incoming,
    text: String,
    /// Its end is the client's.
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
        let held = |name: &str| response.headers().keys().any(|key| key.as_str() == name);
        ensure!(
            response.headers()["content-type"] == "text/event-stream",
            "{response:?}"
        );
        ensure!(!held("grip-hold") && !held("grip-channel"), "{response:?}");
        Ok(Self {
            body: response.into_body(),
            text: String::new(),
            _sender: sender,
        })
    }

    /// The id of the next new order.
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
                let id = field("id: ").context("an id")?.parse()?;
                let data: Value = serde_json::from_str(&field("data: ").context("data")?)?;
                ensure!(data["event"] == "order-received", "{data}");
                ensure!(data["detail"]["order"]["id"] == id, "{data}");
                return Ok(id);
            }
            let part = timeout(PATIENCE, self.body.frame()).await?;
            let part = part.context("the stream ended")??;
            if let Some(data) = part.data_ref() {
                self.text.push_str(std::str::from_utf8(data)?);
            }
        }
    }

    /// The next new orders are those from `first` on, `count` of them.
    async fn are(&mut self, first: u64, count: u64) -> Result<()> {
        for wanted in first..first + count {
            let id = self.order().await?;
            ensure!(id == wanted, "order {id} where {wanted} was to come");
        }
        Ok(())
    }
}

#[tokio::test]
async fn every_order_comes_once_and_in_order_also_after_an_absence() -> Result<()> {
    let folder = burger("30ms");
    let host = Server::start(folder.path(), &[])?;
    let holds = async || {
        let health = host.health().await.ok()?;
        health["holds"]["stream"].as_u64()
    };

    let mut events = Events::open(&host, None).await?;
    let first = events.order().await?;
    events.are(first + 1, 9).await?;
    ensure!(holds().await == Some(1));
    drop(events);
    // Who is gone is subscribed to nothing.
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
    events.are(last + 1, 40).await?;

    // More than a part's worth behind: the host fetches part after part.
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
    events.are(last + 1, 270).await
}
