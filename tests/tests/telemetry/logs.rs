//! The formats of the log, and the access log.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::{Client, Server, eventually, host_binary, probe, request};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

/// Returns the first line of the access log that contains all of `words`, as JSON.
async fn access_line(host: &Server, words: &[&str]) -> Result<Value> {
    let words = [&["\"target\":\"socket_host::access\""], words].concat();
    let line = host.wait_for_log(&words).await?;
    Ok(serde_json::from_str(&line)?)
}

#[tokio::test]
async fn requests_and_websockets_are_logged_as_json() -> Result<()> {
    let folder = probe("");
    let host = Server::start(folder.path(), &["--access-log", "--log-format", "json"])?;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let head = format!(
        "GET /seen?token=secret HTTP/1.1\r\nHost: a\r\nUser-Agent: test \"é[31m\r\n\
         traceparent: 00-{trace}-b7ad6b7169203331-01\r\n\r\n"
    );
    let response = request(host.address, &head).await?;
    ensure!(response.status == 200, "{response:?}");
    let line = access_line(&host, &["/seen"]).await?;
    for (field, expected) in [
        ("level", "INFO".into()),
        ("message", "request".into()),
        ("client", "127.0.0.1".into()),
        ("method", "GET".into()),
        ("path", "/seen".into()),
        ("status", 200.into()),
        ("bytes", response.body.len().into()),
        ("trace_id", trace.into()),
        ("user_agent", r#"test \"\xc3\xa9[31m"#.into()),
    ] {
        ensure!(line[field] == Value::clone(&expected), "{field}: {line}");
    }
    ensure!(
        line["duration_ms"].as_f64().is_some_and(|time| time > 0.0),
        "{line}"
    );
    ensure!(!host.log_text().contains("secret"), "{}", host.log_text());

    let headers = [("user-agent", "socket")];
    let socket = Client::open(host.address, "/websocket-echo", &headers).await;
    let mut socket = socket.map_err(|failed| failed.error)?;
    let line = access_line(&host, &["\"status\":101"]).await?;
    ensure!(line["user_agent"] == "socket", "{line}");
    socket.0.close(None).await?;
    let line = access_line(&host, &["WebSocket closed"]).await?;
    ensure!(
        line["reason"] == "client" && line["path"] == "/websocket-echo",
        "{line}"
    );

    // A WebSocket that was refused has not been open.
    let refused = Client::open(host.address, "/seen", &[]).await;
    ensure!(refused.err().and_then(|error| error.status) == Some(426));
    access_line(&host, &["\"status\":426"]).await?;
    ensure!(host.log_text().matches("WebSocket closed").count() == 1);

    // Every line is an object, also those that are not of the access log.
    host.get("/trap").await?;
    host.wait_for_log(&["component failed"]).await?;
    for line in host
        .log_text()
        .lines()
        .filter(|line| !line.starts_with('['))
    {
        let line: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        ensure!(
            line["timestamp"].is_string() && line["level"].is_string(),
            "{line}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn requests_are_logged_as_text_when_asked() -> Result<()> {
    let folder = probe("");
    let mut command = Command::new(host_binary());
    command.arg("up").arg("--from").arg(folder.path());
    let host = Server::run(command.env("SOCKET_HOST_ACCESS_LOG", "true"), &[])?;
    host.get("/seen").await?;
    host.wait_for_log(&["INFO socket_host::access: request client=127.0.0.1 method=\"GET\" path=\"/seen\" status=200 bytes=1 "])
        .await?;
    // Clients leave before the response. The host may notice that before it handles a request.
    let hang = b"GET /hang HTTP/1.1\r\nHost: a\r\n\r\n";
    let line = eventually("a line of an aborted request", async || {
        let mut stream = TcpStream::connect(host.address).await.ok()?;
        stream.write_all(hang).await.ok()?;
        drop(stream);
        let log = host.log_text();
        let mut lines = log.lines();
        let is_aborted =
            |line: &&str| line.contains("path=\"/hang\"") && line.contains("aborted=true");
        lines.find(is_aborted).map(str::to_owned)
    })
    .await?;
    ensure!(!line.contains("status="), "{line}");
    Ok(())
}

#[tokio::test]
async fn there_is_no_access_log_by_default() -> Result<()> {
    let folder = probe("");
    let host = Server::start(folder.path(), &[])?;
    host.get("/seen").await?;
    host.get("/trap").await?;
    host.wait_for_log(&["component failed"]).await?;
    ensure!(
        !host.log_text().contains("socket_host::access"),
        "{}",
        host.log_text()
    );
    Ok(())
}
