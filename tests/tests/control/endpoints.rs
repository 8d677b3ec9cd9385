//! The requests of the dashboard.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::{
    Redis, Response, Server, burger, burger_without_timer, eventually, request, workspace,
};
use tokio::{io::AsyncReadExt as _, io::AsyncWriteExt as _, net::TcpStream};

/// Publishes a text to the WebSockets of a channel.
async fn publish(host: &Server, channel: &str, text: &str) -> Result<()> {
    let formats = json!({"ws-message": {"content": text}});
    let items = json!({"items": [{"channel": channel, "formats": formats}]});
    let response = host.publish("", &items.to_string()).await?;
    ensure!(response.status == 200, "{response:?}");
    Ok(())
}

/// Sends a request with headers, which are complete lines, and a body to the control port.
async fn send(
    host: &Server,
    method: &str,
    target: &str,
    headers: &str,
    body: &str,
) -> Result<Response> {
    let bytes = format!(
        "{method} {target} HTTP/1.1\r\nHost: {}\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        host.control,
        body.len()
    );
    request(host.control, &bytes).await
}

/// The items of a channel, as they are published.
struct Items {
    stream: TcpStream,
    received: String,
}

impl Items {
    async fn follow(host: &Server, target: &str) -> Result<Self> {
        let mut stream = TcpStream::connect(host.control).await?;
        let head = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut items = Self {
            stream,
            received: String::new(),
        };
        while !items.received.contains("\r\n\r\n") {
            items.read().await?;
        }
        ensure!(
            items.received.starts_with("HTTP/1.1 200 "),
            "{}",
            items.received
        );
        ensure!(items.received.contains("content-type: text/event-stream"));
        Ok(items)
    }

    async fn read(&mut self) -> Result<()> {
        let mut buffer = [0; 4096];
        let read = tokio::time::timeout(tests::TIMEOUT, self.stream.read(&mut buffer));
        let length = read.await.context("nothing is received")??;
        ensure!(length > 0, "the connection was closed");
        self.received += &String::from_utf8_lossy(&buffer[..length]);
        Ok(())
    }

    /// Returns the next item.
    async fn next(&mut self) -> Result<Value> {
        loop {
            if let Some(start) = self.received.find("data: ")
                && let Some(length) = self.received[start..].find("\n\n")
            {
                let data = self.received[start + 6..start + length].to_owned();
                self.received.drain(..start + length);
                return Ok(serde_json::from_str(&data)?);
            }
            self.read().await?;
        }
    }
}

#[tokio::test]
async fn sessions_are_listed_closed_refreshed_and_sent_to() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &[])?;
    let mut first = host.socket("/api/ws").await?;
    let mut second = host.socket("/api/ws").await?;
    let list = eventually("two open sessions", async || {
        let list = host.report("GET", "/sessions/").await.ok()?;
        let mut sessions = list["sessions"].as_array()?.iter();
        sessions
            .all(|session| session["state"] == "open")
            .then(|| list.clone())
    });
    let list = list.await?;
    ensure!(list["total"] == 2 && list["next"].is_null(), "{list}");
    let sessions = list["sessions"].as_array().context("sessions")?;
    ensure!(sessions.len() == 2, "{list}");
    for session in sessions {
        ensure!(session["path"] == "/api/ws", "{session}");
        ensure!(session["address"] == "127.0.0.1", "{session}");
        ensure!(
            session["state"] == "open" && session["queued"] == 0,
            "{session}"
        );
        ensure!(
            session["age"].as_u64().is_some_and(|age| age < 60),
            "{session}"
        );
    }
    // The newest comes first.
    let ids = sessions
        .iter()
        .map(|session| session["connection"].as_str());
    let ids: Vec<_> = ids.collect::<Option<_>>().context("connection")?;
    let (newest, oldest) = (ids[0], ids[1]);
    let page = host.report("GET", "/sessions/?limit=1").await?;
    ensure!(page["sessions"][0]["connection"] == newest, "{page}");
    let next = format!("/sessions/?limit=1&before={}", page["next"]);
    let page = host.report("GET", &next).await?;
    ensure!(page["sessions"][0]["connection"] == oldest, "{page}");

    let target = format!("/sessions/{newest}/send");
    let sent = send(&host, "POST", &target, "", r#"{"event":"hello"}"#).await?;
    ensure!(sent.status == 200, "{sent:?}");
    ensure!(second.event().await?["event"] == "hello");
    let invalid = send(&host, "POST", &target, "Content-Type: text/plain\r\n", "").await?;
    ensure!(invalid.status == 200, "an empty text is one: {invalid:?}");

    let refreshed = send(
        &host,
        "POST",
        &format!("/sessions/{oldest}/refresh"),
        "",
        "",
    )
    .await?;
    ensure!(refreshed.status == 200, "{refreshed:?}");
    // The component is called once more for it.
    let requests = "socket_host_backend_requests_total{component=\"orders\",status=\"200\"} 3";
    host.wait_for_metric(requests).await?;

    let target = format!("/sessions/{oldest}?code=4001&reason=bye");
    let closed = send(&host, "DELETE", &target, "", "").await?;
    ensure!(closed.status == 200, "{closed:?}");
    ensure!(first.closed().await? == Some(4001));
    host.wait_for_metric("socket_host_sessions_ended_total{reason=\"control\"} 1")
        .await?;
    let again = eventually("the end of the session", async || {
        let response = send(&host, "DELETE", &target, "", "").await.ok()?;
        (response.status == 404).then_some(response)
    });
    let again = again.await?;
    ensure!(again.body.contains("no WebSocket has this id"), "{again:?}");
    for (method, target, status) in [
        ("DELETE", "/sessions/x".to_owned(), 400),
        ("DELETE", format!("/sessions/{newest}?code=1005"), 400),
        ("GET", format!("/sessions/{newest}"), 405),
        ("GET", "/sessions/?limit=x".to_owned(), 400),
        ("GET", "/sessions/?before=x".to_owned(), 400),
        ("DELETE", format!("/sessions/{newest}/send"), 405),
    ] {
        let response = send(&host, method, &target, "", "").await?;
        ensure!(response.status == status, "{method} {target}: {response:?}");
    }
    ensure!(host.count("sessions").await? == 1);
    Ok(())
}

