//! What the chat does in all places.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::{Client, eventually, request};

use crate::{
    member::Member,
    place::{Kind, Place},
};

#[tokio::test]
async fn embedded() -> Result<()> {
    run(Kind::Embedded).await
}

#[tokio::test]
async fn with_typed_frames() -> Result<()> {
    run(Kind::Typed).await
}

#[tokio::test]
async fn in_spin_behind_the_host() -> Result<()> {
    run(Kind::Upstream).await
}

#[tokio::test]
async fn in_spin_behind_pushpin() -> Result<()> {
    run(Kind::Pushpin).await
}

async fn run(kind: Kind) -> Result<()> {
    let place = Place::start(kind).await?;
    history_and_count(&place).await.context("history")?;
    resuming(&place).await.context("resuming")?;
    gaps(&place).await.context("gaps")?;
    plain_clients(&place).await.context("plain clients")?;
    streams(&place).await.context("streams")?;
    page(&place).await.context("page")
}

async fn history_and_count(place: &Place) -> Result<()> {
    let (mut ada, open) = place.join("tea").await?;
    ensure!(open == json!({"$": "open"}), "{open}");
    ada.wait_for_count(1).await?;
    ada.send("one").await?;
    ada.wait_for_items(1).await?;
    let (mut bob, _) = place.join("tea").await?;
    bob.wait_for_count(2).await?;
    ada.wait_for_count(2).await?;
    ensure!(bob.items == ["one"], "{:?}", bob.items);
    bob.send("two").await?;
    for member in [&mut ada, &mut bob] {
        member.wait_for_items(2).await?;
        ensure!(member.items == ["one", "two"], "{:?}", member.items);
        ensure!(member.channel() == "room:tea");
    }
    // Another room has its own items and count.
    let (mut other, _) = place.join("other").await?;
    other.wait_for_count(1).await?;
    ensure!(other.items.is_empty());
    // The heartbeat.
    bob.send(r#"{"$":"ping"}"#).await?;
    ensure!(bob.frame().await? == json!({"$": "pong"}));
    // One closes the connection, and the other one loses it.
    bob.client.0.close(None).await?;
    ada.wait_for_count(1).await?;
    let (lost, _) = place.join("tea").await?;
    ada.wait_for_count(2).await?;
    drop(lost);
    ada.wait_for_count(1).await
}

async fn resuming(place: &Place) -> Result<()> {
    let (mut ada, _) = place.join("resuming").await?;
    let (mut bob, _) = place.join("resuming").await?;
    for member in [&mut ada, &mut bob] {
        member.wait_for_count(2).await?;
    }
    ada.send("one").await?;
    bob.wait_for_items(1).await?;
    drop(bob);
    for text in ["two", "three"] {
        ada.send(text).await?;
    }
    ada.wait_for_items(3).await?;
    let (mut bob, open) = place.resume("resuming", 1).await?;
    ensure!(open == json!({"$": "open", "recovered": true}), "{open}");
    bob.wait_for_items(2).await?;
    ada.send("four").await?;
    bob.wait_for_items(3).await?;
    ensure!(bob.items == ["two", "three", "four"], "{:?}", bob.items);
    ensure!(bob.resumed == 0);
    // A client that has all of them gets new ones only.
    let (mut bob, open) = place.resume("resuming", 4).await?;
    ensure!(open["recovered"] == true, "{open}");
    bob.wait_for_count(3).await?;
    ada.send("five").await?;
    bob.wait_for_items(1).await?;
    ensure!(bob.items == ["five"], "{:?}", bob.items);
    Ok(())
}

async fn gaps(place: &Place) -> Result<()> {
    let (mut ada, _) = place.join("gaps").await?;
    ada.wait_for_count(1).await?;
    for number in 1..=105 {
        ada.send(&number.to_string()).await?;
    }
    ada.wait_for_items(105).await?;
    // The room keeps 100 items: 6 to 105.
    for last in [0, 4, 106] {
        let (mut bob, open) = Member::resume(place.address, "gaps", last).await?;
        ensure!(open["recovered"] == false, "{open}");
        let reset = bob.frame().await?;
        ensure!(
            reset == json!({"$": "reset", "channel": "room:gaps"}),
            "{reset}"
        );
        bob.last = None;
        bob.wait_for_items(100).await?;
        ensure!(
            bob.items[0] == "6" && bob.last == Some(105),
            "{:?}",
            bob.items
        );
    }
    let (mut bob, open) = Member::resume(place.address, "gaps", 5).await?;
    ensure!(open["recovered"] == true, "{open}");
    bob.wait_for_items(100).await?;
    // A client notices that it has missed something.
    bob.last = Some(103);
    bob.send(r#"{"$":"resume","channel":"room:gaps","id":103}"#)
        .await?;
    bob.wait_for_items(102).await?;
    ensure!(bob.items[100..] == ["104", "105"], "{:?}", bob.items);
    Ok(())
}

/// Clients without the subprotocol get the same frames, but no first one.
async fn plain_clients(place: &Place) -> Result<()> {
    let client = Client::open(place.address, "/?room=plain", &[]).await;
    let mut client = client.map_err(|failed| failed.error)?;
    let count = client.event().await?;
    ensure!(count["$"] == "count" && count["count"] == 1, "{count}");
    let probe = async || Ok(client.event().await?["number"].as_u64());
    place.subscribed("plain", probe).await?;
    client.send(r#"{"$":"ping"}"#).await?;
    let item = client.event().await?;
    let expected =
        json!({"$": "item", "channel": "room:plain", "id": 1, "data": r#"{"$":"ping"}"#});
    ensure!(item == expected, "{item}");
    Ok(())
}

/// A stream of server-sent events gets the same as a WebSocket.
async fn streams(place: &Place) -> Result<()> {
    let (mut ada, _) = place.join("streams").await?;
    ada.wait_for_count(1).await?;
    ada.send("one").await?;
    ada.wait_for_items(1).await?;
    let mut stream = Stream::open(place, "/?room=streams").await?;
    stream.wait_for(r#"data: {"$":"open"}"#).await?;
    let item = |id: u32, text: &str| {
        format!(
            "id: {id},room:streams\ndata: {{\"$\":\"item\",\"channel\":\"room:streams\",\"id\":{id},\"data\":\"{text}\"}}\n\n"
        )
    };
    stream.wait_for(&item(1, "one")).await?;
    for number in 2..5 {
        ada.send(&format!("item {number}")).await?;
    }
    for number in 2..5 {
        let text = format!("item {number}");
        stream.wait_for(&item(number, &text)).await?;
    }
    let (bob, _) = place.join("streams").await?;
    stream.wait_for(r#""count":2"#).await?;
    drop(bob);
    Ok(())
}

/// An `EventSource`.
struct Stream {
    stream: tokio::net::TcpStream,
    received: String,
}

impl Stream {
    async fn open(place: &Place, path: &str) -> Result<Self> {
        use tokio::io::AsyncWriteExt as _;

        let mut stream = tokio::net::TcpStream::connect(place.address).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: a\r\naccept: text/event-stream\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        Ok(Self {
            stream,
            received: String::new(),
        })
    }

    /// Reads until the stream contains a text, and drops all up to its end.
    async fn wait_for(&mut self, text: &str) -> Result<()> {
        use tokio::io::AsyncReadExt as _;

        loop {
            // Chunks may begin in the middle of an event.
            let plain = self.received.replace("\r\n", "");
            if plain.contains(text.trim_end()) {
                return Ok(());
            }
            let mut chunk = Vec::with_capacity(4096);
            let read = self.stream.read_buf(&mut chunk);
            let read = tokio::time::timeout(tests::TIMEOUT, read).await;
            let read = read.with_context(|| format!("{text:?} not in {:?}", self.received))??;
            ensure!(read > 0, "the stream ends with {:?}", self.received);
            self.received += &String::from_utf8_lossy(&chunk);
        }
    }
}

async fn page(place: &Place) -> Result<()> {
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    let page = request(place.address, &get("/")).await?;
    ensure!(
        page.status == 200 && page.body.contains("<title>Chat</title>"),
        "{page:?}"
    );
    let other = request(place.address, &get("/other")).await?;
    ensure!(other.status == 426, "{other:?}");
    Ok(())
}

#[tokio::test]
async fn nothing_is_lost_by_a_restart() -> Result<()> {
    for kind in [Kind::Embedded, Kind::Typed] {
        let mut place = Place::start(kind).await?;
        let (mut ada, _) = place.join("tea").await?;
        ada.send("one").await?;
        ada.wait_for_items(1).await?;
        let host = place.host.take().context("a host")?;
        host.signal(rustix::process::Signal::TERM)?;
        ensure!(ada.client.closed().await? == Some(1001));
        drop(ada);
        ensure!(host.wait().await? == Some(0));
        let host = tests::Server::start(place.folder.path(), &[])?;
        let (mut ada, open) = Member::resume(host.address, "tea", 1).await?;
        ensure!(open["recovered"] == true, "{open}");
        // The host has reported the end of the first connection.
        ada.wait_for_count(1).await?;
        ada.send("two").await?;
        ada.wait_for_items(1).await?;
        ensure!(ada.items == ["two"], "{:?}", ada.items);
        let (mut bob, _) = Member::join(host.address, "tea").await?;
        bob.wait_for_items(2).await?;
        eventually("the sessions", async || {
            (host.count("sessions").await.ok()? == 2).then_some(())
        })
        .await?;
    }
    Ok(())
}
