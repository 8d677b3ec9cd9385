//! What the host refuses on its two ports: the status, the text, and what it logs and counts.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use grip::{Key, signature::sign};
use tests::{Client, Server, burger_without_timer, request};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Sends bytes and returns everything that is received until the connection is closed.
async fn exchange(host: &Server, bytes: &[u8]) -> Result<String> {
    let mut stream = TcpStream::connect(host.address).await?;
    stream.write_all(bytes).await?;
    let mut received = Vec::new();
    // The host may close the connection before it has read everything.
    let _ = stream.read_to_end(&mut received).await;
    Ok(String::from_utf8_lossy(&received).into_owned())
}

#[tokio::test]
async fn heads_that_are_too_large_are_a_431_with_a_text() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &[])?;
    let head = |fields: usize, bytes: usize| {
        let mut head = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n".to_owned();
        for index in 0..fields {
            head += &format!("X-{index}: {}\r\n", "v".repeat(bytes));
        }
        head + "\r\n"
    };
    ensure!(
        exchange(&host, head(90, 300).as_bytes())
            .await?
            .starts_with("HTTP/1.1 200 ")
    );
    // Just over the limits, and far over those of the HTTP library.
    for (fields, bytes) in [(99, 1), (1, 33_000), (50, 1000), (300, 1), (50, 7900)] {
        let response = exchange(&host, head(fields, bytes).as_bytes()).await?;
        ensure!(
            response.starts_with("HTTP/1.1 431 ")
                && response.ends_with("expected at most 100 header fields and 32 KiB\n"),
            "{fields} fields of {bytes} bytes: {response}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn hosts_and_targets_must_be_valid_on_both_ports() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &[])?;
    for address in [host.address, host.control] {
        for (target, name) in [
            ("/", "u@a"),
            ("/", "a, b"),
            ("/", "a b"),
            ("/", "a:99999"),
            ("*", "a"),
            ("a:80", "a"),
            ("http://u:p@a/", "a"),
            ("ftp://a/", "a"),
        ] {
            let bytes = format!("GET {target} HTTP/1.1\r\nHost: {name}\r\n\r\n");
            let response = request(address, &bytes).await?;
            ensure!(response.status == 400, "{target} {name}: {response:?}");
            ensure!(
                response.body.contains("expected") || target == "*",
                "{response:?}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_control_port_answers_only_to_its_names() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &["--control-host", "burger.internal"])?;
    let status = async |path: &str, name: &str| {
        let bytes = format!("GET {path} HTTP/1.1\r\nHost: {name}\r\n\r\n");
        anyhow::Ok(request(host.control, &bytes).await?.status)
    };
    for path in ["/metrics", "/healthz"] {
        for own in ["127.0.0.1:5561", "localhost", "burger.internal:5561"] {
            ensure!(status(path, own).await? == 200, "{path} {own}");
        }
        for other in ["evil.example", "burger.internal.evil.example:5561"] {
            ensure!(status(path, other).await? == 421, "{path} {other}");
        }
    }
    // A probe may use any name.
    ensure!(status("/readyz", "evil.example").await? == 200);
    Ok(())
}

#[tokio::test]
async fn a_refused_token_says_what_is_wrong() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &["--grip-key", "secret"])?;
    let hour = Duration::from_secs(3600);
    let now = SystemTime::now();
    let expired = sign(&Key::parse("secret")?, "a", now - 2 * hour, hour);
    let foreign = sign(&Key::parse("other")?, "a", now, hour);
    for (token, problem) in [
        (expired.as_str(), "expired"),
        (foreign.as_str(), "signature"),
        ("x", "JWT"),
    ] {
        let header = format!("Authorization: Bearer {token}\r\n");
        let response = host.publish(&header, "{\"items\":[]}").await?;
        ensure!(response.status == 401, "{response:?}");
        ensure!(response.body.contains(problem), "{problem}: {response:?}");
    }
    let missing = host.publish("", "{\"items\":[]}").await?;
    ensure!(missing.body.contains("missing token"), "{missing:?}");
    Ok(())
}

#[tokio::test]
async fn refused_origins_are_logged_and_counted() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &[])?;
    for _ in 0..100 {
        let refused = Client::open(
            host.address,
            "/api/ws",
            &[("origin", "http://evil.example")],
        )
        .await;
        let refused = refused.err().context("accepted")?;
        ensure!(refused.status == Some(403), "{refused:?}");
    }
    let line = host
        .wait_for_log(&["origin not allowed", "http://evil.example"])
        .await?;
    for field in [&host.address.to_string(), "allowed-origins", "/api/ws"] {
        ensure!(line.contains(field), "{field}: {line}");
    }
    host.wait_for_log(&["origin not allowed", "suppressed="])
        .await?;
    host.wait_for_metric("socket_host_dropped_total{reason=\"origin\"} 100")
        .await
}
