//! Components that trap, loop, and take what they can.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::{Server, eventually, probe, request};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// What the component may use.
const PERMISSIONS: &str = "key_value_stores = [\"default\"]\n\
    sqlite_databases = [\"default\"]\n\
    allowed_outbound_hosts = [\"*://127.0.0.1:*\"]\n\
    files = [{ source = \"placed\", destination = \"/placed\" }]\n";

/// The memory in KiB that the host may keep after a fault.
const GROWTH_MAX_KIB: u64 = 64 << 10;

/// Starts a host whose component has 64 MiB and 2 seconds for each request.
fn start() -> Result<(Server, tempfile::TempDir)> {
    let folder = probe(PERMISSIONS);
    let placed = folder.path().join("placed");
    std::fs::create_dir(&placed)?;
    std::fs::write(placed.join("hello.txt"), "hello")?;
    let options = [
        "--request-timeout",
        "2s",
        "--max-instance-memory",
        "67108864",
    ];
    Ok((Server::start(folder.path(), &options)?, folder))
}

/// Returns the line of `/metrics` for a number of failures.
fn failures(reason: &str, count: usize) -> String {
    format!(
        "socket_host_component_failures_total{{component=\"probe\",reason=\"{reason}\"}} {count}"
    )
}

/// Waits until the host has no more open files and not much more memory than before.
async fn recovers(host: &Server, files: usize, kib: u64) -> Result<()> {
    let recovered = eventually("the files and the memory of before", async || {
        let is_small = host.resident_kib().ok()? < kib + GROWTH_MAX_KIB;
        // One connection may be that of a request.
        (is_small && host.open_files().ok()? <= files + 1).then_some(())
    });
    recovered.await.with_context(|| {
        let (now, open) = (host.resident_kib().ok(), host.open_files().ok());
        format!("{files} files and {kib} KiB before, {open:?} and {now:?} now")
    })
}

#[tokio::test]
async fn faults_before_the_response_are_500_or_504() -> Result<()> {
    let (host, _folder) = start()?;
    ensure!(host.get("/").await?.0 == 200);
    let (files, kib) = (host.open_files()?, host.resident_kib()?);
    for (path, status, reason, log) in [
        ("/trap", 500, "trap", "component failed"),
        ("/alloc-without-end", 500, "memory", "component failed"),
        ("/recurse", 500, "stack", "component failed"),
        ("/spin", 504, "timeout", "request failed"),
        ("/hang", 504, "timeout", "request failed"),
        ("/print-without-end", 504, "timeout", "request failed"),
    ] {
        let metrics = host.metrics().await?;
        let before = (0..).find(|&count| metrics.contains(&failures(reason, count)));
        let before = before.with_context(|| format!("no metric for {reason}"))?;
        let (received, body) = host.get(path).await?;
        ensure!(received == status, "{path}: {received} {body}");
        host.wait_for_metric(&failures(reason, before + 1)).await?;
        host.wait_for_log(&[log, "component=", "probe", "route=\"/...\""])
            .await?;
        if status == 500 {
            let reason = format!("reason=\"{reason}\"");
            host.wait_for_log(&[log, &reason]).await?;
        }
        ensure!(host.get("/").await?.0 == 200, "after {path}");
    }
    recovers(&host, files, kib).await
}

#[tokio::test]
async fn handles_are_limited_for_each_instance() -> Result<()> {
    let (host, _folder) = start()?;
    ensure!(host.get("/").await?.0 == 200);
    let (files, kib) = (host.open_files()?, host.resident_kib()?);
    let mut count = 0;
    for kind in ["fields", "stores", "files", "sockets"] {
        let few = host
            .get(&format!("/handles?kind={kind}&number=100"))
            .await?;
        ensure!(few == (200, "100".into()), "{kind}: {few:?}");
        let many = host
            .get(&format!("/handles?kind={kind}&number=10000"))
            .await?;
        // A component may get an error instead of a trap.
        match many.0 {
            500 => {
                count += 1;
                host.wait_for_metric(&failures("handles", count)).await?;
            }
            status => {
                let opened = many.1.split(' ').next().unwrap_or_default();
                let opened: usize = opened.parse().with_context(|| format!("{many:?}"))?;
                ensure!(status == 200 && opened < 5000, "{kind}: {many:?}");
            }
        }
        ensure!(host.get("/").await?.0 == 200, "after {kind}");
    }
    ensure!(count > 0, "no handle is limited by a trap");
    host.wait_for_log(&["component failed", "reason=\"handles\""])
        .await?;
    let databases = host.get("/handles?kind=databases&number=10000").await?;
    ensure!(databases.1.starts_with("128 "), "{databases:?}");
    // Streams within an instance take its own memory.
    let streams = host.get("/handles?kind=streams&number=1000000").await?;
    ensure!(matches!(streams.0, 200 | 500 | 504), "{streams:?}");
    ensure!(host.get("/").await?.0 == 200, "after streams");
    recovers(&host, files, kib).await
}

