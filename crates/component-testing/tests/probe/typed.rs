//! WebSocket clients of components that handle typed frames (SIP-016).

use std::{collections::BTreeSet, time::Duration};

use component_testing::{
    Closed, Limits, Message, PublishFailure, Reply, TestApp, TestAppBuilder, WebSocket,
    grip::{
        ControlMessage, Event, Item, event, publish,
        publish::{Format, WsAction},
    },
    http::{Request, Response, StatusCode},
};

use crate::{reproducible, wasm};

/// Returns the component for typed frames.
fn typed() -> TestAppBuilder {
    TestApp::from_component(wasm("typed")).key_value_store("default")
}

/// Sends a message, and returns the texts that arrive until the component has handled it.
fn ask(client: &WebSocket, message: &str) -> Vec<String> {
    client.take_texts();
    client.send(message);
    client.take_texts()
}

/// Returns the token of a WebSocket.
fn token(client: &WebSocket) -> String {
    ask(client, "token").remove(0)
}

/// Returns the last frames of WebSockets, as the component has recorded them.
fn closes(app: &TestApp) -> Vec<String> {
    let keys = app.store("default").keys().into_iter();
    keys.map(|key| key.replace("close ", "")).collect()
}

fn frame(code: u16, reason: &str) -> Option<Closed> {
    Some(Closed::Frame {
        code: Some(code),
        reason: reason.to_owned(),
    })
}

#[test]
fn frames_are_passed_on_in_order_and_numbered() {
    let app = typed().build().unwrap();
    let client = app.websocket("/").unwrap();
    client.send("one");
    client.send_binary(&b"two"[..]);
    assert_eq!(
        client.take_received(),
        [Message::Text("one".into()), Message::Binary("two".into())]
    );
    // Each call has an instance of its own, and gets all frames that wait.
    let other = app.websocket("/").unwrap();
    for number in 2..40 {
        client.enqueue("calls");
        if number == 20 {
            app.settle();
        }
    }
    other.send("calls");
    let expected: Vec<_> = (2..40).map(|number| format!("1 {number}")).collect();
    assert_eq!(client.take_texts(), expected);
    assert_eq!(other.take_texts(), ["1 0"]);
    assert_eq!(app.failures(), []);
}

#[test]
fn the_handshake_is_that_of_the_component() {
    let app = typed().build().unwrap();
    let request = Request::get("/?early=one&welcome=two&channel=room")
        .header("sec-websocket-protocol", "chat")
        .body("")
        .unwrap();
    let client = app.open_websocket(request).unwrap();
    assert_eq!(client.headers()["sec-websocket-protocol"], "chat");
    assert_eq!(client.subscriptions(), ["room"]);
    app.publish(Item::ws_text("room", "three"));
    assert_eq!(client.texts(), ["one", "two", "three"]);

    let refused = app.websocket("/?status=403&early=lost").unwrap_err();
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    assert_eq!(refused.text(), "refused /?status=403&early=lost");
    assert_eq!(app.failures(), []);
    // Other requests of the component are plain ones.
    assert_eq!(app.get("/menu").text(), "GET /menu");
}

#[test]
fn the_last_frame_tells_how_a_websocket_has_ended() {
    let app = typed().build().unwrap();
    let client = app.websocket("/").unwrap();
    client.close(1000, "done");
    assert_eq!(client.closed(), frame(1000, "done"));
    assert_eq!(closes(&app), ["CloseCode::Normal done"]);

    // The component closes, and the client answers.
    let client = app.websocket("/").unwrap();
    client.send("close 1008 enough");
    assert_eq!(client.closed(), frame(1008, "enough"));
    client.send("ignored");
    assert!(client.received().is_empty());
    assert_eq!(closes(&app).last().unwrap(), "CloseCode::Policy enough");

    // Neither close frame has a code that the interface knows.
    let app = typed().build().unwrap();
    app.websocket("/").unwrap().close(4000, "mine");
    let client = app.websocket("/").unwrap();
    client.send("close 1005");
    assert_eq!(client.closed().and_then(|closed| closed.code()), None);
    assert_eq!(closes(&app), ["none"]);

    let app = typed().build().unwrap();
    let client = app.websocket("/").unwrap();
    client.enqueue("echo lost");
    client.disconnect();
    assert_eq!(client.closed(), Some(Closed::Dropped));
    assert!(client.received().is_empty());
    assert_eq!(closes(&app), ["CloseCode::Abnormal"]);

    // The component drops the connection.
    let app = typed().build().unwrap();
    let client = app.websocket("/").unwrap();
    client.send("drop");
    assert_eq!(client.closed(), Some(Closed::Dropped));
    assert_eq!(closes(&app), ["CloseCode::Abnormal"]);
    assert_eq!(app.failures(), []);
}