#[tokio::test]
async fn sessions_of_other_hosts_can_be_closed() -> Result<()> {
    let redis = Redis::start()?;
    let url = redis.url() + "/1";
    let folders = [burger_without_timer(), burger_without_timer()];
    let start = |folder: &tempfile::TempDir| Server::start(folder.path(), &["--bus", &url]);
    let (first, second) = (start(&folders[0])?, start(&folders[1])?);
    let mut socket = first.socket("/api/ws").await?;
    let list = first.report("GET", "/sessions/").await?;
    let id = list["sessions"][0]["connection"].as_str().context("id")?;
    let other = second.report("GET", "/sessions/").await?;
    ensure!(other["total"] == 0, "{other}");
    let closed = send(&second, "DELETE", &format!("/sessions/{id}"), "", "").await?;
    ensure!(closed.status == 200, "{closed:?}");
    ensure!(socket.closed().await? == Some(1008));

    let status = eventually("both hosts", async || {
        let status = second.report("GET", "/status/").await.ok()?;
        let hosts = status["bus"]["hosts"].as_array()?;
        (hosts.len() == 2).then(|| status.clone())
    });
    let status = status.await?;
    ensure!(status["bus"]["state"] == "up", "{status}");
    let own = &status["bus"]["host"];
    let hosts = status["bus"]["hosts"].as_array().context("hosts")?;
    ensure!(hosts.contains(own), "{status}");
    Ok(())
}

#[tokio::test]
async fn channels_are_listed_by_subscribers() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &[])?;
    let _socket = host.socket("/api/ws").await?;
    let items = Items::follow(&host, "/channels/quiet/events").await?;
    publish(&host, "orders", "{}").await?;
    let list = host.report("GET", "/channels/").await?;
    let channels = list["channels"].as_array().context("channels")?;
    ensure!(channels[0]["channel"] == "orders", "{list}");
    ensure!(channels[0]["subscribers"] == 1, "{list}");
    ensure!(channels[0]["history"]["items"] == 1, "{list}");
    // Those who follow a channel do not count.
    let quiet = channels.iter().find(|it| it["channel"] == "quiet");
    ensure!(quiet.context("the channel that is followed")?["subscribers"] == 0);
    let health = host.health().await?;
    ensure!(
        health["channels"] == 1 && health["subscriptions"] == 1,
        "{health}"
    );

    let one = host.report("GET", "/channels/?prefix=ord&limit=1").await?;
    ensure!(one["channels"][0]["channel"] == "orders", "{one}");
    let none = host.report("GET", "/channels/?prefix=zz").await?;
    ensure!(none == json!({"channels": [], "total": 0}), "{none}");
    drop(items);
    eventually("the end of the channel", async || {
        let list = host.report("GET", "/channels/?prefix=quiet").await.ok()?;
        (list["total"] == 0).then_some(())
    })
    .await
}

