//! Tests of the routes, from the point of view of a host.

use std::io::Read;

use flate2::read::GzDecoder;
use grip::{Event, Limits, event};
use http_body_util::BodyExt;
use rand::{SeedableRng, rngs::SmallRng};
use serde_json::Value;
use sockets::testing::{block_on, set_publishing_fails, store, token};

use super::*;
use crate::{
    order::{Order, Status},
    testing::{self, take_messages},
};

const NOW: SystemTime = SystemTime::UNIX_EPOCH;
const EVENTS: (&str, &str) = ("content-type", "application/websocket-events");

struct Server(Router);

struct TestResponse {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl TestResponse {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn ids(&self) -> Vec<u64> {
        assert_eq!(self.status, 200, "{}", self.text());
        assert_eq!(self.headers["content-type"], "application/json");
        assert_eq!(self.headers["cache-control"], "no-store");
        let body: Value = serde_json::from_slice(&self.body).unwrap();
        let orders: Vec<Order> = serde_json::from_value(body["orders"].clone()).unwrap();
        orders.iter().map(|order| order.id).collect()
    }
}

impl Server {
    fn new() -> Server {
        Server(Router {
            orders: testing::empty_orders(),
        })
    }

    fn send(
        &self,
        method: &str,
        uri: &str,
        headers: &[(&str, &str)],
        body: &'static [u8],
    ) -> TestResponse {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap();
        let read_body = async |limit| {
            if body.len() <= limit {
                Ok(Bytes::from_static(body))
            } else {
                Err(format!("more than {limit} bytes"))
            }
        };
        let rng = || SmallRng::seed_from_u64(7);
        let response = block_on(self.0.handle(request, read_body, rng, NOW));
        let (head, body) = response.into_parts();
        let body = block_on(body.collect()).unwrap().to_bytes();
        assert_eq!(head.headers["content-length"], body.len().to_string());
        TestResponse {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
        }
    }

    fn get(&self, uri: &str) -> TestResponse {
        self.send("GET", uri, &[], b"")
    }

