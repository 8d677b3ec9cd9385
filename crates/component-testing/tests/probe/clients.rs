//! WebSocket clients.

use std::time::Duration;

use component_testing::{
    Closed, Message, Reply, TestApp, WebSocket,
    grip::{
        ControlMessage, Event, Item, Limits, Message as GripMessage, event,
        publish::{Format, WsAction},
    },
    http::Response,
};

use crate::probe;

/// Where the probe forwards the requests of a WebSocket to.
const SCRIPT: &str = "/forward?url=http://script.test/events";

/// Starts the probe as a WebSocket backend whose responses come from a function. It gets the events and
/// the headers of each request.
fn scripted(
    respond: impl Fn(&[Event], &dyn Fn(&str) -> Option<String>) -> Script + Send + Sync + 'static,
) -> TestApp {
    let app = probe()
        .allowed_outbound_host("http://script.test")
        .channel_history("kept", 2)
        .outbound(move |request| {
            let events = event::decode_all(request.body.clone(), Limits::default()).unwrap();
            let header = |name: &str| {
                let value = request.headers.get(name)?;
                Some(value.to_str().unwrap().to_owned())
            };
            let mut script = respond(&events, &header);
            let mut response =
                Response::builder().header("content-type", "application/websocket-events");
            if events.first() == Some(&Event::Open) {
                script.events.insert(0, Event::Open);
                response = response.header("sec-websocket-extensions", "grip; message-prefix=\"\"");
            }
            for (name, value) in script.headers {
                response = response.header(name, value);
            }
            Reply::from(response.body(event::encode_all(&script.events)).unwrap())
        })
        .build();
    app.unwrap()
}

/// A response to events.
#[derive(Default)]
struct Script {
    events: Vec<Event>,
    headers: Vec<(&'static str, &'static str)>,
}

impl Script {
    fn events(events: impl IntoIterator<Item = Event>) -> Self {
        Self {
            events: events.into_iter().collect(),
            headers: Vec::new(),
        }
    }

    fn control(message: ControlMessage) -> Self {
        Self::events([message.into_event()])
    }
}

fn open(app: &TestApp) -> WebSocket {
    app.websocket(SCRIPT).expect("the script accepts it")
}

#[test]
fn messages_are_echoed_in_order() {
    let app = probe().build().unwrap();
    let client = app.websocket("/websocket-echo").unwrap();
    client.send("one");
    client.send_binary(&b"two"[..]);
    assert_eq!(client.texts(), ["one"]);
    assert_eq!(
        client.take_received(),
        [Message::Text("one".into()), Message::Binary("two".into())]
    );
    client.enqueue("three");
    client.enqueue("four");
    assert!(client.take_texts().is_empty());
    app.settle();
    assert_eq!(client.take_texts(), ["three", "four"]);
    client.close(4000, "done");
    assert_eq!(client.closed().and_then(|closed| closed.code()), Some(4000));
    client.send("ignored");
    assert_eq!(client.received().len(), 4);
}

#[test]
fn a_path_that_accepts_no_websockets_refuses_them() {
    let app = probe().build().unwrap();
    assert_eq!(app.websocket("/echo").unwrap_err().status(), 426);
    assert_eq!(app.websocket("/trap").unwrap_err().status(), 500);
    assert_eq!(app.websocket("/unknown").unwrap_err().status(), 404);
    for kind in ["unknown-open", "order-open"] {
        let refused = app.websocket(&format!("/rubbish?kind={kind}")).unwrap_err();
        assert_eq!(refused.status(), 502, "{kind}: {refused:?}");
    }
}

#[test]
fn requests_are_those_of_the_host() {
    let app = scripted(|events, header| match events {
        [Event::Open] => Script {
            headers: vec![
                ("set-meta-user", "ann"),
                ("x-shown", "yes"),
                ("grip-hidden", "no"),
            ],
            ..Script::default()
        },
        _ => {
            let names = [
                "connection-id",
                "meta-user",
                "accept",
                "sec-websocket-extensions",
            ];
            let values = names.map(|name| header(name).unwrap_or_default());
            assert!(header("grip-sig").is_some() && header("grip-feature").is_some());
            Script::events([Event::text(values.join(" "))])
        }
    });
    let client = open(&app);
    assert_eq!(client.headers()["x-shown"], "yes");
    assert_eq!(client.headers().get("grip-hidden"), None);
    client.send("?");
    let expected = "00000000-0000-4000-8000-000000000001 ann application/websocket-events grip";
    assert_eq!(client.texts(), [expected]);
}