#[tokio::test]
async fn a_channel_can_be_followed() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &[])?;
    for text in ["a", "b", "c"] {
        publish(&host, "orders", text).await?;
    }
    let text = |item: &Value| item["formats"]["ws-message"]["content"].clone();
    let mut live = Items::follow(&host, "/channels/orders/events").await?;
    let mut recent = Items::follow(&host, "/channels/orders/events?recent=2").await?;
    ensure!(text(&recent.next().await?) == "b");
    ensure!(text(&recent.next().await?) == "c");
    // A hint is for no WebSocket, and is left out.
    let hint = json!({"channel": "orders", "formats": {"ws-message": {"action": "hint"}}});
    let body = json!({"items": [hint]}).to_string();
    ensure!(host.publish("", &body).await?.status == 200);
    // All forms of an item are shown, as they were published.
    let item = json!({
        "channel": "orders",
        "id": "7",
        "formats": {
            "ws-message": {"action": "close", "code": 4000, "reason": "bye"},
            "http-stream": {"action": "send", "content": "s"},
            "http-response": {"action": "send", "code": 200, "headers": [["x-a", "b"]], "body": "r"},
        },
    });
    let body = json!({"items": [item]}).to_string();
    ensure!(host.publish("", &body).await?.status == 200);
    for items in [&mut live, &mut recent] {
        let received = items.next().await?;
        ensure!(
            received["channel"] == "orders" && received["id"] == "7",
            "{received}"
        );
        let formats = &received["formats"];
        ensure!(
            formats["ws-message"] == item["formats"]["ws-message"],
            "{received}"
        );
        ensure!(formats["http-stream"]["content"] == "s", "{received}");
        ensure!(formats["http-response"]["body"] == "r", "{received}");
    }
    // The report for the publisher does not count those who follow.
    let counted = host.publish("Accept: application/json\r\n", &body).await?;
    ensure!(
        counted.body.contains("\"subscribers\":{\"orders\":0}"),
        "{counted:?}"
    );
    let refused = send(&host, "GET", "/channels/orders/events?recent=9999", "", "").await?;
    ensure!(refused.status == 400, "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn the_status_shows_timers_and_the_log_its_last_lines() -> Result<()> {
    let folder = burger("100ms");
    let manifest = folder.path().join("spin.toml");
    let text = std::fs::read_to_string(&manifest)?
        + "\n[[application.tool.socket-host.timer]]\nrequest = \"POST /nowhere\"\nevery = \"1h\"\n\
         \n[[application.tool.socket-host.timer]]\nrequest = \"POST /later\"\ncron = \"0 0 0 1 1 *\"\n";
    std::fs::write(&manifest, text)?;
    let host = Server::start(folder.path(), &[])?;
    let status = eventually("the results of the timers", async || {
        let status = host.report("GET", "/status/").await.ok()?;
        let has_result = |timer: &Value| !timer["last"].is_null();
        let timers = status["timers"].as_array()?;
        timers[..2].iter().all(has_result).then(|| status.clone())
    });
    let status = status.await?;
    ensure!(status["version"] == env!("CARGO_PKG_VERSION"), "{status}");
    let timers = status["timers"].as_array().context("timers")?;
    ensure!(timers.len() == 3, "{status}");
    ensure!(timers[0]["timer"] == "POST /internal/orders", "{status}");
    ensure!(timers[0]["schedule"] == "every 100ms", "{status}");
    ensure!(timers[0]["last"]["result"] == "success", "{status}");
    ensure!(timers[1]["last"]["result"] == "failure", "{status}");
    ensure!(timers[1]["last"]["error"].is_string(), "{status}");
    ensure!(timers[1]["next"].is_string(), "{status}");
    let next = timers[2]["next"].as_str().context("next")?;
    ensure!(next.ends_with("-01-01T00:00:00.000Z"), "{status}");
    ensure!(timers[2]["last"].is_null(), "{status}");

    let log = host.report("GET", "/log/").await?;
    let lines = log["lines"].as_array().context("lines")?;
    let has = |lines: &[Value], text: &str| {
        let mut lines = lines.iter().filter_map(Value::as_str);
        lines.any(|line| line.contains(text) && !line.contains('\u{1b}'))
    };
    ensure!(has(lines, "timer failed"), "{log}");
    let since = format!("/log/?since={}", log["next"]);
    let later = host.report("GET", &since).await?;
    ensure!(later["first"].as_u64() >= log["next"].as_u64(), "{later}");
    ensure!(send(&host, "GET", "/log/?since=x", "", "").await?.status == 400);
    Ok(())
}

#[tokio::test]
async fn deliveries_are_timed() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &[])?;
    let mut socket = host.socket("/api/ws").await?;
    publish(&host, "orders", r#"{"event":"a"}"#).await?;
    socket.event().await?;
    host.wait_for_metric("socket_host_delivery_seconds_count 1")
        .await?;
    let metrics = host.metrics().await?;
    let sum = metrics
        .lines()
        .find_map(|line| line.strip_prefix("socket_host_delivery_seconds_sum "))
        .context("the sum")?;
    let sum: f64 = sum.parse()?;
    ensure!(sum > 0.0 && sum < 10.0, "{sum}");
    let memory = metrics
        .lines()
        .find_map(|line| line.strip_prefix("socket_host_memory_bytes "))
        .context("the memory")?;
    ensure!(memory.parse::<f64>()? > 1e6, "{memory}");
    Ok(())
}

