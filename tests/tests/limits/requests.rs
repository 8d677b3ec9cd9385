//! Limits on requests.

use anyhow::{Result, ensure};
use tests::{Server, probe, request};

use super::wait_for_dropped;

#[tokio::test]
async fn the_body_of_a_request_has_a_size() -> Result<()> {
    let folder = probe("[application.tool.socket-host.http]\nmax-request-body = 100000\n");
    let host = Server::start(folder.path(), &[])?;
    let status = async |framing: &str, body: &str| {
        let bytes = format!("POST /echo HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{body}");
        anyhow::Ok(request(host.address, &bytes).await?)
    };
    let content = "x".repeat(100_000);
    let response = status("Content-Length: 100000", &content).await?;
    ensure!(response.status == 200 && response.body == content);
    let chunked = |length: usize| format!("{length:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(length));
    let response = status("Transfer-Encoding: chunked", &chunked(100_000)).await?;
    ensure!(response.status == 200 && response.body == content);

    // Refused before the client sends it.
    let large = status("Content-Length: 100001", "").await?;
    ensure!(large.status == 413, "{large:?}");
    ensure!(large.body.contains("at most 100000 bytes"), "{large:?}");
    wait_for_dropped(&host, "large-body", 1).await?;
    // Otherwise reading it fails. This component then responds by itself, or ends without a response.
    let large = status("Transfer-Encoding: chunked", &chunked(100_001)).await?;
    ensure!(matches!(large.status, 413 | 502), "{large:?}");
    ensure!(large.body.contains("request body too large"), "{large:?}");
    ensure!(host.get("/").await?.0 == 200);
    Ok(())
}

#[tokio::test]
async fn refused_heads_are_counted() -> Result<()> {
    let folder = probe("");
    let host = Server::start(folder.path(), &[])?;
    let large = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX-Large: {}\r\n\r\n",
        "x".repeat(33_000)
    );
    ensure!(request(host.address, &large).await?.status == 431);
    wait_for_dropped(&host, "large-head", 1).await?;
    let invalid = "GET / HTTP/1.1\r\nHost: a b\r\n\r\n";
    ensure!(request(host.address, invalid).await?.status == 400);
    wait_for_dropped(&host, "invalid", 1).await
}
