//! Events for clients: their JSON, and the GRIP items that publish them.

use grip::Item;
use serde::Serialize;
use serde_json::json;

use crate::order::{Order, Status};

/// The GRIP channel for WebSockets, and for updated orders on event streams.
pub(crate) const ORDERS_CHANNEL: &str = "orders";

/// The GRIP channel for new orders on event streams.
///
/// Each item carries its order's id and the previous order's id. The host uses them to restore
/// the order of items that arrive out of order, and to detect a missing one. Items for WebSockets
/// do not carry the previous id: clients fetch missing orders themselves, so delaying messages until
/// an earlier one arrives would only cost time. Updated orders are not part of the sequence.
pub(crate) const RECEIVED_CHANNEL: &str = "orders-received";

/// A change to an order that is published to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OrderEvent {
    /// The order was created.
    Received,
    /// The order's status changed.
    Updated,
}

impl OrderEvent {
    /// Returns the event's name on the wire.
    pub(crate) fn name(self) -> &'static str {
        match self {
            OrderEvent::Received => "order-received",
            OrderEvent::Updated => "order-updated",
        }
    }

    /// Returns the items that publish the event to WebSockets and event streams.
    pub(crate) fn items(self, order: &Order) -> Vec<Item> {
        let mut message = Item::ws_text(ORDERS_CHANNEL, self.to_json(order));
        let event = self.to_server_sent_event(order);
        match self {
            OrderEvent::Received => {
                let previous = order.id.saturating_sub(1).to_string();
                let event = Item::stream(RECEIVED_CHANNEL, event)
                    .with_id(order.id.to_string(), Some(previous));
                message.id = Some(message_id(order));
                vec![message, event]
            }
            OrderEvent::Updated => vec![message.and_stream(event)],
        }
    }

    /// Encodes the event as a server-sent event. The data is the text that WebSockets get.
    ///
    /// Only new orders have an id: browsers send the last one back when they reconnect.
    pub(crate) fn to_server_sent_event(self, order: &Order) -> String {
        let (name, json) = (self.name(), self.to_json(order));
        match self {
            OrderEvent::Received => format!("id: {}\nevent: {name}\ndata: {json}\n\n", order.id),
            OrderEvent::Updated => format!("event: {name}\ndata: {json}\n\n"),
        }
    }

    fn to_json(self, order: &Order) -> String {
        #[derive(Serialize)]
        struct Detail<'a> {
            order: &'a Order,
        }
        event_json(self.name(), Detail { order })
    }
}

/// Returns the id of the message with a new order, after which a WebSocket can resume. The timestamp
/// distinguishes it from an order of the same id in a store that was reset.
fn message_id(order: &Order) -> String {
    format!("{}-{}", order.id, order.timestamp)
}

/// The event for a client whose WebSocket could not resume: it has to fetch what it has missed.
pub(crate) const RELOAD: &str = r#"{"event":"reload"}"#;

/// Returns an `error` event with a message.
pub(crate) fn error_json(message: &str) -> String {
    event_json("error", json!({ "message": message }))
}

/// Returns an `error` event for a client whose request to set an order's status failed.
pub(crate) fn order_error_json(id: u64, status: Status, message: &str) -> String {
    event_json(
        "error",
        json!({ "message": message, "id": id, "status": status }),
    )
}

/// Returns `{"event":NAME,"detail":DETAIL}`.
fn event_json(event: &'static str, detail: impl Serialize) -> String {
    #[derive(Serialize)]
    struct Event<D> {
        event: &'static str,
        detail: D,
    }
    serde_json::to_string(&Event { event, detail }).expect("events serialize to JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::sample_order;

    #[test]
    fn events_match_the_original_client() {
        let order = Order {
            id: 105,
            ..sample_order()
        };
        let json = serde_json::to_string(&order).unwrap();
        let received = format!(r#"{{"event":"order-received","detail":{{"order":{json}}}}}"#);
        let event = format!("id: 105\nevent: order-received\ndata: {received}\n\n");
        assert_eq!(
            OrderEvent::Received.items(&order),
            [
                Item::ws_text("orders", received).with_id(format!("105-{}", order.timestamp), None),
                Item::stream("orders-received", event).with_id("105", Some("104".into()))
            ]
        );
        let updated = format!(r#"{{"event":"order-updated","detail":{{"order":{json}}}}}"#);
        let event = format!("event: order-updated\ndata: {updated}\n\n");
        assert_eq!(
            OrderEvent::Updated.items(&order),
            [Item::ws_text("orders", updated).and_stream(event)]
        );
        assert_eq!(
            error_json("\"no\""),
            r#"{"event":"error","detail":{"message":"\"no\""}}"#
        );
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&order_error_json(7, Status::Fired, "no"))
                .unwrap(),
            json!({"event": "error", "detail": {"message": "no", "id": 7, "status": "fired"}})
        );
    }
}
