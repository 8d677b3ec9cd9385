//! Handles WebSockets.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;
use sockets::{Connection, Handler, Result};

use crate::{
    event::{ORDERS_CHANNEL, RELOAD, error_json, order_error_json},
    history::UpdateError,
    order::Status,
    orders::Orders,
};

/// The ping as the page sends it. A host that answers it compares its bytes.
const PING: &str = r#"{"event":"ping"}"#;

const PONG: &str = r#"{"event":"pong"}"#;

const EXPECTED: &str =
    r#"expected {"event":"ping"} or {"event":"order-status","detail":{"id":ID,"status":STATUS}}"#;

const EXPECTED_DETAIL: &str = r#"order-status: expected "detail":{"id":ID,"status":STATUS}, STATUS one of "received", "fired", "fulfilled", "cancelled""#;

/// The handler of WebSockets.
pub(crate) struct Socket<'a>(pub(crate) &'a Orders);

impl Handler for Socket<'_> {
    /// Subscribes the client. The parameter `after` of the URL is the id of the last message that it has.
    async fn open(&self, connection: &mut Connection) -> Result {
        connection.auto_respond(PING, PONG);
        match connection.parameter("after") {
            Some(after) if !after.is_empty() => connection.subscribe_after(ORDERS_CHANNEL, after),
            _ => connection.subscribe(ORDERS_CHANNEL),
        }
        Ok(())
    }

    async fn text(&self, connection: &mut Connection, text: &str) -> Result {
        match handle_message(text, self.0).await {
            Some(reply) => connection.send(reply),
            None => Ok(()),
        }
    }

    async fn binary(&self, connection: &mut Connection, _: &[u8]) -> Result {
        connection.send(error_json(&format!("not text: {EXPECTED}")))
    }

    async fn missed(&self, connection: &mut Connection, _: &str) -> Result {
        connection.send(RELOAD)
    }
}

