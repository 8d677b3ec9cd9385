//! The outside: private routes stay closed, and nobody pretends to be the host.

use anyhow::{Result, ensure};
use tests::{Server, burger, closed_burger, eventually, probe, request};
use tokio::{io::AsyncWriteExt, net::TcpStream};

#[tokio::test]
async fn the_private_route_is_not_there_however_it_is_spelled() -> Result<()> {
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
    ];
    for path in spellings {
        for method in [
            "POST", "GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW",
        ] {
            let answer = request(
                host.address,
                &format!(
                    "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\n\r\n",
                    host.address
                ),
            )
            .await?;
            // What is no path at all is refused as that.
            let refused = answer.status == 404 || (answer.status == 400 && path.contains('\\'));
            ensure!(refused, "{method} {path}: {answer:?}");
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
        "an order was made from outside"
    );
    Ok(())
}

#[tokio::test]
async fn a_request_names_one_host() -> Result<()> {
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
        let answer = request(host.address, &format!("{head}\r\n")).await?;
        ensure!(answer.status == status, "{head:?}: {answer:?}");
    }
    Ok(())
}

#[tokio::test]
async fn headers_of_the_host_do_not_come_from_outside() -> Result<()> {
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
    let answer = request(
        host.address,
        &format!(
            "GET /headers HTTP/1.1\r\nHost: {}\r\nX-Mine: kept\r\n{}\r\n\r\n",
            host.address,
            spoofed.join("\r\n")
        ),
    )
    .await?;
    ensure!(answer.status == 200, "{answer:?}");
    let seen = answer.body.to_ascii_lowercase();
    ensure!(seen.contains("x-mine"), "{seen}");
    ensure!(seen.contains("grip-sig"), "{seen}");
    for spoof in [
        // The host's own is there instead.
        "eyjhbgcioijiuzi1nij9.e30.x",
        "grip-hold",
        "\"grip-feature\":\"x\"",
        "connection-id",
        "meta-",
        "content-bytes",
        "1.2.3.4",
        "\"/x\"",
    ] {
        ensure!(!seen.contains(spoof), "{spoof} in {seen}");
    }
    Ok(())
}

#[tokio::test]
async fn events_made_by_hand_are_refused() -> Result<()> {
    let folder = burger("1h");
    let host = Server::start(folder.path(), &[])?;
    for content_type in [
        "application/websocket-events",
        "Application/WebSocket-Events; charset=utf-8",
    ] {
        let events = "OPEN\r\n";
        let answer = request(
            host.address,
            &format!(
                "POST /api/ws HTTP/1.1\r\nHost: {}\r\nContent-Type: {content_type}\r\nConnection-Id: 1\r\nContent-Length: {}\r\n\r\n{events}",
                host.address,
                events.len()
            ),
        )
        .await?;
        ensure!(answer.status == 403, "{answer:?}");
    }
    // A body of events under another name is no event either: the component wants the host's signature.
    let answer = request(
        host.address,
        &format!("POST /api/ws HTTP/1.1\r\nHost: {}\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nOPEN\r\n", host.address),
    )
    .await?;
    ensure!(answer.status >= 400, "{answer:?}");
    Ok(())
}

#[tokio::test]
async fn a_browser_page_cannot_publish() -> Result<()> {
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
        let answer = host.publish(headers, body).await?;
        ensure!(answer.status == status, "{headers:?}: {answer:?}");
    }
    for (body, text) in [
        ("{", "body"),
        ("{}", "items"),
        (r#"{"items":[{}]}"#, "items[0]"),
        ("[]", "body"),
    ] {
        let answer = host.publish("", body).await?;
        ensure!(
            answer.status == 400 && answer.body.contains(text),
            "{body}: {answer:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn the_control_port_tells_how_the_host_is() -> Result<()> {
    let folder = probe("");
    let host = Server::start(folder.path(), &[])?;
    let asked = async |method: &str, path: &str| {
        let request_line = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        request(host.control, &request_line).await
    };
    let ready = asked("GET", "/readyz").await?;
    ensure!(
        (ready.status, ready.body.trim()) == (200, "ready"),
        "{ready:?}"
    );
    for (method, path, status) in [
        ("POST", "/readyz", 405),
        ("DELETE", "/metrics", 405),
        ("GET", "/publish/", 405),
        ("GET", "/", 404),
    ] {
        let answer = asked(method, path).await?;
        ensure!(answer.status == status, "{method} {path}: {answer:?}");
    }

    ensure!(host.get("/headers").await?.0 == 200);
    ensure!(host.get("/headers").await?.0 == 200);
    let metrics = asked("GET", "/metrics").await?;
    ensure!(metrics.status == 200, "{metrics:?}");
    let told = |line: &str| metrics.body.lines().any(|told| told == line);
    for line in [
        r#"socket_host_backend_requests_total{component="probe",status="200"} 2"#,
        r#"socket_host_backend_seconds_count{component="probe"} 2"#,
        r#"socket_host_instances{component="probe"} 1"#,
        r#"socket_host_sessions{state="open"} 0"#,
        "# EOF",
    ] {
        ensure!(told(line), "{line} is not in\n{}", metrics.body);
    }
    Ok(())
}

#[tokio::test]
async fn what_happens_to_sockets_and_timers_is_counted() -> Result<()> {
    let folder = closed_burger();
    let host = Server::start(folder.path(), &[])?;
    let mut socket = host.socket("/api/ws").await?;
    let (ping, pong) = (r#"{"event":"ping"}"#, r#"{"event":"pong"}"#);
    socket.send(ping).await?;
    ensure!(socket.event().await?["event"] == "pong");
    let mut stream = TcpStream::connect(host.address).await?;
    let get = "GET /api/orders/stream HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(get.as_bytes()).await?;
    host.counts("socket_host_holds{mode=\"stream\"} 1").await?;

    let item = r#"{"items":[{"channel":"orders","ws-message":{"content":"{}"},"http-stream":{"content":"data"}}]}"#;
    for (body, status) in [(item, 200), ("nonsense", 400)] {
        ensure!(host.publish("", body).await?.status == status);
    }
    socket.event().await?;
    for line in [
        "socket_host_sessions{state=\"open\"} 1".to_owned(),
        // The stream is on another channel too.
        "socket_host_channels 2".to_owned(),
        "socket_host_subscriptions 3".to_owned(),
        "socket_host_received_messages_total 1".to_owned(),
        format!("socket_host_received_bytes_total {}", ping.len()),
        "socket_host_replied_messages_total 1".to_owned(),
        // With the head of its frame.
        format!("socket_host_replied_bytes_total {}", 2 + pong.len()),
        "socket_host_published_messages_total 2".to_owned(),
        format!("socket_host_published_bytes_total {}", 2 + "{}data".len()),
        "socket_host_publishes_total{status=\"200\"} 1".to_owned(),
        "socket_host_publishes_total{status=\"400\"} 1".to_owned(),
        "socket_host_items_total 1".to_owned(),
    ] {
        host.counts(&line).await?;
    }
    drop(stream);
    host.counts("socket_host_holds{mode=\"stream\"} 0").await?;
    socket.0.close(None).await?;
    host.counts("socket_host_sessions_ended_total{reason=\"client\"} 1")
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
        host.counts(&format!("socket_host_timer_runs_total{{{labels}}} 1"))
            .await?;
    }
    Ok(())
}