#[test]
fn a_trap_closes_the_websocket() {
    let limits = Limits {
        request_timeout: Duration::from_millis(100),
        ..Limits::DEFAULT
    };
    let app = typed().limits(limits).build().unwrap();
    let other = app.websocket("/").unwrap();
    for (path, message) in [("/", "trap"), ("/chat", "spin"), ("/?trap=after", "")] {
        let client = app.websocket(path).unwrap();
        if !message.is_empty() {
            client.enqueue(message);
            client.send("not handled");
        }
        assert_eq!(client.closed(), frame(1011, "the backend failed"), "{path}");
        assert!(client.received().is_empty());
    }
    for path in ["/?trap=before", "/?trap=none"] {
        let refused = app.websocket(path).unwrap_err();
        assert_eq!(refused.status(), 500, "{path}");
    }
    let failures = app.failures();
    let targets: Vec<_> = failures.iter().map(|it| it.target.as_str()).collect();
    assert_eq!(targets, ["/", "/chat", "/", "/", "/"], "{failures:?}");
    assert!(failures[0].error.contains("unreachable"), "{failures:?}");
    assert_eq!(ask(&other, "still"), ["still"]);
    // A component that has failed gets no close frame.
    assert!(closes(&app).is_empty());
}

#[test]
fn a_client_answers_pings() {
    let app = typed().build().unwrap();
    let client = app.websocket("/").unwrap();
    client.send("ping hello?");
    assert!(client.received().is_empty());
    // The pong was a frame, too.
    assert_eq!(ask(&client, "calls"), ["1 2"]);
}

#[test]
fn any_call_can_send_to_any_websocket() {
    let app = typed().build().unwrap();
    let (one, two) = (app.websocket("/").unwrap(), app.websocket("/").unwrap());
    let token = token(&one);
    assert_eq!(ask(&two, &format!("send {token} hello")), ["sent"]);
    assert_eq!(one.take_texts(), ["hello"]);
    assert_eq!(ask(&two, &format!("join {token} room")), ["Ok(())"]);
    assert_eq!(one.subscriptions(), ["room"]);
    assert!(two.subscriptions().is_empty());
    // The result of a frame can be taken once.
    assert_eq!(ask(&two, "future"), ["one", "sent taken"]);
}

#[test]
fn a_token_ends_with_its_websocket() {
    let app = typed().build().unwrap();
    let other = app.websocket("/").unwrap();
    let ends: [fn(&WebSocket); 5] = [
        |client| client.close(1000, ""),
        |client| client.disconnect(),
        |client| client.send("close 1000"),
        |client| client.send("drop"),
        |client| client.send("trap"),
    ];
    let unknown = ["", "x", &"A".repeat(43)].map(str::to_owned);
    let mut tokens = Vec::from(unknown);
    for end in ends {
        let client = app.websocket("/?channel=room").unwrap();
        tokens.push(token(&client));
        end(&client);
        assert!(client.closed().is_some());
        client.take_received();
        app.publish(Item::ws_text("room", "late"));
        assert!(
            client
                .received()
                .iter()
                .all(|it| it != &Message::Text("late".into()))
        );
    }
    for token in tokens {
        let sent = ask(&other, &format!("send {token} hello"));
        assert_eq!(sent, ["connection-lost"], "{token:?}");
        let joined = ask(&other, &format!("join {token} room"));
        assert_eq!(joined, ["Err(Error::ConnectionLost)"], "{token:?}");
    }
}

/// Returns an application with a component for typed frames and one for GRIP, whose clients are
/// subscribed to the channel `room`.
fn with_grip() -> (tempfile::TempDir, TestApp) {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        r#"
        spin_manifest_version = 2
        application.name = "test"
        [application.tool.socket-host.websocket]
        instance-reuse = ["typed"]
        [[trigger.http]]
        route = "/typed/..."
        component = "typed"
        [[trigger.http]]
        route = "/probe/..."
        component = "probe"
        [component.typed]
        source = {typed:?}
        key_value_stores = ["default"]
        [component.probe]
        source = {probe:?}
        key_value_stores = ["default"]
        allowed_outbound_hosts = ["http://script.test", "http://127.0.0.1:5561"]"#,
        typed = wasm("typed"),
        probe = wasm("probe"),
    );
    std::fs::write(folder.path().join("spin.toml"), text).unwrap();
    let app = TestApp::from_manifest(folder.path())
        .outbound(|_| {
            let events = [Event::Open, ControlMessage::subscribe("room").into_event()];
            let response = Response::builder()
                .header("content-type", "application/websocket-events")
                .header("sec-websocket-extensions", "grip; message-prefix=\"\"")
                .body(event::encode_all(&events));
            Reply::from(response.unwrap())
        })
        .build();
    (folder, app.unwrap())
}

