//! Tests of requests with events, from the point of view of a host.

use http::Request;

use super::*;
use crate::{
    Room, serve,
    testing::{block_on, request},
};

/// Echoes messages, and fails on `fail`.
struct Echo;

impl Handler for Echo {
    async fn open(&self, connection: &mut Connection) -> Result {
        if let Some(after) = connection.parameter("after") {
            connection.subscribe_after("news", after);
        }
        if connection.parameter("room").is_some() {
            connection.join(&Room::new("tea").counted()).await?;
        }
        match connection.path() {
            "/closed" => connection.close(4000, "no"),
            "/rejected" => connection.reject(StatusCode::NOT_FOUND, "no such room"),
            _ => {}
        }
        Ok(())
    }

    async fn text(&self, connection: &mut Connection, text: &str) -> Result {
        if text == "fail" {
            return Err(crate::Error::msg("broken"));
        }
        connection.send(text)
    }

    async fn binary(&self, connection: &mut Connection, data: &[u8]) -> Result {
        connection.send(data)
    }

    async fn missed(&self, connection: &mut Connection, channel: &str) -> Result {
        connection.send(format!("missed {channel}"))
    }
}

fn post(path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Response<Bytes> {
    let mut post = Request::post(path).header("content-type", header::WEBSOCKET_EVENTS);
    for (name, value) in headers {
        post = post.header(*name, *value);
    }
    request(&Echo, post.body(body.into()).unwrap())
}

fn events(response: &Response<Bytes>) -> Vec<Event> {
    assert_eq!(response.status(), 200, "{response:?}");
    assert_eq!(response.headers()["content-type"], header::WEBSOCKET_EVENTS);
    let length = response.body().len().to_string();
    assert_eq!(response.headers()["content-length"], length);
    event::decode_all(response.body().clone(), Limits::default()).unwrap()
}

fn send(events_of_client: &[Event]) -> Vec<Event> {
    events(&post("/", &[], event::encode_all(events_of_client)))
}

#[test]
fn events_are_handled_in_order() {
    let sent = [
        Event::text("a"),
        Event::Binary("b".into()),
        Event::Ping("x".into()),
        Event::Pong("y".into()),
        // Messages cannot be control messages.
        Event::text("c:{\"type\":\"detach\"}"),
        Event::close(1001, "going"),
        Event::text("ignored"),
    ];
    let expected = [
        Event::text("m:a"),
        Event::Binary("m:b".into()),
        Event::Pong("x".into()),
        Event::text("m:c:{\"type\":\"detach\"}"),
        Event::close(1001, ""),
    ];
    assert_eq!(send(&sent), expected);
    assert_eq!(send(&[Event::Close(None)]), [Event::Close(None)]);
    assert_eq!(send(&[Event::Disconnect]), []);
    assert_eq!(send(&[]), []);
}

#[test]
fn open_enables_grip() {
    let response = post("/", &[], "OPEN\r\n");
    assert_eq!(events(&response), [Event::Open]);
    assert_eq!(response.headers()[header::SEC_WEBSOCKET_EXTENSIONS], "grip");
    assert!(!response.headers().contains_key("sec-websocket-protocol"));
    let response = post("/", &[], "TEXT 1\r\na\r\n");
    let headers = response.headers();
    assert!(!headers.contains_key(header::SEC_WEBSOCKET_EXTENSIONS));

    let closed = events(&post("/closed", &[], "OPEN\r\n"));
    assert_eq!(closed, [Event::Open, Event::close(4000, "no")]);
    let rejected = post("/rejected", &[], "OPEN\r\n");
    assert_eq!(rejected.status(), StatusCode::NOT_FOUND);
    assert_eq!(rejected.body(), "no such room\n");
}

#[test]
fn errors_close_the_connection_after_what_was_sent() {
    let sent = [Event::text("a"), Event::text("fail"), Event::text("b")];
    let expected = [Event::text("m:a"), Event::close(1011, "internal error")];
    assert_eq!(send(&sent), expected);
}

#[test]
fn subscriptions_resume_where_the_host_can() {
    let opened = |features: &str| {
        let features = [(header::GRIP_FEATURE, features)];
        events(&post("/?after=7", &features, "OPEN\r\n"))[1..].to_vec()
    };
    let subscribe = |json: &str| {
        Event::text(format!(
            "c:{{\"channel\":\"news\",{json}\"type\":\"subscribe\"}}"
        ))
    };
    assert_eq!(
        opened("status, subscribe:recover"),
        [subscribe("\"prev-id\":\"7\",")]
    );
    assert_eq!(
        opened("status"),
        [subscribe(""), Event::text("m:missed news")]
    );
    // The host has lost items later.
    let response = post("/", &[(header::GRIP_LAST, "news; last-id=9, other")], "");
    let expected = ["m:missed news", "m:missed other"].map(Event::text);
    assert_eq!(events(&response), expected);
    let response = post("/", &[(header::GRIP_LAST, ";")], "");
    assert_eq!(events(&response), [Event::close(1011, "internal error")]);
}

#[test]
fn rooms_are_stored_as_metadata() {
    let features = [(header::GRIP_FEATURE, "subscribe:recover, auto-response")];
    let response = post("/?room", &features, "OPEN\r\n");
    let stored = "0,100,1,room:tea";
    assert_eq!(response.headers()["set-meta-sockets-rooms"], stored);
    let texts: Vec<String> = events(&response)[1..]
        .iter()
        .map(|event| match event {
            Event::Text(text) => text.to_string(),
            other => panic!("{other:?}"),
        })
        .collect();
    let count = r#"m:{"$":"count","channel":"room:tea","count":1,"version":1}"#;
    let subscribe = |channel: &str, id: u32| {
        format!(r#"c:{{"channel":"{channel}","prev-id":"{id}","type":"subscribe"}}"#)
    };
    let expected = [
        subscribe("room:tea", 0),
        count.to_owned(),
        subscribe("count:tea", 1),
    ];
    assert_eq!(texts, expected);
    assert_eq!(block_on(Room::new("tea").count()).unwrap(), 1);

    // A message changes nothing, and the end leaves the room.
    let meta = [("meta-sockets-rooms", stored)];
    let response = post("/?room", &meta, "TEXT 1\r\na\r\n");
    assert!(!response.headers().contains_key("set-meta-sockets-rooms"));
    let response = post("/?room", &meta, "DISCONNECT\r\n");
    assert_eq!(response.headers()["set-meta-sockets-rooms"], "");
    assert_eq!(block_on(Room::new("tea").count()).unwrap(), 0);
}

#[test]
fn connections_that_fail_leave_their_rooms() {
    for path in ["/rejected?room", "/closed?room"] {
        post(path, &[], "OPEN\r\n");
        assert_eq!(block_on(Room::new("tea").count()).unwrap(), 0, "{path}");
    }
    let response = post("/?room", &[], "OPEN\r\nTEXT 4\r\nfail\r\n");
    assert_eq!(response.headers()["set-meta-sockets-rooms"], "");
    assert_eq!(block_on(Room::new("tea").count()).unwrap(), 0);
}

#[test]
fn malformed_events_are_refused() {
    for body in ["x", "TEXT 5\r\na\r\n", "NONSENSE\r\n"] {
        let response = post("/", &[], body);
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{body}");
        assert!(response.body().starts_with(b"body: "), "{response:?}");
    }
}

#[test]
fn only_the_host_may_send_events() {
    for token in [None, Some("nonsense")] {
        let mut post = Request::post("/").header("content-type", header::WEBSOCKET_EVENTS);
        if let Some(token) = token {
            post = post.header(header::GRIP_SIG, token);
        }
        let response = block_on(serve(&Echo, post.body(Bytes::from("OPEN\r\n")).unwrap()));
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert!(response.body().starts_with(b"Grip-Sig: "), "{response:?}");
    }
}
