//! A host without file descriptors.

use anyhow::{Result, ensure};
use tests::{Server, probe};

#[tokio::test]
async fn without_descriptors_the_listener_pauses_and_goes_on() -> Result<()> {
    let folder = probe("allowed_outbound_hosts = [\"*://127.0.0.1:*\"]");
    let host = Server::start_with_files(folder.path(), 256, &[])?;
    let mut socket = host.socket("/websocket-echo").await?;
    // Each socket of the component is a descriptor. It takes all of them for some time.
    let taken = host.get("/handles?kind=sockets&number=1000&ms=2000");
    let others = async {
        host.wait_for_log(&["WARN", "cannot accept connections"])
            .await?;
        // Clients wait until there are descriptors again.
        ensure!(host.get("/").await?.0 == 200);
        ensure!(host.health().await?["status"] == "ok");
        anyhow::Ok(())
    };
    // The log is written when a client connects.
    let knock = async {
        while !host.log_text().contains("cannot accept connections") {
            let _ = tokio::net::TcpStream::connect(host.address).await;
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    };
    let (taken, others, _) = tokio::join!(taken, others, knock);
    let (status, opened) = taken?;
    ensure!(status == 200, "{status} {opened}");
    others?;
    let failed = "socket_host_dropped_total{reason=\"accept\"} ";
    let metrics = host.metrics().await?;
    let count = metrics.lines().find_map(|line| line.strip_prefix(failed));
    ensure!(count.is_some_and(|count| count != "0"), "{metrics}");
    socket.send("still open").await?;
    let echo = socket.next().await?;
    ensure!(echo.is_some_and(|echo| echo.to_text().is_ok_and(|text| text == "still open")));
    Ok(())
}
