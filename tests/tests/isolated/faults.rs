//! A store that fails at every call in turn.

use std::cell::RefCell;

use component_testing::{Response, Store, TestApp, WebSocket, http::Request};
use serde_json::Value;

use crate::{
    burger, connect, create, ids, list, set_status, status_code, status_message, take_events,
};

/// The ways in which a call fails: without effect, and after it took effect.
const FAILURES: [fn(&Store, usize); 2] = [Store::fail_call, Store::lose_result];

/// More calls than any operation makes.
const MAX_CALLS: usize = 100;

/// The outcome of a request for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Success,
    /// Try again.
    Failure,
}

impl Outcome {
    /// Checks the response to a request.
    fn of(response: &Response) -> Self {
        match status_code(response) {
            200 | 201 => Self::Success,
            500 => {
                let text = response.text();
                assert_eq!(text, "orders unavailable: see the component's log\n");
                Self::Failure
            }
            other => panic!("unexpected status {other}: {response:?}"),
        }
    }
}

/// Performs an operation on a new order, once for each call to the store that it makes, while that call
/// fails. Then checks that no order is lost or incomplete. `check` gets the outcome, the order, and those that came after it.
fn fail_each_call(
    operation: impl Fn(&TestApp, &WebSocket, u64) -> Outcome,
    check: impl Fn(Outcome, &Value, &[Value]),
) {
    for fail in FAILURES {
        let app = burger().build().unwrap();
        let client = connect(&app);
        let store = app.store("default");
        let is_complete = (1..MAX_CALLS).any(|number| {
            let id = create(&app)["id"].as_u64().unwrap();
            let before = list(&app);
            take_events(&client);
            let failing = store.call_count() + number;
            fail(store, failing);
            let outcome = operation(&app, &client, id);
            let has_failed = store.call_count() >= failing;
            store.recover();

            // The service works again. If the operation was interrupted, this completes it.
            let next = create(&app);
            let after = list(&app);
            let all: Vec<_> = (100..100 + after.len() as u64).collect();
            assert_eq!(ids(&after), all, "call {number}: ids without gaps");
            let index = usize::try_from(id - 100).unwrap();
            assert_eq!(
                after[..index],
                before[..index],
                "call {number}: others are unchanged"
            );
            let later = &after[index + 1..];
            assert_eq!(later.last(), Some(&next));
            check(outcome, &after[index], &later[..later.len() - 1]);
            assert_eq!(app.failures(), [], "call {number}");
            if outcome == Outcome::Failure {
                assert!(
                    app.log("orders").contains("simulated failure"),
                    "call {number}"
                );
            }
            if !has_failed {
                assert!(number > 1, "the operation uses the store");
                assert_eq!(outcome, Outcome::Success);
            }
            !has_failed
        });
        assert!(
            is_complete,
            "the operation makes fewer than {MAX_CALLS} calls"
        );
    }
}

#[test]
fn a_new_order_is_created_or_refused() {
    let created = RefCell::default();
    fail_each_call(
        |app, client, _| {
            let response = app.run_timer("POST /internal/orders");
            let outcome = Outcome::of(&response);
            if outcome == Outcome::Success {
                let order: Value = response.json();
                assert_eq!(take_events(client)[0].1["order"], order);
                created.replace(order);
            }
            outcome
        },
        |outcome, order, later| {
            assert_eq!(order["status"], "received");
            match outcome {
                Outcome::Success => assert_eq!(later, [created.take()]),
                // The result of the call that made it final may be lost. It then is complete.
                Outcome::Failure => {
                    assert!(later.len() <= 1);
                    assert!(
                        later.iter().all(|order| order["items"].is_array()),
                        "{later:?}"
                    );
                }
            }
        },
    );
}

/// Checks the order after an update to `fired`.
fn check_update(outcome: Outcome, order: &Value, later: &[Value]) {
    assert!(later.is_empty());
    if outcome == Outcome::Success {
        assert_eq!(order["status"], "fired");
    } else {
        // The result of a call that took effect may be lost.
        assert!(
            ["received", "fired"]
                .map(Value::from)
                .contains(&order["status"]),
            "{order}"
        );
    }
    assert!(!order["items"].as_array().unwrap().is_empty(), "{order}");
}

#[test]
fn an_update_over_http_is_applied_or_refused() {
    fail_each_call(
        |app, _, id| Outcome::of(&app.request(set_status(id, "fired"))),
        check_update,
    );
}

#[test]
fn an_update_over_a_websocket_is_applied_or_refused() {
    fail_each_call(
        |_, client, id| {
            client.send(status_message(id, "fired"));
            assert_eq!(client.closed(), None);
            let events = take_events(client);
            let [(name, detail)] = &events[..] else {
                panic!("one event: {events:?}")
            };
            match name.as_str() {
                "order-updated" => Outcome::Success,
                "error" => {
                    assert_eq!(
                        detail["message"],
                        "the order could not be updated: try again"
                    );
                    Outcome::Failure
                }
                other => panic!("{other}"),
            }
        },
        check_update,
    );
}

#[test]
fn reading_fails_as_a_whole() {
    for path in [
        "/api/orders",
        "/api/orders?after=99",
        "/api/orders/100",
        "/api/orders/stream",
    ] {
        fail_each_call(
            |app, _, _| {
                let request = Request::get(path).body("").unwrap();
                Outcome::of(&app.request(request))
            },
            |_, order, later| {
                assert_eq!(order["status"], "received");
                assert!(later.is_empty());
            },
        );
    }
}