#[test]
fn publications_reach_subscribers() {
    let app = scripted(|events, _| match events {
        [Event::Open] => Script::control(ControlMessage::subscribe("news")),
        [Event::Text(text)] if text == "leave" => {
            Script::control(ControlMessage::unsubscribe("news"))
        }
        _ => Script::default(),
    });
    let (client, other) = (open(&app), open(&app));
    assert_eq!(client.subscriptions(), ["news"]);
    app.publish(Item::ws_text("news", "one"));
    app.publish(Item::ws_text("other", "never"));
    // A second item with an id is dropped.
    app.publish(Item::ws_text("news", "two").with_id("2", None));
    app.publish(Item::ws_text("news", "two again").with_id("2", None));
    assert_eq!(client.texts(), ["one", "two"]);
    client.send("leave");
    assert!(client.subscriptions().is_empty());
    app.publish(Item {
        ws_message: Some(Format::from(WsAction::Close {
            code: Some(4001),
            reason: Some("bye".into()),
        })),
        ..Item::new("news")
    });
    assert_eq!(client.texts(), other.texts());
    assert_eq!(client.closed(), None);
    let closed = Closed::Frame {
        code: Some(4001),
        reason: "bye".into(),
    };
    assert_eq!(other.closed(), Some(closed));
}

#[test]
fn filters_skip_and_rewrite() {
    let app = scripted(|events, _| match events {
        [Event::Open] => Script::default(),
        [Event::Text(user)] => {
            let meta = ControlMessage::SetMeta {
                name: "user".into(),
                value: Some(user.to_string()),
            };
            let subscribe = |channel: &str, filter: &str| ControlMessage::Subscribe {
                channel: channel.into(),
                filters: vec![filter.into()],
                prev_id: None,
                recover: None,
                presence: None,
            };
            let messages = [
                meta,
                subscribe("room", "skip-self"),
                subscribe("mail", "var-subst"),
            ];
            Script::events(messages.map(ControlMessage::into_event))
        }
        _ => Script::default(),
    });
    let (ann, bob) = (open(&app), open(&app));
    ann.send("ann");
    bob.send("bob");
    let mut item = Item::ws_text("room", "hello");
    item.meta.insert("sender".into(), "ann".into());
    app.publish(item);
    app.publish(Item::ws_text("mail", "dear %(user)s"));
    assert_eq!(ann.texts(), ["dear ann"]);
    assert_eq!(bob.texts(), ["hello", "dear bob"]);
}

#[test]
fn clients_resume_or_the_component_is_asked() {
    let app = scripted(|events, header| match (events, header("grip-last")) {
        ([Event::Open], _) => Script::default(),
        ([Event::Text(id)], _) => {
            Script::control(ControlMessage::subscribe_after("kept", id.to_string()))
        }
        ([], Some(last)) => Script::events([Event::text(last)]),
        _ => Script::default(),
    });
    for id in ["1", "2", "3"] {
        app.publish(Item::ws_text("kept", format!("item {id}")).with_id(id, None));
    }
    let (recent, old) = (open(&app), open(&app));
    recent.send("2");
    assert_eq!(recent.texts(), ["item 3"]);
    // The channel keeps two items.
    old.send("1");
    assert_eq!(old.texts(), ["kept; last-id=\"1\""]);
    app.publish(Item::ws_text("kept", "item 4").with_id("4", None));
    assert_eq!(recent.texts(), ["item 3", "item 4"]);
    assert_eq!(old.texts(), ["kept; last-id=\"1\"", "item 4"]);
}

