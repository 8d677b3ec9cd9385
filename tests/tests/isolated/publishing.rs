//! Publish requests that fail.

use component_testing::PublishFailure;
use serde_json::Value;

use crate::{burger, connect, create, ids, list, set_status, status_message, take_events};

const FAILURES: [PublishFailure; 3] = [
    PublishFailure::Unreachable,
    PublishFailure::Status(503),
    PublishFailure::ResponseLost,
];

#[test]
fn an_order_that_is_not_published_is_stored() {
    for failure in FAILURES {
        let app = burger().build().unwrap();
        let client = connect(&app);
        app.fail_publishes(failure);
        let order = create(&app);
        assert_eq!(list(&app), [order]);
        assert!(
            app.log("orders")
                .contains("failed to publish: event=order-received order=100"),
            "{}",
            app.log("orders")
        );
        let was_delivered = failure == PublishFailure::ResponseLost;
        assert_eq!(
            take_events(&client).len(),
            usize::from(was_delivered),
            "{failure:?}"
        );

        app.accept_publishes();
        create(&app);
        // A client that has missed the first one sees that an id is skipped.
        let events = take_events(&client);
        assert_eq!(events[0].1["order"]["id"], 101);
        assert_eq!(app.failures(), []);
    }
}

#[test]
fn an_update_that_is_not_published_is_stored() {
    for failure in FAILURES {
        let app = burger().build().unwrap();
        let client = connect(&app);
        create(&app);
        take_events(&client);
        app.fail_publishes(failure);
        client.send(status_message(100, "fired"));
        assert_eq!(app.request(set_status(100, "fulfilled")).status(), 200);
        assert_eq!(list(&app)[0]["status"], "fulfilled");
        let events = take_events(&client);
        assert!(
            events.iter().all(|(name, _)| name == "order-updated"),
            "{events:?}"
        );
        assert_eq!(client.closed(), None);
    }
}

#[test]
fn a_stream_fetches_what_was_not_published() {
    for failure in FAILURES {
        let app = burger().build().unwrap();
        let stream = app.get("/api/orders/stream");
        create(&app);
        app.fail_publishes(failure);
        create(&app);
        create(&app);
        app.accept_publishes();
        create(&app);
        let text = stream.text();
        let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
        let orders: Vec<Value> = data
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["detail"]["order"].take())
            .collect();
        assert_eq!(ids(&orders), [100, 101, 102, 103], "{failure:?}");
        assert_eq!(orders, list(&app));
    }
}
