//! Untrusted clients: private routes, forged headers and the control port.

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tests::{COMPONENT_PING, Server, burger, burger_without_timer, eventually, probe, request};
use tokio::{io::AsyncWriteExt, net::TcpStream};

#[tokio::test]
async fn private_routes_are_not_found_in_any_spelling() -> Result<()> {
    let folder = burger("1h");
    let host = Server::start(folder.path(), &[])?;
    eventually("the first order", async || {
        host.get_json("/api/orders/100").await.ok()
    })
    .await?;
    let spellings = [
        "/internal/orders",
        "//internal/orders",
        "/internal//orders",
        "/%69nternal/orders",
        "/%69%6E%74%65%72%6e%61%6c/orders",
        "/internal%2Forders",
        "/internal/%6Frders",
        "/x/../internal/orders",
        "/x/%2e%2e/internal/orders",
        "/./internal/orders",
        "/internal/./orders",
        "/internal/orders/",
        "/internal/orders?x=1",
        "/internal",
        "/internal/",
        "/internal/..;/internal/orders",
        "/%2569nternal/orders",
        "/static/../internal/orders",
        "/Internal/orders",
        "/INTERNAL/ORDERS",
        "/%49nternal/Orders",
        "\\internal\\orders",
        "/\\internal/orders",
        "/internal%20/orders",
        "/internal./orders",
        "/%u0069nternal/orders",
        "/internal%u002forders",
        "/internal%EF%BC%8Forders",
        "/%EF%BD%89nternal/orders",
    ];
    for path in spellings {
        for method in [
            "POST", "GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW",
        ] {
            let response = request(
                host.address,
                &format!(
                    "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\n\r\n",
                    host.address
                ),
            )
            .await?;
            // Invalid paths are a 400.
            let refused = response.status == 404 || (response.status == 400 && path.contains('\\'));
            ensure!(refused, "{method} {path}: {response:?}");
        }
    }
    let absolute = format!(
        "POST http://{0}/internal/orders HTTP/1.1\r\nHost: {0}\r\nContent-Length: 0\r\n\r\n",
        host.address
    );
    ensure!(
        request(host.address, &absolute).await?.status == 404,
        "absolute form"
    );
    ensure!(
        host.get("/api/orders/101").await?.0 == 404,
        "an order was created from outside"
    );
    Ok(())
}

#[tokio::test]
async fn requests_have_exactly_one_host() -> Result<()> {
    let folder = probe("");
    let host = Server::start(folder.path(), &[])?;
    for (head, status) in [
        ("GET /headers HTTP/1.1\r\nHost: a\r\nHost: b\r\n", 400),
        ("GET /headers HTTP/1.1\r\nHost: a\r\nHost: a\r\n", 400),
        ("GET http://a/headers HTTP/1.1\r\nHost: b\r\n", 400),
        ("GET http://a/headers HTTP/1.1\r\n", 400),
        ("GET http://a/headers HTTP/1.1\r\nHost: A:80\r\n", 200),
        ("GET /headers HTTP/1.0\r\n", 200),
    ] {
        let response = request(host.address, &format!("{head}\r\n")).await?;
        ensure!(response.status == status, "{head:?}: {response:?}");
    }
    Ok(())
}

#[tokio::test]
async fn forged_headers_of_the_host_are_removed() -> Result<()> {
    let folder = probe("");
    let host = Server::start(folder.path(), &[])?;
    let spoofed = [
        "Grip-Sig: eyJhbGciOiJIUzI1NiJ9.e30.x",
        "Grip-Hold: stream",
        "GRIP-FEATURE: x",
        "Connection-Id: 42",
        "Meta-User: alice",
        "meta-role: admin",
        "Content-Bytes-Replayed: 9",
        "Spin-Client-Addr: 1.2.3.4:5",
        "Spin-Matched-Route: /x",
    ];
    let response = request(
        host.address,
        &format!(
            "GET /headers HTTP/1.1\r\nHost: {}\r\nX-Mine: kept\r\n{}\r\n\r\n",
            host.address,
            spoofed.join("\r\n")
        ),
    )
    .await?;
    ensure!(response.status == 200, "{response:?}");
    let body = response.body.to_ascii_lowercase();
    ensure!(body.contains("x-mine"), "{body}");
    ensure!(body.contains("grip-sig"), "{body}");
    for spoof in [
        // Replaced by the host's own signature.
        "eyjhbgcioijiuzi1nij9.e30.x",
        "grip-hold",
        "\"grip-feature\":\"x\"",
        "connection-id",
        "meta-",
        "content-bytes",
        "1.2.3.4",
        "\"/x\"",
    ] {
        ensure!(!body.contains(spoof), "{spoof} in {body}");
    }
    Ok(())
}

