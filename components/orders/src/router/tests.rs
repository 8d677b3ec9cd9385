//! Tests of the routes, as a host sees them.

use std::{io::Read, time::Duration};

use flate2::read::GzDecoder;
use futures_util::FutureExt;
use grip::{Event, Key, signature::sign};
use http_body_util::BodyExt;
use rand::{SeedableRng, rngs::SmallRng};
use serde_json::Value;

use super::*;
use crate::{
    order::{Order, Status},
    testing::{self, Memory, Notes, TestKitchen},
};

const NOW: SystemTime = SystemTime::UNIX_EPOCH;
const EVENTS: (&str, &str) = ("content-type", "application/websocket-events");

struct Server {
    gate: Gate,
    kitchen: Option<TestKitchen>,
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
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
        Server::with_key("key")
    }

    fn with_key(key: &str) -> Server {
        Server {
            gate: Gate::new(key),
            kitchen: Some(testing::kitchen()),
        }
    }

    fn send(
        &mut self,
        method: &str,
        uri: &str,
        headers: &[(&str, &str)],
        body: &'static [u8],
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let service = Service {
            kitchen: self.kitchen.take().unwrap(),
            gate: &self.gate,
        };
        let read = async |limit| match body.len() <= limit {
            true => Ok(Bytes::from_static(body)),
            false => Err(format!("more than {limit} bytes")),
        };
        let rng = || SmallRng::seed_from_u64(7);
        let reply = testing::now(service.answer(request.body(()).unwrap(), read, rng, NOW));
        self.kitchen = Some(service.kitchen);
        let (head, body) = reply.into_parts();
        let body = body.collect().now_or_never().unwrap().unwrap().to_bytes();
        assert_eq!(head.headers["content-length"], body.len().to_string());
        Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
        }
    }

    fn get(&mut self, uri: &str) -> Answer {
        self.send("GET", uri, &[], b"")
    }

    fn make(&mut self) -> Answer {
        self.send(
            "POST",
            "/internal/orders",
            &[("grip-sig", &token("key"))],
            b"",
        )
    }

    fn storage(&self) -> &Memory {
        self.kitchen.as_ref().unwrap().history.storage()
    }

    fn notes(&self) -> &Notes {
        &self.kitchen.as_ref().unwrap().announcer
    }
}

fn token(key: &str) -> String {
    sign(
        &Key::parse(key).unwrap(),
        "host",
        NOW,
        Duration::from_secs(60),
    )
}

#[test]
fn makes_orders_and_tells_of_them() {
    let mut server = Server::new();
    for id in 100..105 {
        let answer = server.make();
        assert_eq!(answer.status, 201);
        let order: Order = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(order.id, id);
        assert_eq!(order.timestamp, "1970-01-01T00:00:00.000Z");
        let told = server.notes().texts().pop().unwrap();
        assert_eq!(
            told,
            format!(
                r#"{{"event":"order-received","detail":{{"order":{}}}}}"#,
                answer.text()
            )
        );
        assert_eq!(server.get(&format!("/api/orders/{id}")).body, answer.body);
    }
}

#[test]
fn an_order_counts_though_nobody_was_told() {
    let mut server = Server::new();
    server.notes().fail_from_now_on();
    assert_eq!(server.make().status, 201);
    assert_eq!(server.get("/api/orders").ids(), [100]);
}

