//! Proxies in front of the public port: which address a component sees.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::{Server, probe, read_response};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::wait_for_dropped;

/// The signature of version 2 of the PROXY protocol.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

const REQUEST: &[u8] = b"GET /headers HTTP/1.1\r\nHost: a\r\n\r\n";

/// Sends a header of the PROXY protocol and a request. Returns the client that the component sees.
async fn client_after(host: &Server, header: &[u8]) -> Result<String> {
    let mut stream = TcpStream::connect(host.address).await?;
    stream.write_all(&[header, REQUEST].concat()).await?;
    let response = read_response(&mut stream, true).await?;
    ensure!(response.status == 200, "{response:?}");
    let headers: Value = serde_json::from_str(&response.body)?;
    let client = headers["spin-client-addr"].as_str();
    Ok(client.context("spin-client-addr")?.to_owned())
}

/// Returns a header of version 2.
fn header(command: u8, family: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap_or(u16::MAX);
    let mut header = SIGNATURE.to_vec();
    header.extend([0x20 | command, family]);
    header.extend(length.to_be_bytes());
    header.extend(content);
    header
}

#[tokio::test]
async fn the_proxy_protocol_names_the_client() -> Result<()> {
    let folder = probe("");
    let host = Server::start(folder.path(), &["--proxy-protocol"])?;
    let v4 = [192, 0, 2, 7, 127, 0, 0, 1, 0x1f, 0x90, 0, 80];
    let mut v6 = [0; 36];
    v6[..2].copy_from_slice(&[0x20, 0x01]);
    v6[15] = 7;
    v6[32..34].copy_from_slice(&[0x1f, 0x90]);
    for (header, expected) in [
        (header(1, 0x11, &v4), "192.0.2.7:8080"),
        (header(1, 0x21, &v6), "[2001::7]:8080"),
        (
            b"PROXY TCP4 192.0.2.7 127.0.0.1 8080 80\r\n".to_vec(),
            "192.0.2.7:8080",
        ),
    ] {
        let client = client_after(&host, &header).await?;
        ensure!(client == expected, "{client}, not {expected}");
    }
    // A health check of the proxy.
    for header in [header(0, 0, &[]), b"PROXY UNKNOWN\r\n".to_vec()] {
        let client = client_after(&host, &header).await?;
        ensure!(client.starts_with("127.0.0.1:"), "{client}");
    }
    Ok(())
}

#[tokio::test]
async fn connections_without_a_proxy_header_are_refused() -> Result<()> {
    let folder = probe("");
    let host = Server::start(folder.path(), &["--proxy-protocol"])?;
    for bytes in [
        REQUEST.to_vec(),
        [&header(1, 0x11, &[0; 4]), REQUEST].concat(),
        [b"PROXY TCP4 x\r\n", REQUEST].concat(),
    ] {
        let mut stream = TcpStream::connect(host.address).await?;
        stream.write_all(&bytes).await?;
        let mut received = Vec::new();
        // The host may reset the connection.
        let _ = stream.read_to_end(&mut received).await;
        ensure!(
            received.is_empty(),
            "{}",
            String::from_utf8_lossy(&received)
        );
    }
    wait_for_dropped(&host, "proxy-header", 3).await?;
    host.wait_for_log(&["connection refused", "PROXY protocol"])
        .await?;
    Ok(())
}
