//! The limit of all connections, which follows from the limit of open files.

use anyhow::{Result, ensure};
use tests::{Server, burger_without_timer, read_response};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use super::{ensure_retry, wait_for_dropped};

/// The connections of the public port if the process may open 256 files.
const CONNECTIONS: usize = 192;

#[tokio::test]
async fn connections_beyond_the_limit_get_a_503() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start_with_files(folder.path(), 256, &[])?;
    let request = async |target: &str| {
        let mut stream = TcpStream::connect(host.address).await?;
        let bytes = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        stream.write_all(bytes.as_bytes()).await?;
        let has_body = target != "/api/orders/stream";
        let response = read_response(&mut stream, has_body).await?;
        anyhow::Ok((response, stream))
    };
    // Held, since an idle connection would be closed to make room.
    let mut held = Vec::new();
    while held.len() < CONNECTIONS {
        let (response, stream) = request("/api/orders/stream").await?;
        ensure!(response.status == 200, "{}: {response:?}", held.len());
        held.push(stream);
    }
    for number in 1..=3 {
        let (refused, _closed) = request("/api/orders").await?;
        ensure_retry(&refused, 503)?;
        wait_for_dropped(&host, "full", number).await?;
    }
    ensure!(host.health().await?["holds"]["stream"] == CONNECTIONS);
    held.pop();
    tests::eventually("room for another connection", async || {
        let (response, _) = request("/api/orders").await.ok()?;
        (response.status == 200).then_some(())
    })
    .await
}
