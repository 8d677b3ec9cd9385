//! Uploads that arrive slowly, and clients that occupy connections without using them.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests::{Server, app_with_manifest, eventually, probe, request, wasm};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// More than the instances of a component.
const SLOW_CLIENTS: usize = 520;

/// Returns an application with a component of WASI 0.2, whose instances serve one request each.
fn probe02() -> tempfile::TempDir {
    app_with_manifest(&format!(
        "spin_manifest_version = 2\napplication.name = \"probe02\"\n\
         trigger.http = [{{ route = \"/...\", component = \"probe02\" }}]\n\
         [component.probe02]\n\
         source = {:?}\n",
        wasm("probe02")
    ))
}

#[tokio::test]
async fn bodies_that_do_not_come_leave_a_component_to_others() -> Result<()> {
    let folder = probe02();
    let host = Server::start(folder.path(), &[])?;
    for start in ["", "abc"] {
        let mut slow = Vec::new();
        for _ in 0..SLOW_CLIENTS {
            let mut stream = TcpStream::connect(host.address).await?;
            let head = "POST /probe02/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n";
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(start.as_bytes()).await?;
            slow.push(stream);
        }
        if !start.is_empty() {
            // They have half of the instances.
            host.wait_for_metric("socket_host_instances{component=\"probe02\"} 250")
                .await?;
        }
        for _ in 0..20 {
            let asked = Instant::now();
            let (status, body) = host.get("/probe02/seen").await?;
            ensure!(status == 200, "{status} {body}");
            ensure!(asked.elapsed() < Duration::from_secs(5), "delayed");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_body_that_trickles_is_not_cut_at_the_deadline_of_the_component() -> Result<()> {
    for folder in [probe02(), probe("")] {
        let host = Server::start(folder.path(), &["--request-timeout", "1s"])?;
        let mut stream = TcpStream::connect(host.address).await?;
        let head = "POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\
                    Transfer-Encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await?;
        for _ in 0..8 {
            stream.write_all(b"3\r\nabc\r\n").await?;
            // Several times the deadline in all.
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
        stream.write_all(b"0\r\n\r\n").await?;
        let mut response = String::new();
        stream.read_to_string(&mut response).await?;
        ensure!(response.starts_with("HTTP/1.1 200 "), "{response}");
        ensure!(response.matches("abc").count() == 8, "{response}");
    }
    Ok(())
}

#[tokio::test]
async fn a_slow_client_is_no_error_of_the_component() -> Result<()> {
    for folder in [probe02(), probe("")] {
        let host = Server::start(folder.path(), &["--request-timeout", "1s"])?;
        // The component waits for the rest of the body.
        let bytes = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                     3\r\nabc\r\n";
        let response = request(host.address, bytes).await?;
        // The probe may also have started its response, which then ends early.
        ensure!(matches!(response.status, 200 | 408), "{response:?}");
        let malformed = format!("{bytes}zz\r\n");
        let response = request(host.address, &malformed).await;
        ensure!(
            response
                .as_ref()
                .map_or(true, |response| matches!(response.status, 200 | 400)),
            "{response:?}"
        );
        let log = host.log_text();
        ensure!(!log.contains("ERROR"), "{log}");
    }
    Ok(())
}

#[tokio::test]
async fn idle_connections_make_room_and_leave_the_control_port_its_own() -> Result<()> {
    let folder = probe("");
    let host = Server::start_with_files(folder.path(), 256, &[])?;
    host.wait_for_log(&["max-connections lowered", "effective=192"])
        .await?;
    let mut idle = Vec::new();
    for _ in 0..300 {
        idle.push(TcpStream::connect(host.address).await?);
    }
    let ready = "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    ensure!(request(host.control, ready).await?.status == 200, "readyz");
    ensure!(host.health().await?["status"] == "ok", "healthz");
    let published = host.publish("", "{\"items\":[]}").await?;
    ensure!(published.status == 200, "{published:?}");
    // The newest clients are served.
    let newest = idle.last_mut().expect("connections");
    newest
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await?;
    let mut response = String::new();
    newest.read_to_string(&mut response).await?;
    ensure!(response.starts_with("HTTP/1.1 200 "), "{response}");
    // The oldest were closed.
    let closed = eventually("the oldest connection to be closed", async || {
        let mut byte = [0];
        matches!(idle[0].try_read(&mut byte), Ok(0) | Err(_)).then_some(())
    });
    closed.await
}