#[tokio::test]
async fn faults_during_the_response_cut_it_off() -> Result<()> {
    let (host, _folder) = start()?;
    let reasons = [("trap", "trap"), ("spin", "lingering")];
    for (then, reason) in reasons {
        let mut stream = TcpStream::connect(host.address).await?;
        let head = format!("GET /stream?chunks=2&ms=1&then={then} HTTP/1.1\r\nHost: a\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut response = Vec::new();
        // The connection is closed, since the body has no end.
        let _ = stream.read_to_end(&mut response).await;
        let response = String::from_utf8_lossy(&response);
        ensure!(response.starts_with("HTTP/1.1 200 "), "{response}");
        ensure!(
            !response.ends_with("0\r\n\r\n"),
            "a complete response: {response}"
        );
        ensure_late_failure(&host, reason)
            .await
            .with_context(|| format!("after {then}"))?;
    }
    Ok(())
}

/// Checks that an instance has failed after its response, and that the component is served again.
async fn ensure_late_failure(host: &Server, reason: &str) -> Result<()> {
    host.wait_for_metric(&failures(reason, 1)).await?;
    let reason = format!("reason=\"{reason}\"");
    host.wait_for_log(&["component failed after its response", &reason])
        .await?;
    ensure!(host.get("/").await?.0 == 200);
    Ok(())
}

#[tokio::test]
async fn faults_after_the_response_do_not_change_it() -> Result<()> {
    let (host, _folder) = start()?;
    for (then, reason) in [("trap", "trap"), ("spin", "lingering")] {
        let response = host.get(&format!("/after-response?then={then}")).await?;
        ensure!(response == (200, "complete".into()), "{response:?}");
        ensure_late_failure(&host, reason)
            .await
            .with_context(|| format!("after {then}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn a_body_without_end_takes_no_memory_and_ends_with_its_client() -> Result<()> {
    let (host, _folder) = start()?;
    ensure!(host.get("/").await?.0 == 200);
    let (files, kib) = (host.open_files()?, host.resident_kib()?);
    let mut stream = TcpStream::connect(host.address).await?;
    let head = "GET /body-without-end HTTP/1.1\r\nHost: a\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let mut buffer = vec![0; 1 << 20];
    let mut received = 0;
    while received < 64 << 20 {
        let count = timeout(Duration::from_secs(60), stream.read(&mut buffer)).await??;
        ensure!(count > 0, "the body ended after {received} bytes");
        received += count;
    }
    // Unread, it waits.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let resident = host.resident_kib()?;
    ensure!(
        resident < kib + GROWTH_MAX_KIB,
        "{kib} KiB before, {resident} KiB now"
    );
    drop(stream);
    let ended = eventually("the end of the instance", async || {
        let metrics = host.metrics().await.ok()?;
        let none = "socket_host_instances{component=\"probe\"} 0";
        metrics.lines().any(|line| line == none).then_some(())
    });
    ended.await?;
    recovers(&host, files, kib).await
}

#[tokio::test]
async fn large_headers_are_sent_or_refused() -> Result<()> {
    let (host, _folder) = start()?;
    let response = request(
        host.address,
        "GET /large-headers?kib=30 HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    let response = response.await?;
    ensure!(response.status == 200 && response.head.len() > 30_000);
    // Beyond Wasmtime's limit, the component gets an error.
    let bytes = "GET /large-headers?kib=100000 HTTP/1.1\r\nHost: a\r\n\r\n";
    let response = request(host.address, bytes).await?;
    ensure!(
        matches!(response.status, 500 | 502 | 504),
        "{}",
        response.status
    );
    ensure!(host.get("/").await?.0 == 200);
    Ok(())
}
