//! The simulated host behaves as the real one.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Result;
use component_testing::{Closed, Limits, TestApp, http::Request};
use tests::{Client, Server, burger_without_timer, probe, request, wasm};
use tokio_tungstenite::tungstenite::Message;

use crate::burger;

/// Runs a test of the real host.
fn run<T>(test: impl Future<Output = Result<T>>) -> T {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(test).expect("the real host serves")
}

/// The header that both are to have.
const HEADERS: [&str; 5] = [
    "content-type",
    "cache-control",
    "allow",
    "retry-after",
    "location",
];

/// A status, the headers above, and a body.
type Seen = (u16, Vec<(String, String)>, String);

fn seen_of_head(status: u16, head: &str, body: String) -> Seen {
    let headers = head.lines().filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
    let mut headers: Vec<_> = headers
        .filter(|(name, _)| HEADERS.contains(&name.as_str()))
        .collect();
    headers.sort();
    (status, headers, body)
}

#[test]
fn plain_requests_get_the_same_responses() {
    let requests = [
        ("GET", "/api/orders", "", ""),
        ("GET", "/api/orders?limit=0", "", ""),
        ("GET", "/api/orders/100", "", ""),
        ("DELETE", "/api/orders/100", "", ""),
        ("GET", "/api/ws", "", ""),
        ("POST", "/api/ws", "text/plain", "x"),
        (
            "POST",
            "/api/ws",
            "application/websocket-events",
            "OPEN\r\n",
        ),
        (
            "POST",
            "/api/orders/100/status",
            "application/json",
            "{\"status\":\"fired\"}",
        ),
        ("POST", "/api/orders/100/status", "text/plain", "{}"),
        ("POST", "/internal/orders", "", ""),
        ("GET", "/internal/%2e%2e/internal/orders", "", ""),
        ("GET", "/none", "", ""),
        ("GET", "/", "", ""),
        ("GET", "/static/page.css", "", ""),
        ("GET", "/static/none.css", "", ""),
        ("GET", "/.well-known/spin/info", "", ""),
    ];
    let app = burger().build().unwrap();
    let real: Vec<Seen> = run(async {
        let folder = burger_without_timer();
        let host = Server::start(folder.path(), &[])?;
        let mut real = Vec::new();
        for (method, path, content_type, body) in requests {
            let mut text = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
            if !content_type.is_empty() {
                text += &format!("Content-Type: {content_type}\r\n");
            }
            text += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
            let response = request(host.address, &text).await?;
            real.push(seen_of_head(response.status, &response.head, response.body));
        }
        Ok(real)
    });
    for ((method, path, content_type, body), real) in requests.into_iter().zip(real) {
        let mut request = Request::builder().method(method).uri(path);
        if !content_type.is_empty() {
            request = request.header("content-type", content_type);
        }
        let response = app.request(request.body(body).unwrap());
        let head = response.headers();
        let head: Vec<_> = head
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        let status = response.status().as_u16();
        let simulated = seen_of_head(status, &head.join("\n"), response.text());
        assert_eq!(simulated, real, "{method} {path}");
    }
}

/// What a client sees that opens a WebSocket and sends a message: the status of a refusal, or the texts and
/// the close code.
#[derive(Debug, PartialEq, Eq)]
enum Course {
    Refused(u16),
    Open {
        texts: Vec<String>,
        code: Option<u16>,
    },
}

#[test]
fn websockets_take_the_same_course() {
    let paths = [
        "/websocket-echo",
        "/echo",
        "/none",
        "/trap",
        "/rubbish?kind=framing",
        "/rubbish?kind=length",
        "/rubbish?kind=truncated",
        "/rubbish?kind=unknown",
        "/rubbish?kind=no-newline",
        "/rubbish?kind=content-type",
        "/rubbish?kind=endless",
        "/rubbish?kind=trap",
        "/rubbish?kind=hang",
        "/rubbish?kind=order",
        "/rubbish?kind=unknown-open",
        "/rubbish?kind=order-open",
    ];
    let real = run(async {
        let folder = probe("");
        let host = Server::start(folder.path(), &["--request-timeout", "2s"])?;
        let mut real = Vec::new();
        for path in paths {
            let mut client = match Client::open(host.address, path, &[]).await {
                Ok(client) => client,
                Err(refused) => {
                    real.push(Course::Refused(refused.status.unwrap_or_default()));
                    continue;
                }
            };
            client.send("hello").await?;
            let (mut texts, mut code) = (Vec::new(), None);
            // The echo is the only response without a close.
            while let Some(message) = client.next().await? {
                match message {
                    Message::Text(text) => texts.push(text.to_string()),
                    Message::Close(frame) => code = frame.map(|frame| frame.code.into()),
                    _ => {}
                }
                if path == "/websocket-echo" || code.is_some() {
                    break;
                }
            }
            real.push(Course::Open { texts, code });
        }
        Ok(real)
    });
    let limits = Limits {
        request_timeout: Duration::from_secs(2),
        ..Limits::DEFAULT
    };
    let app = TestApp::from_component(wasm("probe")).limits(limits);
    let app = app.build().unwrap();
    for (path, real) in paths.into_iter().zip(real) {
        let simulated = match app.websocket(path) {
            Err(refused) => Course::Refused(refused.status().as_u16()),
            Ok(client) => {
                client.send("hello");
                Course::Open {
                    texts: client.texts(),
                    code: client.closed().as_ref().and_then(Closed::code),
                }
            }
        };
        assert_eq!(simulated, real, "{path}");
    }
}

#[test]
fn components_see_the_same_headers() {
    let names = |json: &str| -> BTreeSet<String> {
        let headers: serde_json::Map<_, _> = serde_json::from_str(json).expect("an object");
        headers.into_iter().map(|(name, _)| name).collect()
    };
    let real = run(async {
        let folder = probe("");
        let host = Server::start(folder.path(), &[])?;
        Ok(host.get("/headers").await?.1)
    });
    let app = TestApp::from_component(wasm("probe")).build().unwrap();
    let (real, simulated) = (names(&real), names(&app.get("/headers").text()));
    let missing: Vec<_> = real.difference(&simulated).cloned().collect();
    let additional: Vec<_> = simulated.difference(&real).cloned().collect();
    assert_eq!((missing, additional), (vec![], vec![]));
}