/// Handles a text message and returns the reply, if any.
async fn handle_message(text: &str, orders: &Orders) -> Option<String> {
    #[derive(Deserialize)]
    struct Message<'a> {
        #[serde(borrow)]
        event: Cow<'a, str>,
        #[serde(default)]
        detail: Value,
    }

    #[derive(Deserialize)]
    struct OrderStatus {
        id: u64,
        status: Status,
    }

    let error = |message: &str| Some(error_json(message));
    let message: Message = match serde_json::from_str(text) {
        // Serde would also accept an array of the fields.
        Ok(message) if text.trim_ascii_start().starts_with('{') => message,
        Err(source) if !source.is_data() => return error(&format!("not JSON: {EXPECTED}")),
        _ => return error(EXPECTED),
    };
    match &*message.event {
        "ping" => Some(PONG.into()),
        "order-status" => {
            let detail = Some(message.detail).filter(Value::is_object);
            let detail = detail.and_then(|detail| serde_json::from_value(detail).ok());
            let Some(OrderStatus { id, status }) = detail else {
                return error(EXPECTED_DETAIL);
            };
            let error = |message: &str| Some(order_error_json(id, status, message));
            match orders.update(id, status).await {
                // The client gets the published event, like all other clients.
                Ok(_) => None,
                Err(UpdateError::Store(source)) => {
                    eprintln!("failed to update order: order={id} error={source}");
                    error("the order could not be updated: try again")
                }
                Err(source) => error(&source.to_string()),
            }
        }
        _ => error(&format!("unknown event: {EXPECTED}")),
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use grip::{Event, Item, event, header};
    use proptest::prelude::*;
    use sockets::{
        Request,
        testing::{self, Client, block_on, connect, set_publishing_fails},
    };

    use super::*;
    use crate::order::Order;
    use crate::testing::{create, empty_orders, take_messages};

    fn client<'a>(socket: &'a Socket<'_>) -> Client<'a, Socket<'a>> {
        connect(socket, "/api/ws")
    }

    /// Returns the replies to a message.
    fn send_text(orders: &Orders, text: &str) -> Vec<String> {
        let socket = Socket(orders);
        let mut client = connect(&socket, "/api/ws");
        client.send(text);
        client.texts()
    }

    /// The error for a failed update of the first order to `status`.
    fn order_error(status: Status, message: &str) -> String {
        order_error_json(100, status, message)
    }

    /// Returns the events after the OPEN in the response to a host with these features.
    fn opened(query: &str, features: &str) -> Vec<Event> {
        let request = Request::post(format!("/api/ws?{query}"))
            .header("content-type", header::WEBSOCKET_EVENTS)
            .header(header::GRIP_FEATURE, features);
        let orders = empty_orders();
        let response = testing::request(&Socket(&orders), request.body("OPEN\r\n").unwrap());
        let events = event::decode_all(response.into_body(), grip::Limits::default());
        events.unwrap()[1..].to_vec()
    }

    #[test]
    fn the_host_answers_pings_where_it_can() {
        let subscribe = Event::text(r#"c:{"channel":"orders","type":"subscribe"}"#);
        let auto_response = Event::text(
            r#"c:{"request":"{\"event\":\"ping\"}","response":"{\"event\":\"pong\"}","type":"auto-response"}"#,
        );
        assert_eq!(
            opened("", "status, auto-response"),
            [auto_response, subscribe.clone()]
        );
        assert_eq!(opened("", "status"), [subscribe]);
    }

    #[test]
    fn clients_resume_where_the_host_can() {
        let (subscribe, reload) = (
            Event::text(r#"c:{"channel":"orders","type":"subscribe"}"#),
            Event::text(format!("m:{RELOAD}")),
        );
        let after = "after=117-2026-01-02T03:04:05.678Z";
        assert_eq!(
            opened(after, "status, subscribe:recover"),
            [Event::text(
                r#"c:{"channel":"orders","prev-id":"117-2026-01-02T03:04:05.678Z","type":"subscribe"}"#
            )]
        );
        assert_eq!(opened(after, "status"), [subscribe.clone(), reload]);
        for query in ["after=", ""] {
            assert_eq!(opened(query, "subscribe:recover"), from_ref(&subscribe));
        }
    }

    #[test]
    fn clients_that_have_missed_messages_reload() {
        let orders = empty_orders();
        let socket = Socket(&orders);
        block_on(sockets::publish(vec![
            Item::ws_text(ORDERS_CHANNEL, "").with_id("1", None),
        ]))
        .unwrap();
        let mut behind = connect(&socket, "/api/ws?after=0");
        assert_eq!(behind.texts(), [RELOAD]);
    }

    #[test]
    fn messages_are_answered_in_order() {
        let orders = empty_orders();
        let socket = Socket(&orders);
        let mut client = client(&socket);
        client.send(PING);
        client.send("nonsense");
        client.send(r#" { "detail": [1], "event": "p\u0069ng", "more": {} }"#);
        let error = error_json(&format!("not JSON: {EXPECTED}"));
        assert_eq!(client.texts(), [PONG, &error, PONG]);
        client.close(1001, "going");
        assert_eq!(client.closed(), Some(sockets::CloseFrame::new(1001, "")));
    }

    #[test]
    fn invalid_messages_get_an_error() {
        let orders = empty_orders();
        for (invalid, message) in [
            ("", format!("not JSON: {EXPECTED}")),
            ("{", format!("not JSON: {EXPECTED}")),
            (r#"{"event":"ping"}}"#, format!("not JSON: {EXPECTED}")),
            ("1", EXPECTED.into()),
            (r#"["ping",null]"#, EXPECTED.into()),
            (r#"{"event":1}"#, EXPECTED.into()),
            (r#"{"event":"ping","event":"ping"}"#, EXPECTED.into()),
            (r#"{"event":"PING"}"#, format!("unknown event: {EXPECTED}")),
            (r#"{"event":"order-status"}"#, EXPECTED_DETAIL.into()),
            (
                r#"{"event":"order-status","detail":[100,"fired"]}"#,
                EXPECTED_DETAIL.into(),
            ),
            (
                r#"{"event":"order-status","detail":{"id":-1,"status":"fired"}}"#,
                EXPECTED_DETAIL.into(),
            ),
            (
                r#"{"event":"order-status","detail":{"id":100,"status":"eaten"}}"#,
                EXPECTED_DETAIL.into(),
            ),
        ] {
            assert_eq!(
                send_text(&orders, invalid),
                [error_json(&message)],
                "{invalid}"
            );
        }
        assert_eq!(
            send_text(
                &orders,
                r#"{"event":"order-status","detail":{"id":100,"status":"fired"}}"#
            ),
            [order_error(Status::Fired, "order 100 not found")]
        );
        let socket = Socket(&orders);
        let mut client = client(&socket);
        client.send_binary("{}");
        assert_eq!(
            client.texts(),
            [error_json(&format!("not text: {EXPECTED}"))]
        );
    }

    #[test]
    fn status_updates_are_published() {
        let orders = empty_orders();
        let order = create(&orders);
        take_messages();
        let socket = Socket(&orders);
        let mut other = client(&socket);
        let mut sender = client(&socket);
        let mut status = |status: &str| {
            let id = order.id;
            sender.send(&format!(
                r#"{{"event":"order-status","detail":{{"id":{id},"status":"{status}"}}}}"#
            ));
            sender.texts()
        };
        let updated = |status: Status| {
            let order = Order {
                status,
                ..order.clone()
            };
            let order = serde_json::to_string(&order).unwrap();
            format!(r#"{{"event":"order-updated","detail":{{"order":{order}}}}}"#)
        };
        assert_eq!(
            status("fulfilled"),
            [order_error(
                Status::Fulfilled,
                "order 100 is received: it cannot become fulfilled"
            )]
        );
        // The sender gets what all subscribers get.
        assert_eq!(status("fired"), [updated(Status::Fired)]);
        assert_eq!(
            status("fired"),
            [order_error(
                Status::Fired,
                "order 100 is fired: it cannot become fired"
            )]
        );
        assert_eq!(status("cancelled"), [updated(Status::Cancelled)]);
        assert_eq!(
            status("received"),
            [order_error(
                Status::Received,
                "order 100 is cancelled: it cannot become received"
            )]
        );
        let expected = [Status::Fired, Status::Cancelled].map(updated);
        assert_eq!(other.texts(), expected);
        assert_eq!(take_messages(), expected);
    }

    #[test]
    fn storage_errors_are_not_revealed() {
        let orders = empty_orders();
        let order = create(&orders);
        testing::store("default").set_failing(true);
        let fired = format!(
            r#"{{"event":"order-status","detail":{{"id":{},"status":"fired"}}}}"#,
            order.id
        );
        assert_eq!(
            send_text(&orders, &fired),
            [order_error(
                Status::Fired,
                "the order could not be updated: try again"
            )]
        );
    }

    #[test]
    fn a_status_is_stored_when_publishing_fails() {
        let orders = empty_orders();
        create(&orders);
        set_publishing_fails(true);
        let fired = r#"{"event":"order-status","detail":{"id":100,"status":"fired"}}"#;
        assert_eq!(send_text(&orders, fired), Vec::<String>::new());
        let stored = block_on(orders.history.get(100)).unwrap().unwrap();
        assert_eq!(stored.json::<Order>().unwrap().status, Status::Fired);
    }

    proptest! {
        #[test]
        fn any_text_gets_one_reply(text in "\\PC{0,40}|[{\\[]\"event\":\"(ping|order-status)\".{0,9}[}\\]]?") {
            prop_assert_eq!(send_text(&empty_orders(), &text).len(), 1);
        }
    }
}