    fn create_order(&self) -> TestResponse {
        self.send("POST", "/internal/orders", &[("grip-sig", &token())], b"")
    }
}

#[test]
fn orders_are_created_and_published() {
    let server = Server::new();
    for id in 100..105 {
        let response = server.create_order();
        assert_eq!(response.status, 201);
        let order: Order = serde_json::from_slice(&response.body).unwrap();
        assert_eq!(order.id, id);
        assert_eq!(order.timestamp, "1970-01-01T00:00:00.000Z");
        let published = take_messages().pop().unwrap();
        assert_eq!(
            published,
            format!(
                r#"{{"event":"order-received","detail":{{"order":{}}}}}"#,
                response.text()
            )
        );
        assert_eq!(server.get(&format!("/api/orders/{id}")).body, response.body);
    }
}

#[test]
fn orders_are_stored_when_publishing_fails() {
    let server = Server::new();
    set_publishing_fails(true);
    assert_eq!(server.create_order().status, 201);
    assert_eq!(server.get("/api/orders").ids(), [100]);
}

#[test]
fn orders_are_listed() {
    let server = Server::new();
    assert_eq!(server.get("/api/orders").text(), r#"{"orders":[]}"#);
    assert_eq!(server.get("/api/orders?after=0").text(), r#"{"orders":[]}"#);
    for _ in 0..1005 {
        assert_eq!(server.create_order().status, 201);
    }
    let ids = |range: std::ops::RangeInclusive<u64>| range.collect::<Vec<_>>();
    assert_eq!(server.get("/api/orders").ids(), ids(1093..=1104));
    assert_eq!(server.get("/api/orders?limit=2").ids(), ids(1103..=1104));
    assert_eq!(server.get("/api/orders?after=1100").ids(), ids(1101..=1104));
    assert_eq!(
        server.get("/api/orders?after=1100&limit=2").ids(),
        ids(1101..=1102)
    );
    // Only the newest thousand orders are kept.
    assert_eq!(server.get("/api/orders?after=1").ids(), ids(105..=1104));
    assert_eq!(
        server.get("/api/orders?after=1&limit=3").ids(),
        ids(105..=107)
    );
    assert_eq!(server.get("/api/orders?after=1104").ids(), [0; 0]);
    assert_eq!(
        server.get("/api/orders?after=18446744073709551615").ids(),
        [0; 0]
    );
    assert_eq!(server.get("/api/orders/104").status, 404);
    assert_eq!(server.get("/api/orders/105").status, 200);
    // There is one count, and a slot and an order for each id. Nothing of older orders remains.
    assert_eq!(store("default").keys().len(), 1 + 2 * 1000);
    let bad = server.get("/api/orders?limit=13");
    assert_eq!(
        (bad.status, bad.text()),
        (400, "limit: expected a number from 1 to 12\n")
    );
}

#[test]
fn lists_are_compressed_if_the_client_accepts_it() {
    let server = Server::new();
    for _ in 0..12 {
        server.create_order();
    }
    let plain = server.get("/api/orders");
    assert_eq!(plain.ids().len(), 12);
    assert_eq!(plain.headers["vary"], "accept-encoding");
    assert!(!plain.headers.contains_key("content-encoding"));

    let accepts_gzip = [("accept-encoding", "gzip, deflate")];
    let compressed = server.send("GET", "/api/orders", &accepts_gzip, b"");
    assert_eq!(compressed.headers["content-encoding"], "gzip");
    assert_eq!(compressed.headers["vary"], "accept-encoding");
    assert!(compressed.body.len() < plain.body.len() / 3);
    let mut content = Vec::new();
    GzDecoder::new(&*compressed.body)
        .read_to_end(&mut content)
        .unwrap();
    assert_eq!(content, plain.body);

    let short = server.send("GET", "/api/orders?after=200", &accepts_gzip, b"");
    assert!(!short.headers.contains_key("content-encoding"));
}

#[test]
fn responses_to_browsers_have_security_headers() {
    let server = Server::new();
    server.create_order();
    for path in [
        "/api/orders",
        "/api/orders?limit=no",
        "/api/orders/100",
        "/api/orders/99",
        "/api/orders/stream",
        "/api/ws",
        "/api/nothing",
        "/internal/orders",
    ] {
        let headers = server.get(path).headers;
        assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
        let policy = &headers["cross-origin-resource-policy"];
        assert_eq!(policy, "same-origin", "{path}");
    }
}

#[test]
fn unknown_paths_are_not_found() {
    let server = Server::new();
    server.create_order();
    assert_eq!(server.get("/api/orders/100").status, 200);
    for path in [
        "/",
        "/api",
        "/api/orders/",
        "/api/orders/99",
        "/api/orders/101",
        "/api/orders/0100",
        "/api/orders/+100",
        "/api/orders/100/",
        "/api/orders/100/1",
        "/api/orders/100/status/",
        "/api/orders/x/status",
        "/api/orders/count",
        "/api/orders/stream/",
        "/internal",
        "/internal/orders/",
        "//internal/orders",
        "/api/orders/18446744073709551616",
    ] {
        assert_eq!(server.get(path).status, 404, "{path}");
        assert_eq!(
            server.get(path).headers["content-type"],
            "text/plain; charset=utf-8"
        );
    }
}

#[test]
fn status_is_updated_over_http() {
    let server = Server::new();
    server.create_order();
    let json = [("content-type", "application/json")];
    let update = |path: &str, body: &'static [u8]| server.send("POST", path, &json, body);
    let path = "/api/orders/100/status";
    let early = update(path, br#"{"status":"fulfilled"}"#);
    assert_eq!(
        (early.status, early.text()),
        (409, "order 100 is received: it cannot become fulfilled\n")
    );
    let fired = update(path, br#"{"status":"fired"}"#);
    assert_eq!(
        (fired.status, &fired.headers["cache-control"]),
        (200, &"no-store".parse().unwrap())
    );
    assert_eq!(
        serde_json::from_slice::<Order>(&fired.body).unwrap().status,
        Status::Fired
    );
    assert_eq!(update(path, br#"{"status":"fired"}"#).status, 409);
    assert_eq!(
        update("/api/orders/101/status", br#"{"status":"fired"}"#).status,
        404
    );
    assert_eq!(update(path, b"{}").status, 400);
    let long = update(path, const { &[b' '; update::MAX_BODY_BYTES + 1] });
    assert_eq!(
        (long.status, long.text()),
        (400, "body: more than 1024 bytes\n")
    );

    assert_eq!(server.get("/api/orders/100").body, fired.body);
    let published = take_messages();
    assert_eq!(published.len(), 2, "{published:?}");
    assert_eq!(
        published[1],
        format!(
            r#"{{"event":"order-updated","detail":{{"order":{}}}}}"#,
            fired.text()
        )
    );
}

#[test]
fn pages_of_other_origins_cannot_update_a_status() {
    let server = Server::new();
    server.create_order();
    let update = |headers: &[(&str, &str)]| {
        let body = br#"{"status":"fired"}"#;
        server
            .send("POST", "/api/orders/100/status", headers, body)
            .status
    };
    let json = ("content-type", "application/json");
    assert_eq!(update(&[("content-type", "text/plain")]), 415);
    assert_eq!(update(&[json, ("sec-fetch-site", "cross-site")]), 403);
    assert_eq!(update(&[json, ("origin", "http://evil.example")]), 403);
    assert_eq!(update(&[json, ("sec-fetch-site", "same-origin")]), 200);
}

#[test]
fn unsupported_methods_are_rejected() {
    let server = Server::new();
    server.create_order();
    let sig = token();
    for (method, path, status, allow) in [
        ("HEAD", "/api/orders", 200, ""),
        ("HEAD", "/api/orders/100", 200, ""),
        ("HEAD", "/api/orders/99", 404, ""),
        ("POST", "/api/orders", 405, "GET, HEAD"),
        ("DELETE", "/api/orders/100", 405, "GET, HEAD"),
        ("GET", "/api/orders/100/status", 405, "POST"),
        ("PUT", "/api/orders/100/status", 405, "POST"),
        ("HEAD", "/api/orders/stream", 200, ""),
        ("POST", "/api/orders/stream", 405, "GET, HEAD"),
        ("GET", "/api/ws", 426, ""),
        ("HEAD", "/api/ws", 426, ""),
        ("POST", "/api/ws", 415, ""),
        ("PUT", "/api/ws", 405, "GET, HEAD, POST"),
        ("GET", "/internal/orders", 405, "POST"),
        ("PUT", "/internal/orders", 405, "POST"),
    ] {
        let response = server.send(method, path, &[("grip-sig", &sig)], b"");
        assert_eq!(response.status, status, "{method} {path}");
        let allowed = response
            .headers
            .get("allow")
            .map_or("", |value| value.to_str().unwrap());
        assert_eq!(allowed, allow, "{method} {path}");
    }
}

#[test]
fn only_the_host_creates_orders_and_sends_events() {
    let server = Server::new();
    let send = |headers: &[(&str, &str)]| {
        let mut with_type = vec![EVENTS];
        with_type.extend(headers);
        let created = server.send("POST", "/internal/orders", headers, b"");
        let sent = server.send("POST", "/api/ws", &with_type, b"OPEN\r\n");
        (created.status, sent.status)
    };
    assert_eq!(send(&[]), (403, 403));
    for invalid in ["", "other"] {
        assert_eq!(send(&[("grip-sig", invalid)]), (403, 403));
    }
    assert_eq!(send(&[("grip-sig", &token())]), (201, 200));
    assert_eq!(server.get("/internal/orders").status, 403);
}

#[test]
fn websocket_events_are_answered() {
    let server = Server::new();
    let sig = token();
    let headers = [EVENTS, ("grip-sig", &*sig)];
    let send = |body: &'static [u8]| server.send("POST", "/api/ws?x=1", &headers, body);
    let response = send(b"OPEN\r\nTEXT 10\r\n{\"event\":\"ping\"}\r\n");
    assert_eq!(response.status, 200);
    assert_eq!(
        response.headers["content-type"],
        "application/websocket-events"
    );
    assert_eq!(response.headers["sec-websocket-extensions"], "grip");
    let events = event::decode_all(response.body, Limits::default()).unwrap();
    assert_eq!(events.len(), 3);
    assert_eq!(events[2], Event::text(r#"m:{"event":"pong"}"#));
    assert_eq!((send(b"").status, &*send(b"").body), (200, &b""[..]));
    let bad = send(b"OPEN");
    assert_eq!(bad.status, 400);
    assert!(bad.text().starts_with("body: byte 0: "), "{}", bad.text());
    let bad = send(const { &[b'x'; MAX_EVENTS_BYTES + 1] });
    assert_eq!(
        (bad.status, bad.text()),
        (400, "body: more than 1048576 bytes\n")
    );
}

#[test]
fn only_the_host_gets_a_held_stream() {
    let server = Server::new();
    server.create_order();
    let hold = |method: &str, token: Option<&str>| {
        let headers: Vec<_> = token.iter().map(|token| ("grip-sig", *token)).collect();
        let response = server.send(method, "/api/orders/stream?after=99", &headers, b"");
        assert_eq!(response.status, 200);
        assert!(
            response
                .text()
                .starts_with("id: 100\nevent: order-received\n")
        );
        let held = response.headers.get("grip-hold").cloned();
        assert_eq!(
            held.is_none(),
            response.text().ends_with("\nretry: 2000\n\n")
        );
        held.map(|value| value.to_str().unwrap().to_owned())
    };
    assert_eq!(hold("GET", Some(&token())).as_deref(), Some("stream"));
    assert_eq!(hold("GET", None), None);
    assert_eq!(hold("GET", Some("other")), None);
    // Nothing can be appended to a response without a body.
    assert_eq!(hold("HEAD", Some(&token())), None);
    let bad = server.send("GET", "/api/orders/stream", &[("last-event-id", "x")], b"");
    assert_eq!(
        (bad.status, bad.text()),
        (400, "Last-Event-ID: expected the id of an order\n")
    );
}

#[test]
fn storage_errors_are_not_revealed() {
    let server = Server::new();
    server.create_order();
    store("default").set_failing(true);
    for path in [
        "/api/orders",
        "/api/orders?after=1",
        "/api/orders/100",
        "/api/orders/stream",
    ] {
        let response = server.get(path);
        assert_eq!(response.status, 500, "{path}");
        assert!(!response.text().contains("disk failure"));
    }
    assert_eq!(server.create_order().status, 500);
}
