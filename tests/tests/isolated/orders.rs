//! Orders at a scripted time, with a seed.

use std::{collections::BTreeSet, time::Duration};

use component_testing::http::Request;
use serde_json::Value;
use tests::COMPONENT_PING;

use crate::{TIMER, burger, connect, create, ids, list, order_service, take_events};

#[test]
fn orders_have_the_time_and_the_choices_of_the_test() {
    let course = |seed: u64| {
        let app = burger().seed(seed).build().unwrap();
        let first = app.run_timer(TIMER);
        app.advance(Duration::from_millis(1500));
        let second = app.run_timer(TIMER);
        let orders: Vec<Value> = [&first, &second].map(|order| order.json()).into();
        assert_eq!(orders[0]["timestamp"], "2026-01-02T03:04:05.678Z");
        assert_eq!(orders[1]["timestamp"], "2026-01-02T03:04:07.178Z");
        assert_eq!(ids(&orders), [100, 101]);
        (first.body(), second.body())
    };
    let mut different = BTreeSet::new();
    for seed in 0..20 {
        let orders = course(seed);
        assert_eq!(course(seed), orders, "the same seed, the same bytes");
        different.insert(orders);
    }
    assert_eq!(different.len(), 20);
}

#[test]
fn the_timer_creates_orders_at_its_pauses() {
    let app = burger().seed(3).with_timers().build().unwrap();
    let client = connect(&app);
    app.advance(Duration::from_secs(60));
    let times: Vec<_> = app
        .publications()
        .iter()
        .filter(|publication| publication.item.channel == "orders")
        .map(|publication| publication.time)
        .collect();
    assert!((11..=31).contains(&times.len()), "{times:?}");
    let mut pauses = BTreeSet::new();
    for pair in times.windows(2) {
        let pause = pair[1].duration_since(pair[0]).unwrap();
        let range = Duration::from_secs(2)..=Duration::from_millis(6001);
        assert!(range.contains(&pause), "{pause:?}");
        pauses.insert(pause);
    }
    assert!(pauses.len() > 5, "{pauses:?}");
    let received = take_events(&client);
    assert!(received.iter().all(|(name, _)| name == "order-received"));
    // The first order may have been created before the client was connected.
    assert!(received.len() >= times.len() - 1, "{received:?}");
    assert_eq!(ids(&list(&app)).len(), times.len());
    assert_eq!(app.failures(), []);
}

#[test]
fn clients_receive_what_is_created_and_answers_to_their_messages() {
    let app = burger().build().unwrap();
    let client = connect(&app);
    let order = create(&app);
    let events = take_events(&client);
    assert_eq!(
        events,
        [(
            "order-received".to_owned(),
            serde_json::json!({ "order": order })
        )]
    );
    for ping in [r#"{"event":"ping"}"#, COMPONENT_PING] {
        client.send(ping);
        assert_eq!(client.take_texts(), [r#"{"event":"pong"}"#]);
    }
    client.send("rubbish");
    let events = take_events(&client);
    assert_eq!(events[0].0, "error", "{events:?}");
    client.close(1000, "");
    assert_eq!(client.closed().unwrap().code(), Some(1000));
}

#[test]
fn a_client_that_was_away_resumes() {
    let app = burger().build().unwrap();
    let first = create(&app);
    create(&app);
    create(&app);
    let after = format!("{}-{}", first["id"], first["timestamp"].as_str().unwrap());
    let client = app.websocket(&format!("/api/ws?after={after}")).unwrap();
    let received: Vec<_> = take_events(&client)
        .into_iter()
        .map(|(_, detail)| detail)
        .collect();
    let received: Vec<_> = received
        .iter()
        .map(|detail| detail["order"].clone())
        .collect();
    assert_eq!(ids(&received), [101, 102]);
    // The host has never had this order.
    let client = app.websocket("/api/ws?after=99-unknown").unwrap();
    assert_eq!(client.take_texts(), [r#"{"event":"reload"}"#]);
}

#[test]
fn a_stream_has_each_order_once() {
    let app = burger().build().unwrap();
    create(&app);
    let stream = app.get("/api/orders/stream");
    assert!(stream.is_open(), "{stream:?}");
    assert_eq!(
        stream.header("content-type").as_deref(),
        Some("text/event-stream")
    );
    create(&app);
    create(&app);
    let ids_of_events = |text: &str| {
        let lines = text.lines().filter_map(|line| line.strip_prefix("id: "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(ids_of_events(&stream.text()), ["100", "101", "102"]);
    stream.take_text();
    app.advance(Duration::from_secs(20));
    assert_eq!(stream.take_text(), ":\n\n");
    // The link has a timeout of 120 seconds.
    app.advance(Duration::from_secs(100));
    assert_eq!(ids_of_events(&stream.take_text()), [""; 0]);
}

#[test]
fn only_the_host_creates_orders() {
    let app = burger().build().unwrap();
    for path in ["/internal/orders", "/internal/%6frders"] {
        assert_eq!(app.post(path, "").status(), 404);
    }
    // Where the path is not private, the host's signature decides.
    let app = order_service().variable("grip_key", "").build().unwrap();
    let forged = Request::post("/internal/orders").header("grip-sig", "forged");
    assert_eq!(app.request(forged.body("").unwrap()).status(), 403);
    assert_eq!(list(&app), [Value::Null; 0]);
}

#[test]
fn the_oldest_orders_are_removed() {
    let app = burger().build().unwrap();
    for _ in 0..1003 {
        create(&app);
    }
    assert_eq!(ids(&list(&app)), (103..1103).collect::<Vec<_>>());
    assert_eq!(app.get("/api/orders/102").status(), 404);
    assert_eq!(app.get("/api/orders/103").status(), 200);
    // Each order has a slot and a value, and there is a count.
    assert_eq!(app.store("default").keys().len(), 2 * 1000 + 1);
}