#[test]
fn lists_orders() {
    let mut server = Server::new();
    assert_eq!(server.get("/api/orders").text(), r#"{"orders":[]}"#);
    assert_eq!(server.get("/api/orders?after=0").text(), r#"{"orders":[]}"#);
    for _ in 0..1005 {
        assert_eq!(server.make().status, 201);
    }
    let ids = |range: std::ops::RangeInclusive<u64>| range.collect::<Vec<_>>();
    assert_eq!(server.get("/api/orders").ids(), ids(1093..=1104));
    assert_eq!(server.get("/api/orders?limit=2").ids(), ids(1103..=1104));
    assert_eq!(server.get("/api/orders?after=1100").ids(), ids(1101..=1104));
    assert_eq!(
        server.get("/api/orders?after=1100&limit=2").ids(),
        ids(1101..=1102)
    );
    // Only the last thousand are kept.
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
    // One count, and for each order a slot and the order: nothing is left of the others.
    assert_eq!(server.storage().values.borrow().len(), 1 + 2 * 1000);
    let bad = server.get("/api/orders?limit=13");
    assert_eq!(
        (bad.status, bad.text()),
        (400, "limit: a whole number, 1 to 12\n")
    );
}

#[test]
fn a_list_is_compressed_for_those_who_take_it() {
    let mut server = Server::new();
    for _ in 0..12 {
        server.make();
    }
    let plain = server.get("/api/orders");
    assert_eq!(plain.ids().len(), 12);
    assert_eq!(plain.headers["vary"], "accept-encoding");
    assert!(!plain.headers.contains_key("content-encoding"));

    let takes = [("accept-encoding", "gzip, deflate")];
    let packed = server.send("GET", "/api/orders", &takes, b"");
    assert_eq!(packed.headers["content-encoding"], "gzip");
    assert_eq!(packed.headers["vary"], "accept-encoding");
    assert!(packed.body.len() < plain.body.len() / 3);
    let mut content = Vec::new();
    GzDecoder::new(&*packed.body)
        .read_to_end(&mut content)
        .unwrap();
    assert_eq!(content, plain.body);

    let none = server.send("GET", "/api/orders?after=200", &takes, b"");
    assert!(!none.headers.contains_key("content-encoding"));
}

#[test]
fn every_answer_to_a_browser_is_guarded() {
    let mut server = Server::new();
    server.make();
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
fn what_is_not_there() {
    let mut server = Server::new();
    server.make();
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
fn a_status_changes_by_http() {
    let mut server = Server::new();
    server.make();
    let json = [("content-type", "application/json")];
    let mut change = |path: &str, body: &'static [u8]| server.send("POST", path, &json, body);
    let path = "/api/orders/100/status";
    let early = change(path, br#"{"status":"fulfilled"}"#);
    assert_eq!(
        (early.status, early.text()),
        (409, "order 100 is received: it cannot become fulfilled\n")
    );
    let fired = change(path, br#"{"status":"fired"}"#);
    assert_eq!(
        (fired.status, &fired.headers["cache-control"]),
        (200, &"no-store".parse().unwrap())
    );
    assert_eq!(
        serde_json::from_slice::<Order>(&fired.body).unwrap().status,
        Status::Fired
    );
    assert_eq!(change(path, br#"{"status":"fired"}"#).status, 409);
    assert_eq!(
        change("/api/orders/101/status", br#"{"status":"fired"}"#).status,
        404
    );
    assert_eq!(change(path, b"{}").status, 400);
    let long = change(path, const { &[b' '; MAX_CHANGE + 1] });
    assert_eq!(
        (long.status, long.text()),
        (400, "body: more than 1024 bytes\n")
    );

    assert_eq!(server.get("/api/orders/100").body, fired.body);
    let told = server.notes().texts();
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(
        told[1],
        format!(
            r#"{{"event":"order-updated","detail":{{"order":{}}}}}"#,
            fired.text()
        )
    );
}

#[test]
fn no_other_sites_page_changes_a_status() {
    let mut server = Server::new();
    server.make();
    let mut change = |headers: &[(&str, &str)]| {
        let body = br#"{"status":"fired"}"#;
        server
            .send("POST", "/api/orders/100/status", headers, body)
            .status
    };
    let json = ("content-type", "application/json");
    assert_eq!(change(&[("content-type", "text/plain")]), 415);
    assert_eq!(change(&[json, ("sec-fetch-site", "cross-site")]), 403);
    assert_eq!(change(&[json, ("origin", "http://evil.example")]), 403);
    assert_eq!(change(&[json, ("sec-fetch-site", "same-origin")]), 200);
}

#[test]
fn methods() {
    let mut server = Server::new();
    server.make();
    let sig = token("key");
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
        let answer = server.send(method, path, &[("grip-sig", &sig)], b"");
        assert_eq!(answer.status, status, "{method} {path}");
        let allowed = answer
            .headers
            .get("allow")
            .map_or("", |value| value.to_str().unwrap());
        assert_eq!(allowed, allow, "{method} {path}");
    }
}

#[test]
fn only_the_host_makes_orders_and_sends_events() {
    let ask = |server: &mut Server, headers: &[(&str, &str)]| {
        let mut with_type = vec![EVENTS];
        with_type.extend(headers);
        let made = server.send("POST", "/internal/orders", headers, b"");
        let sent = server.send("POST", "/api/ws", &with_type, b"OPEN\r\n");
        (made.status, sent.status)
    };
    let mut server = Server::new();
    assert_eq!(ask(&mut server, &[]), (403, 403));
    assert_eq!(ask(&mut server, &[("grip-sig", "")]), (403, 403));
    assert_eq!(
        ask(&mut server, &[("grip-sig", &token("other"))]),
        (403, 403)
    );
    assert_eq!(ask(&mut server, &[("grip-sig", &token("key"))]), (201, 200));
    assert_eq!(server.get("/internal/orders").status, 403);
    let mut shut = Server::with_key("");
    assert_eq!(ask(&mut shut, &[("grip-sig", &token("key"))]), (403, 403));
    assert!(
        shut.get("/internal/orders")
            .text()
            .contains("the variable grip_key is needed")
    );
}

#[test]
fn speaks_websocket_events() {
    let mut server = Server::new();
    let sig = token("key");
    let headers = [EVENTS, ("grip-sig", &*sig)];
    let mut send = |body: &'static [u8]| server.send("POST", "/api/ws?x=1", &headers, body);
    let answer = send(b"OPEN\r\nTEXT 10\r\n{\"event\":\"ping\"}\r\n");
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.headers["content-type"],
        "application/websocket-events"
    );
    assert_eq!(
        answer.headers["sec-websocket-extensions"],
        "grip; message-prefix=\"\""
    );
    let events = event::decode_all(answer.body, Limits::default()).unwrap();
    assert_eq!(events.len(), 3);
    assert_eq!(events[2], Event::text(r#"{"event":"pong"}"#));
    assert_eq!((send(b"").status, &*send(b"").body), (200, &b""[..]));
    let bad = send(b"OPEN");
    assert_eq!(bad.status, 400);
    assert!(bad.text().starts_with("body: byte 0: "), "{}", bad.text());
    let bad = send(const { &[b'x'; MAX_EVENTS + 1] });
    assert_eq!(
        (bad.status, bad.text()),
        (400, "body: more than 1048576 bytes\n")
    );
}

#[test]
fn only_the_host_holds_the_stream() {
    let mut server = Server::new();
    server.make();
    let mut hold = |method: &str, key: Option<&str>| {
        let sig = key.map(token);
        let headers: Vec<_> = sig.iter().map(|sig| ("grip-sig", &**sig)).collect();
        let answer = server.send(method, "/api/orders/stream?after=99", &headers, b"");
        assert_eq!(answer.status, 200);
        assert!(
            answer
                .text()
                .starts_with("id: 100\nevent: order-received\n")
        );
        let held = answer.headers.get("grip-hold").cloned();
        assert_eq!(held.is_none(), answer.text().ends_with("\nretry: 2000\n\n"));
        held.map(|value| value.to_str().unwrap().to_owned())
    };
    assert_eq!(hold("GET", Some("key")).as_deref(), Some("stream"));
    assert_eq!(hold("GET", None), None);
    assert_eq!(hold("GET", Some("other")), None);
    // Nothing could be appended to an answer without a body.
    assert_eq!(hold("HEAD", Some("key")), None);
    let bad = server.send("GET", "/api/orders/stream", &[("last-event-id", "x")], b"");
    assert_eq!(
        (bad.status, bad.text()),
        (400, "Last-Event-ID: the id of an order, a whole number\n")
    );
}

#[test]
fn a_failing_store_is_not_explained_to_strangers() {
    let mut server = Server::new();
    server.make();
    server.storage().fail_from_now_on();
    for path in [
        "/api/orders",
        "/api/orders?after=1",
        "/api/orders/100",
        "/api/orders/stream",
    ] {
        let answer = server.get(path);
        assert_eq!(answer.status, 500, "{path}");
        assert!(!answer.text().contains("on fire"));
    }
    assert_eq!(server.make().status, 500);
}
