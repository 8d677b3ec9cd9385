//! What a customer of Socket Burger sees through a proxy.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::{Client, Response, TIMEOUT, eventually, request};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::TcpStream,
    time::timeout,
};

/// The time for an attempt while the proxy may not be ready.
const ATTEMPT: Duration = Duration::from_secs(1);

/// Checks the page, a WebSocket and a stream at this address, while orders are made.
pub async fn check(address: SocketAddr) -> Result<()> {
    let mut socket = eventually("a WebSocket", async || {
        let opened = Client::open(address, "/api/ws", &[]);
        timeout(ATTEMPT, opened).await.ok()?.ok()
    })
    .await?;
    let first = id(&socket.order().await?)?;
    let mut stream = Stream::open(address, first).await?;
    for expected in first + 1..first + 5 {
        ensure!(id(&socket.order().await?)? == expected);
        ensure!(stream.next_id().await? == expected);
    }

    // The store has them too, and changes an order only once.
    let orders = get(address, &format!("/api/orders?after={first}&limit=4")).await?;
    let orders: Value = serde_json::from_str(&orders.body)?;
    let ids: Vec<_> = (0..4).map(|index| &orders["orders"][index]["id"]).collect();
    let expected: Vec<_> = (first + 1..first + 5).collect();
    ensure!(ids == expected, "{orders}");
    let response = set_status(address, first, "fired").await?;
    ensure!(response.status == 200, "{response:?}");
    let updated = socket.event_named("order-updated").await?;
    let order = &updated["order"];
    ensure!(id(order)? == first && order["status"] == "fired", "{order}");
    let response = set_status(address, first, "received").await?;
    ensure!(response.status == 409, "{response:?}");

    let page = get(address, "/").await?;
    ensure!(page.status == 200, "{page:?}");
    let receipt = page.body.find("data-id=\"");
    ensure!(receipt.is_some(), "no orders in {page:?}");
    let asset = page.body.split_once("href=\"/static/").context("assets")?.1;
    let asset = asset.split('"').next().unwrap_or_default();
    let asset = get(address, &format!("/static/{asset}")).await?;
    ensure!(asset.status == 200, "{asset:?}");
    Ok(())
}

fn id(order: &Value) -> Result<u64> {
    let id = order["id"].as_u64();
    id.with_context(|| format!("no id in {order}"))
}

async fn get(address: SocketAddr, path: &str) -> Result<Response> {
    let head = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    request(address, &head).await
}

async fn set_status(address: SocketAddr, id: u64, status: &str) -> Result<Response> {
    let body = format!("{{\"status\":\"{status}\"}}");
    let bytes = format!(
        "POST /api/orders/{id}/status HTTP/1.1\r\nHost: {address}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    request(address, &bytes).await
}

/// Returns the status of a request for the private route.
pub async fn private_route(address: SocketAddr) -> Result<u16> {
    let head = "POST /internal/orders HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    Ok(request(address, head).await?.status)
}

/// A client of the event stream.
struct Stream(Lines<BufReader<TcpStream>>);

impl Stream {
    /// Opens a stream of the orders after this one.
    async fn open(address: SocketAddr, after: u64) -> Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        let head =
            format!("GET /api/orders/stream?after={after} HTTP/1.1\r\nHost: {address}\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut stream = Self(BufReader::new(stream).lines());
        let status = stream.next_line().await?;
        ensure!(status.contains(" 200 "), "{status}");
        Ok(stream)
    }

    /// Returns the next line, of the head or of the body.
    async fn next_line(&mut self) -> Result<String> {
        let line = timeout(TIMEOUT, self.0.next_line()).await??;
        line.context("the stream ended")
    }

    /// Returns the id of the next order.
    async fn next_id(&mut self) -> Result<u64> {
        loop {
            let line = self.next_line().await?;
            if let Some(id) = line.strip_prefix("id: ") {
                return Ok(id.parse()?);
            }
        }
    }
}
