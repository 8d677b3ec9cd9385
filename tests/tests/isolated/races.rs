//! Clients that act at the same time. Each seed is another order of events.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use component_testing::http::Request;
use serde_json::Value;

use crate::{
    burger, connect, create, ids, list, order_service, set_status, status_code, status_message,
    take_events,
};

const SEEDS: u64 = 60;

#[test]
fn of_two_clients_one_wins_and_all_converge() {
    let mut winners = BTreeMap::<String, u32>::new();
    for seed in 0..SEEDS {
        let app = burger().seed(seed).build().unwrap();
        let (one, two, watcher) = (connect(&app), connect(&app), connect(&app));
        create(&app);
        one.send(status_message(100, "fired"));
        for client in [&one, &two, &watcher] {
            take_events(client);
        }

        one.enqueue(status_message(100, "fulfilled"));
        two.enqueue(status_message(100, "cancelled"));
        app.settle();

        let stored = list(&app)[0]["status"].as_str().unwrap().to_owned();
        let mut errors = Vec::new();
        for client in [&one, &two, &watcher] {
            let mut updates = Vec::new();
            for (name, detail) in take_events(client) {
                match name.as_str() {
                    "order-updated" => updates.push(detail["order"]["status"].clone()),
                    "error" => errors.push(detail["status"].as_str().unwrap().to_owned()),
                    other => panic!("seed {seed}: {other}"),
                }
            }
            assert_eq!(updates, [Value::from(stored.as_str())], "seed {seed}");
        }
        let loser = if stored == "fulfilled" {
            "cancelled"
        } else {
            "fulfilled"
        };
        assert_eq!(errors, [loser], "seed {seed}");
        *winners.entry(stored).or_default() += 1;
        assert_eq!(app.failures(), []);
    }
    let expected = ["cancelled", "fulfilled"];
    assert!(winners.keys().eq(expected), "both can win: {winners:?}");
}

#[test]
fn of_many_requests_one_wins() {
    let mut winners = BTreeSet::new();
    for seed in 0..SEEDS {
        let app = burger().seed(seed).build().unwrap();
        create(&app);
        let responses = app.concurrently((0..5).map(|_| set_status(100, "fired")));
        let statuses: Vec<_> = responses.iter().map(status_code).collect();
        let won = statuses.iter().position(|status| *status == 200);
        winners.insert(won.unwrap_or_else(|| panic!("seed {seed}: {statuses:?}")));
        let lost = statuses.iter().filter(|status| **status == 409);
        assert_eq!(lost.count(), 4, "seed {seed}: {statuses:?}");
        let published = app.publications();
        let updates = published.iter().filter(|it| it.item.http_stream.is_some());
        assert_eq!(
            updates.count(),
            2,
            "seed {seed}: one of them is the creation"
        );
    }
    assert!(winners.len() > 1, "{winners:?}");
}

#[test]
fn concurrent_orders_have_ids_without_gaps() {
    let mut courses = BTreeSet::new();
    for seed in 0..SEEDS {
        let app = order_service().seed(seed).build().unwrap();
        let post = || Request::post("/internal/orders").body("").unwrap();
        let responses = app.concurrently((0..6).map(|_| post()));
        let created: Vec<Value> = responses
            .iter()
            .map(|response| {
                assert_eq!(response.status(), 201, "seed {seed}: {response:?}");
                response.json()
            })
            .collect();
        let mut sorted = created.clone();
        sorted.sort_by_key(|order| order["id"].as_u64());
        assert_eq!(ids(&sorted), [100, 101, 102, 103, 104, 105], "seed {seed}");
        assert_eq!(
            list(&app),
            sorted,
            "seed {seed}: the stored orders are those of the responses"
        );
        courses.insert(ids(&created));
    }
    assert!(courses.len() > 10, "{courses:?}");
}

#[test]
fn a_whole_course_is_reproducible() {
    let course = |seed: u64| {
        let app = burger().seed(seed).with_timers().build().unwrap();
        let clients = [connect(&app), connect(&app), connect(&app)];
        app.advance(Duration::from_secs(10));
        for id in 100..103 {
            clients[0].enqueue(status_message(id, "fired"));
            clients[1].enqueue(status_message(id, "cancelled"));
            app.concurrently([
                set_status(id, "fired"),
                set_status(id, "fulfilled"),
                Request::get("/").body(String::new()).unwrap(),
            ]);
        }
        clients[2].disconnect();
        app.advance(Duration::from_secs(10));
        (
            app.store("default").calls(),
            app.store("default").entries(),
            app.publications(),
            clients.map(|client| client.texts()),
            (app.log("orders"), app.warnings(), app.now()),
        )
    };
    let mut calls = BTreeSet::new();
    for seed in 0..5 {
        let first = course(seed);
        for _ in 0..3 {
            assert_eq!(course(seed), first, "seed {seed}");
        }
        calls.insert(format!("{:?}", first.0));
    }
    assert_eq!(calls.len(), 5, "each seed takes another course");
}
