//! News for the browsers: what is published to all who are connected.

use grip::Item;
use serde::Serialize;
use serde_json::json;

use crate::order::Order;

/// The GRIP channel that every WebSocket is subscribed to.
pub const CHANNEL: &str = "orders";

/// Publishes items, over GRIP.
#[allow(async_fn_in_trait)] // Components have one thread: no future needs to be Send.
pub trait Announce {
    /// Publishes one item, or says why not.
    async fn announce(&self, item: Item) -> Result<(), AnnounceError>;
}

/// An item was not published.
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
    /// The item that tells everyone.
    pub fn item(self, order: &Order) -> Item {
        let event = match self {
            News::Received => "order-received",
            News::Updated => "order-updated",
        };
        #[derive(Serialize)]
        struct Detail<'a> {
            order: &'a Order,
        }
        Item::ws_text(CHANNEL, event_json(event, Detail { order }))
    }
}

/// The event of an error, for one client.
pub fn error_json(message: &str) -> String {
    event_json("error", json!({ "message": message }))
}

/// The event of an error about one order, for the client that wanted to change it.
pub fn order_error_json(id: u64, message: &str) -> String {
    event_json("error", json!({ "message": message, "id": id }))
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
        let order = any_order();
        let json = serde_json::to_string(&order).unwrap();
        assert_eq!(
            News::Received.item(&order),
            Item::ws_text(
                "orders",
                format!(r#"{{"event":"order-received","detail":{{"order":{json}}}}}"#)
            )
        );
        assert_eq!(
            News::Updated.item(&order),
            Item::ws_text(
                "orders",
                format!(r#"{{"event":"order-updated","detail":{{"order":{json}}}}}"#)
            )
        );
        assert_eq!(
            error_json("\"no\""),
            r#"{"event":"error","detail":{"message":"\"no\""}}"#
        );
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&order_error_json(7, "no")).unwrap(),
            json!({"event": "error", "detail": {"message": "no", "id": 7}})
        );
    }
}