#[tokio::test]
async fn components_get_one_cookie_header() -> Result<()> {
    let folder = probe("");
    let host = Server::start(folder.path(), &[])?;
    // HTTP/2 allows clients to split the header.
    let stream = TokioIo::new(TcpStream::connect(host.address).await?);
    let (mut client, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
    tokio::spawn(connection);
    let split = Request::get(format!("http://{}/headers", host.address))
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("cookie", "c=3; d=4")
        .body(Empty::<Bytes>::new())?;
    let body = client.send_request(split).await?.into_body();
    let body = String::from_utf8(body.collect().await?.to_bytes().into())?;
    ensure!(body.contains(r#""cookie":"a=1; b=2; c=3; d=4""#), "{body}");

    let head = "GET /headers HTTP/1.1\r\nHost: a\r\nCookie: a=1\r\nCookie: b=2\r\n\r\n";
    let response = request(host.address, head).await?;
    let body = &response.body;
    ensure!(body.contains(r#""cookie":"a=1; b=2""#), "{body}");
    Ok(())
}

#[tokio::test]
async fn forged_events_are_rejected() -> Result<()> {
    let folder = burger("1h");
    let host = Server::start(folder.path(), &[])?;
    for content_type in [
        "application/websocket-events",
        "Application/WebSocket-Events; charset=utf-8",
    ] {
        let events = "OPEN\r\n";
        let response = request(
            host.address,
            &format!(
                "POST /api/ws HTTP/1.1\r\nHost: {}\r\nContent-Type: {content_type}\r\nConnection-Id: 1\r\nContent-Length: {}\r\n\r\n{events}",
                host.address,
                events.len()
            ),
        )
        .await?;
        ensure!(response.status == 403, "{response:?}");
    }
    // With another content type, the component rejects the missing signature.
    let response = request(
        host.address,
        &format!("POST /api/ws HTTP/1.1\r\nHost: {}\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nOPEN\r\n", host.address),
    )
    .await?;
    ensure!(response.status >= 400, "{response:?}");
    Ok(())
}

#[tokio::test]
async fn web_pages_cannot_publish() -> Result<()> {
    let folder = burger("1h");
    let host = Server::start(folder.path(), &[])?;
    let body = r#"{"items":[{"channel":"orders","formats":{"ws-message":{"content":"forged"}}}]}"#;
    for (headers, status) in [
        ("", 200),
        ("Origin: http://evil.example\r\n", 401),
        ("Sec-Fetch-Site: cross-site\r\n", 401),
        ("Authorization: Bearer nonsense\r\n", 401),
        ("Authorization: Basic eDp5\r\n", 401),
    ] {
        let response = host.publish(headers, body).await?;
        ensure!(response.status == status, "{headers:?}: {response:?}");
    }
    for (body, text) in [
        ("{", "body"),
        ("{}", "items"),
        (r#"{"items":[{}]}"#, "items[0]"),
        ("[]", "body"),
    ] {
        let response = host.publish("", body).await?;
        ensure!(
            response.status == 400 && response.body.contains(text),
            "{body}: {response:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn the_control_port_serves_readiness_and_metrics() -> Result<()> {
    let folder = probe("");
    let host = Server::start(folder.path(), &[])?;
    let send = async |method: &str, path: &str| {
        let request_line = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        request(host.control, &request_line).await
    };
    let ready = send("GET", "/readyz").await?;
    ensure!(
        (ready.status, ready.body.trim()) == (200, "ready"),
        "{ready:?}"
    );
    for (method, path, status) in [
        ("POST", "/readyz", 405),
        ("DELETE", "/metrics", 405),
        ("GET", "/publish/", 405),
        ("GET", "/nowhere", 404),
    ] {
        let response = send(method, path).await?;
        ensure!(response.status == status, "{method} {path}: {response:?}");
    }

    ensure!(host.get("/headers").await?.0 == 200);
    ensure!(host.get("/headers").await?.0 == 200);
    let metrics = send("GET", "/metrics").await?;
    ensure!(metrics.status == 200, "{metrics:?}");
    let has = |line: &str| metrics.body.lines().any(|metric| metric == line);
    for line in [
        r#"socket_host_backend_requests_total{component="probe",status="200"} 2"#,
        r#"socket_host_backend_seconds_count{component="probe"} 2"#,
        r#"socket_host_instances{component="probe"} 1"#,
        r#"socket_host_sessions{state="open"} 0"#,
        "# EOF",
    ] {
        ensure!(has(line), "{line} is not in\n{}", metrics.body);
    }
    Ok(())
}

#[tokio::test]
async fn metrics_count_sockets_and_timers() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &[])?;
    let mut socket = host.socket("/api/ws").await?;
    let pong = r#"{"event":"pong"}"#;
    socket.send(COMPONENT_PING).await?;
    ensure!(socket.event().await?["event"] == "pong");
    let mut stream = TcpStream::connect(host.address).await?;
    let get = "GET /api/orders/stream HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(get.as_bytes()).await?;
    host.wait_for_metric("socket_host_holds{mode=\"stream\"} 1")
        .await?;

    let item = r#"{"items":[{"channel":"orders","ws-message":{"content":"{}"},"http-stream":{"content":"data"}}]}"#;
    for (body, status) in [(item, 200), ("nonsense", 400)] {
        ensure!(host.publish("", body).await?.status == status);
    }
    socket.event().await?;
    for line in [
        "socket_host_sessions{state=\"open\"} 1".to_owned(),
        // The stream is subscribed to a second channel.
        "socket_host_channels 2".to_owned(),
        "socket_host_subscriptions 3".to_owned(),
        "socket_host_received_messages_total 1".to_owned(),
        format!("socket_host_received_bytes_total {}", COMPONENT_PING.len()),
        "socket_host_replied_messages_total 1".to_owned(),
        // Includes the frame header.
        format!("socket_host_replied_bytes_total {}", 2 + pong.len()),
        "socket_host_published_messages_total 2".to_owned(),
        format!("socket_host_published_bytes_total {}", 2 + "{}data".len()),
        "socket_host_publishes_total{status=\"200\"} 1".to_owned(),
        "socket_host_publishes_total{status=\"400\"} 1".to_owned(),
        "socket_host_items_total 1".to_owned(),
    ] {
        host.wait_for_metric(&line).await?;
    }
    drop(stream);
    host.wait_for_metric("socket_host_holds{mode=\"stream\"} 0")
        .await?;
    socket.0.close(None).await?;
    host.wait_for_metric("socket_host_sessions_ended_total{reason=\"client\"} 1")
        .await?;

    let timers = |path: &str| {
        format!(
            r#"[[application.tool.socket-host.timer]]
request = "GET {path}"
every = "1h"
"#
        )
    };
    let folder = probe(&(timers("/headers") + &timers("/trap")));
    let host = Server::start(folder.path(), &[])?;
    for (timer, outcome) in [("/headers", "success"), ("/trap", "failure")] {
        let labels = format!("timer=\"{timer}\",outcome=\"{outcome}\"");
        host.wait_for_metric(&format!("socket_host_timer_runs_total{{{labels}}} 1"))
            .await?;
    }
    Ok(())
}
