//! Limits for each address.

use anyhow::{Context as _, Result, ensure};
use tests::{Client, HandshakeError, Response, Server, eventually, read_response, request};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use super::{CLIENT, OTHER_CLIENT, burger, burger_with_websocket, ensure_retry, wait_for_dropped};

async fn open(host: &Server, client: &str) -> Result<Client, HandshakeError> {
    Client::open(host.address, "/api/ws", &[("x-forwarded-for", client)]).await
}

/// Sends a handshake of a client and returns the response.
async fn handshake(host: &Server, client: &str) -> Result<Response> {
    let bytes = format!(
        "GET /api/ws HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {client}\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    request(host.address, &bytes).await
}

#[tokio::test]
async fn an_address_opens_websockets_at_a_rate() -> Result<()> {
    let folder = burger_with_websocket("max-handshakes-per-address = 1")?;
    let host = Server::start(folder.path(), &[])?;
    // All of 10 seconds at once.
    for number in 0..10 {
        let response = handshake(&host, CLIENT).await?;
        ensure!(response.status == 101, "{number}: {response:?}");
    }
    let mut refused = 0;
    // Slow enough for another one to be due.
    while refused < 3 {
        let response = handshake(&host, CLIENT).await?;
        if response.status != 101 {
            ensure_retry(&response, 429)?;
            refused += 1;
        }
    }
    wait_for_dropped(&host, "address-handshakes", 3).await?;
    ensure!(handshake(&host, OTHER_CLIENT).await?.status == 101);
    for _ in 0..20 {
        host.socket("/api/ws").await.context("this machine")?;
    }
    Ok(())
}

#[tokio::test]
async fn an_address_holds_a_number_of_websockets_and_streams() -> Result<()> {
    let folder = burger_with_websocket("max-connections-per-address = 2")?;
    let host = Server::start(folder.path(), &[])?;
    let mut first = open(&host, CLIENT).await.map_err(|failed| failed.error)?;
    let _second = open(&host, CLIENT).await.map_err(|failed| failed.error)?;
    ensure_retry(&handshake(&host, CLIENT).await?, 429)?;
    let stream = async |client: &str| {
        let mut stream = TcpStream::connect(host.address).await?;
        let bytes = format!(
            "GET /api/orders/stream HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {client}\r\n\r\n"
        );
        stream.write_all(bytes.as_bytes()).await?;
        // A stream does not end.
        let response = read_response(&mut stream, false).await?;
        anyhow::Ok((response, stream))
    };
    ensure!(stream(CLIENT).await?.0.status == 429);
    wait_for_dropped(&host, "address-holds", 2).await?;
    let (other, held) = stream(OTHER_CLIENT).await?;
    ensure!(other.status == 200, "{other:?}");
    let _another = open(&host, OTHER_CLIENT)
        .await
        .map_err(|failed| failed.error)?;
    ensure_retry(&handshake(&host, OTHER_CLIENT).await?, 429)?;

    // What is closed makes room.
    first.0.close(None).await?;
    first.closed().await?;
    eventually("room for another WebSocket", async || {
        open(&host, CLIENT).await.ok()
    })
    .await?;
    drop(held);
    eventually("room instead of the stream", async || {
        open(&host, OTHER_CLIENT).await.ok()
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn an_address_has_a_number_of_connections() -> Result<()> {
    let folder = burger(
        "[variables]",
        "[application.tool.socket-host.http]\nmax-connections-per-address = 2\n[variables]",
    )?;
    let host = Server::start(folder.path(), &["--proxy-protocol"])?;
    let connect = async |client: &str| {
        let mut stream = TcpStream::connect(host.address).await?;
        let bytes = format!(
            "PROXY TCP4 {client} 127.0.0.1 1000 80\r\nGET /api/orders HTTP/1.1\r\nHost: a\r\n\r\n"
        );
        stream.write_all(bytes.as_bytes()).await?;
        let response = read_response(&mut stream, true).await?;
        anyhow::Ok((response, stream))
    };
    let open = [connect(CLIENT).await?, connect(CLIENT).await?];
    for (response, _) in &open {
        ensure!(response.status == 200, "{response:?}");
    }
    let (refused, _closed) = connect(CLIENT).await?;
    ensure_retry(&refused, 429)?;
    let head = refused.head.to_ascii_lowercase();
    ensure!(head.contains("\r\nconnection: close\r\n"), "{head}");
    wait_for_dropped(&host, "address-connections", 1).await?;
    ensure!(connect(OTHER_CLIENT).await?.0.status == 200);
    drop(open);
    eventually("room for another connection", async || {
        let (response, _) = connect(CLIENT).await.ok()?;
        (response.status == 200).then_some(())
    })
    .await
}
