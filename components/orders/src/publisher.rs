//! News for the browsers: what is published to all who are connected.

use grip::Item;
use serde::Serialize;
use serde_json::json;

use crate::order::{Order, Status};

/// The GRIP channel of all news, for WebSockets, and of changed orders, for streams.
pub const CHANNEL: &str = "orders";

/// The GRIP channel of new orders, for streams.
///
/// Its items are a chain: each has its order's id, and that of the order before. So the
/// host puts them in order where makers overtake each other, and sees where one is
/// missing. WebSockets have no use for that, they fill gaps themselves and would wait for
/// stragglers, and changed orders have no place in the chain: hence two channels.
pub const CHAIN: &str = "orders-received";

/// Publishes items, over GRIP.
#[allow(async_fn_in_trait)] // Components have one thread: no future needs to be Send.
pub trait Announce {
    /// Publishes items together, or says why not.
    async fn announce(&self, items: Vec<Item>) -> Result<(), AnnounceError>;
}

/// Items were not published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AnnounceError(pub String);

/// What happened to an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It was made.
    Received,
    /// Its status changed.
    Updated,
}

impl News {
    /// The items that tell everyone.
    pub fn items(self, order: &Order) -> Vec<Item> {
        let message = Item::ws_text(CHANNEL, self.json(order));
        let event = self.stream_event(order);
        match self {
            News::Received => {
                let before = order.id.saturating_sub(1).to_string();
                let link = Item::stream(CHAIN, event);
                vec![message, link.with_id(order.id.to_string(), Some(before))]
            }
            News::Updated => vec![message.and_stream(event)],
        }
    }

    /// The server-sent event. Its data is what WebSockets get; its id, which browsers send
    /// back when they connect again, is the order's, and only new orders have one.
    pub fn stream_event(self, order: &Order) -> String {
        let (name, json) = (self.name(), self.json(order));
        match self {
            News::Received => format!("id: {}\nevent: {name}\ndata: {json}\n\n", order.id),
            News::Updated => format!("event: {name}\ndata: {json}\n\n"),
        }
    }

    fn json(self, order: &Order) -> String {
        #[derive(Serialize)]
        struct Detail<'a> {
            order: &'a Order,
        }
        event_json(self.name(), Detail { order })
    }

    fn name(self) -> &'static str {
        match self {
            News::Received => "order-received",
            News::Updated => "order-updated",
        }
    }
}

/// The event of an error, for one client.
pub fn error_json(message: &str) -> String {
    event_json("error", json!({ "message": message }))
}

/// The event of an error about one order, for the client that wanted it to be `status`.
pub fn order_error_json(id: u64, status: Status, message: &str) -> String {
    event_json(
        "error",
        json!({ "message": message, "id": id, "status": status }),
    )
}

/// An event as the browsers read it: `{"event":NAME,"detail":DETAIL}`.
fn event_json(event: &'static str, detail: impl Serialize) -> String {
    #[derive(Serialize)]
    struct Event<D> {
        event: &'static str,
        detail: D,
    }
    serde_json::to_string(&Event { event, detail })
        .expect("strings, numbers and lists have a form in JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::any_order;

    #[test]
    fn events_are_the_original_clients() {
        let order = Order {
            id: 105,
            ..any_order()
        };
        let json = serde_json::to_string(&order).unwrap();
        let received = format!(r#"{{"event":"order-received","detail":{{"order":{json}}}}}"#);
        let event = format!("id: 105\nevent: order-received\ndata: {received}\n\n");
        assert_eq!(
            News::Received.items(&order),
            [
                Item::ws_text("orders", received),
                Item::stream("orders-received", event).with_id("105", Some("104".into()))
            ]
        );
        let updated = format!(r#"{{"event":"order-updated","detail":{{"order":{json}}}}}"#);
        let event = format!("event: order-updated\ndata: {updated}\n\n");
        assert_eq!(
            News::Updated.items(&order),
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