#[test]
fn channels_are_those_of_grip() {
    let (_folder, app) = with_grip();
    let typed = app.websocket("/typed").unwrap();
    let grip = app
        .websocket("/probe/forward?url=http://script.test/")
        .unwrap();
    assert_eq!(ask(&typed, "subscribe room"), ["subscribed to room"]);
    assert_eq!(typed.subscriptions(), grip.subscriptions());

    typed.send("publish room one");
    let items = publish::to_json(&[Item::ws_text("room", "two")]);
    let url = "/probe/forward?url=http://127.0.0.1:5561/publish/";
    assert_eq!(app.post(url, items).text(), "Published\n");
    app.publish(Item::ws_text("room", "three"));
    app.publish(Item::ws_text("other", "never"));
    let expected = ["one", "two", "three"];
    assert_eq!(typed.take_texts(), expected);
    assert_eq!(grip.take_texts(), expected);
    let publications = app.publications();
    assert_eq!(publications[0].item, Item::ws_text("room", "one"));
    assert_eq!(publications.len(), 4);

    assert_eq!(ask(&typed, "unsubscribe room"), ["unsubscribed from room"]);
    app.publish(Item::ws_text("room", "four"));
    assert!(typed.take_texts().is_empty());
    assert_eq!(grip.take_texts(), ["four"]);

    // A publication can close clients of both kinds.
    typed.send("subscribe room");
    app.publish(Item {
        ws_message: Some(Format::from(WsAction::Close {
            code: Some(1008),
            reason: Some("bye".into()),
        })),
        ..Item::new("room")
    });
    assert_eq!(typed.closed(), frame(1008, "bye"));
    assert_eq!(grip.closed(), frame(1008, "bye"));
    assert_eq!(closes(&app), ["CloseCode::Policy bye"]);
}

#[test]
fn publishing_to_channels_can_fail() {
    let app = typed().build().unwrap();
    let client = app.websocket("/?channel=room").unwrap();
    let failed = |failure| {
        app.fail_publishes(failure);
        ask(&client, "publish room news")
    };
    let error = |text: &str| format!("Error::Other({text:?})");
    let unreachable = error("the control port cannot be reached");
    assert_eq!(failed(PublishFailure::Unreachable), [unreachable]);
    let refused = error("publishing failed with status 503");
    assert_eq!(failed(PublishFailure::Status(503)), [refused]);
    assert_eq!(app.publications(), []);
    let lost = error("the connection was lost before the response");
    let texts = failed(PublishFailure::ResponseLost);
    assert_eq!(texts, ["news".to_owned(), lost]);
    app.accept_publishes();
    assert_eq!(ask(&client, "publish room more"), ["more"]);
    let channels = app.publications().into_iter().map(|it| it.item.channel);
    assert_eq!(channels.collect::<Vec<_>>(), ["room", "room"]);
    let unnamed = error("expected the name of a channel, of 1 to 1024 bytes");
    assert_eq!(ask(&client, "publish  news"), [unnamed]);
}

#[test]
fn instances_are_reused_if_the_manifest_says_so() {
    let (_folder, app) = with_grip();
    let (one, two) = (
        app.websocket("/typed").unwrap(),
        app.websocket("/typed").unwrap(),
    );
    // The first two calls are those of the handshakes.
    assert_eq!(ask(&one, "calls"), ["3 0"]);
    assert_eq!(ask(&two, "calls"), ["4 0"]);
    // Idle instances end.
    app.advance(Duration::from_secs(3600));
    assert_eq!(ask(&one, "calls"), ["1 1"]);
}

#[test]
fn the_seed_decides_the_course() {
    let course = |seed| {
        let app = typed().seed(seed).build().unwrap();
        let open = || app.websocket("/?channel=room").unwrap();
        let clients = [open(), open(), open()];
        let tokens = clients.each_ref().map(token);
        for (number, client) in clients.iter().enumerate() {
            client.enqueue(format!("publish room {number}"));
            client.enqueue(format!("send {} again {number}", tokens[0]));
        }
        app.settle();
        let texts = clients.each_ref().map(WebSocket::take_texts);
        (tokens, texts)
    };
    let mut tokens = BTreeSet::new();
    let mut orders = BTreeSet::new();
    for seed in 0..20 {
        let (of_seed, [first, ..]) = reproducible(|| course(seed));
        assert_eq!(first.len(), 7, "{first:?}");
        for token in &of_seed {
            assert!(token.len() == 43 && !token.contains(['+', '/', '=']));
        }
        tokens.extend(of_seed);
        orders.insert(first);
    }
    assert_eq!(tokens.len(), 60);
    assert!(orders.len() > 10, "{orders:?}");
}