#[test]
fn messages_and_requests_are_scheduled() {
    let app = scripted(|events, _| match events {
        [Event::Open] => Script {
            events: vec![
                ControlMessage::keep_alive(GripMessage::Text("alive".into()), 30).into_event(),
                ControlMessage::SendDelayed {
                    message: GripMessage::Text("delayed".into()),
                    timeout: Some(5),
                }
                .into_event(),
            ],
            headers: vec![("keep-alive-interval", "60")],
        },
        [] => Script::events([Event::text("empty request")]),
        _ => Script::default(),
    });
    let client = open(&app);
    app.advance(Duration::from_secs(5));
    assert_eq!(client.take_texts(), ["delayed"]);
    app.advance(Duration::from_secs(30));
    assert_eq!(client.take_texts(), ["alive"]);
    app.advance(Duration::from_secs(25));
    assert_eq!(client.take_texts(), ["empty request"]);
    app.advance(Duration::from_secs(29));
    assert!(client.take_texts().is_empty());
    app.advance(Duration::from_secs(1));
    assert_eq!(client.take_texts(), ["alive"]);
}

#[test]
fn the_component_learns_how_a_client_leaves() {
    let app = scripted(|events, _| match events {
        [Event::Text(text)] if text == "close me" => Script::events([Event::close(4002, "gone")]),
        [Event::Text(text)] if text == "drop me" => Script::events([Event::Disconnect]),
        _ => Script::default(),
    });
    let events = |app: &TestApp| -> Vec<Event> {
        let requests = app.outbound_requests();
        let last = requests.last().unwrap().body.clone();
        event::decode_all(last, Limits::default()).unwrap()
    };
    let client = open(&app);
    client.close(1000, "done");
    assert_eq!(events(&app), [Event::close(1000, "done")]);
    assert_eq!(client.closed().unwrap().code(), Some(1000));
    let client = open(&app);
    client.disconnect();
    assert_eq!(events(&app), [Event::Disconnect]);
    assert_eq!(client.closed(), Some(Closed::Dropped));
    let client = open(&app);
    client.send("close me");
    assert_eq!(client.closed().unwrap().code(), Some(4002));
    // The client has confirmed it.
    assert_eq!(events(&app), [Event::close(4002, "gone")]);
    let client = open(&app);
    client.send("drop me");
    assert_eq!(client.closed(), Some(Closed::Dropped));
}

#[test]
fn a_detached_client_still_gets_publications() {
    let app = scripted(|events, _| match events {
        [Event::Open] => Script::control(ControlMessage::subscribe("news")),
        [Event::Text(_)] => Script::control(ControlMessage::Detach),
        _ => Script::default(),
    });
    let client = open(&app);
    client.send("detach");
    let requests = app.outbound_requests().len();
    client.send("ignored");
    app.publish(Item::ws_text("news", "published"));
    assert_eq!(app.outbound_requests().len(), requests);
    assert_eq!(client.texts(), ["published"]);
}

#[test]
fn a_failed_component_closes_the_client() {
    let app = scripted(|events, _| match events {
        [Event::Text(text)] => Script::events([Event::close(1005, text.clone())]),
        _ => Script::default(),
    });
    let client = open(&app);
    client.send("x");
    assert_eq!(client.closed().unwrap().code(), Some(1011));
    assert!(
        app.failures()[0].error.contains("1005"),
        "{:?}",
        app.failures()
    );
}

#[test]
fn invalid_responses_close_the_client() {
    for (kind, cause) in [
        ("framing", "invalid length"),
        ("length", "invalid length"),
        ("truncated", "truncated content"),
        ("unknown", "unknown event type"),
        ("no-newline", "unterminated line"),
        ("content-type", "expected status 200 with content type"),
        ("endless", "more than"),
        ("trap", "unreachable"),
        ("hang", "timed out"),
    ] {
        let app = probe().build().unwrap();
        let client = app.websocket(&format!("/rubbish?kind={kind}")).unwrap();
        client.send("x");
        assert_eq!(
            client.closed().and_then(|closed| closed.code()),
            Some(1011),
            "{kind}"
        );
        let failures = app.failures();
        assert!(failures[0].error.contains(cause), "{kind}: {failures:?}");
    }
    let app = probe().build().unwrap();
    let client = app.websocket("/rubbish?kind=control").unwrap();
    client.send("x");
    assert_eq!(client.closed(), None);
    let warnings = app.warnings();
    let is_dropped = |line: &String| line.contains("invalid control message dropped");
    assert!(warnings.iter().any(is_dropped), "{warnings:?}");
    let client = app.websocket("/rubbish?kind=order").unwrap();
    client.send("x");
    assert_eq!(client.closed().and_then(|closed| closed.code()), Some(1000));
    assert!(client.received().is_empty());
}