#[tokio::test]
async fn the_page_is_served_without_a_token_and_contains_nothing_inline() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &["--grip-key", "secret"])?;
    let page = send(&host, "GET", "/", "", "").await?;
    ensure!(page.status == 200, "{page:?}");
    let head = page.head.to_ascii_lowercase();
    for line in [
        "content-type: text/html; charset=utf-8",
        "x-content-type-options: nosniff",
        "x-frame-options: deny",
        "referrer-policy: no-referrer",
        "cache-control: no-store",
    ] {
        ensure!(head.lines().any(|it| it == line), "{line}: {head}");
    }
    let policy = head
        .lines()
        .find(|it| it.starts_with("content-security-policy: "));
    let policy = policy.context("no policy")?;
    for part in [
        "default-src 'none'",
        "script-src 'self'",
        "frame-ancestors 'none'",
    ] {
        ensure!(policy.contains(part), "{policy}");
    }
    ensure!(!policy.contains("unsafe"), "{policy}");
    ensure!(!page.body.contains("<style") && !page.body.contains(" style="));
    // Each file of the folder is served, and no other.
    let folder = workspace().join("host/src/control/dashboard");
    let mut served = 0;
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name().into_string().ok().context("a name")?;
        if name == "index.html" {
            continue;
        }
        let file = send(&host, "GET", &format!("/dashboard/{name}"), "", "").await?;
        ensure!(file.status == 200, "{name}: {file:?}");
        served += 1;
    }
    ensure!(served > 5);
    for (method, target, status) in [
        ("GET", "/dashboard/index.html", 404),
        ("GET", "/dashboard/../main.rs", 404),
        ("GET", "/dashboard/", 404),
        ("POST", "/", 405),
    ] {
        let response = send(&host, method, target, "", "").await?;
        ensure!(response.status == status, "{method} {target}: {response:?}");
    }
    let other_host = request(host.control, "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n").await?;
    ensure!(other_host.status == 421, "{other_host:?}");
    Ok(())
}

#[tokio::test]
async fn only_the_own_page_and_programs_need_no_token() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &[])?;
    let own = format!(
        "Origin: http://{}\r\nSec-Fetch-Site: same-origin\r\n",
        host.control
    );
    let body = r#"{"items":[]}"#;
    for headers in [own.as_str(), "Sec-Fetch-Site: same-origin\r\n", ""] {
        let published = send(&host, "POST", "/publish/", headers, body).await?;
        ensure!(published.status == 200, "{headers}: {published:?}");
        let listed = send(&host, "GET", "/sessions/", headers, "").await?;
        ensure!(listed.status == 200, "{headers}: {listed:?}");
    }
    let app = format!(
        "Origin: http://{}\r\nSec-Fetch-Site: same-site\r\n",
        host.address
    );
    for headers in [
        app.as_str(),
        "Origin: https://evil.example\r\nSec-Fetch-Site: cross-site\r\n",
        "Origin: null\r\n",
        "Sec-Fetch-Site: none\r\n",
    ] {
        for (method, target) in [
            ("POST", "/publish/"),
            ("GET", "/sessions/"),
            ("GET", "/channels/"),
            ("GET", "/channels/orders/events"),
            ("GET", "/status/"),
            ("GET", "/log/"),
            ("DELETE", "/sessions/0f0f0f0f-0f0f-4f0f-8f0f-0f0f0f0f0f0f"),
        ] {
            let refused = send(&host, method, target, headers, body).await?;
            ensure!(
                refused.status == 401,
                "{method} {target} {headers}: {refused:?}"
            );
        }
    }
    // A name of another site that resolves to this address.
    for target in [
        "/publish/",
        "/sessions/0f0f0f0f-0f0f-4f0f-8f0f-0f0f0f0f0f0f/refresh",
    ] {
        let rebound = format!(
            "POST {target} HTTP/1.1\r\nHost: evil.example:{port}\r\n\
             Origin: http://evil.example:{port}\r\nSec-Fetch-Site: same-origin\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len(),
            port = host.control.port(),
        );
        let refused = request(host.control, &rebound).await?;
        ensure!(matches!(refused.status, 401 | 421), "{target}: {refused:?}");
    }
    // With a key, the own page needs a token as well.
    let host = Server::start(folder.path(), &["--grip-key", "secret"])?;
    let own = format!(
        "Origin: http://{}\r\nSec-Fetch-Site: same-origin\r\n",
        host.control
    );
    ensure!(send(&host, "GET", "/status/", &own, "").await?.status == 401);
    let with_key = format!("{own}Authorization: Bearer secret\r\n");
    ensure!(send(&host, "GET", "/status/", &with_key, "").await?.status == 200);
    Ok(())
}
