//! Orders in the order service's wire format.

use serde::Deserialize;

/// One order.
///
/// The page shows any text that the service sends. Only the fields that a receipt
/// needs are required.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Order {
    /// Rises by one from order to order.
    pub(crate) id: u64,
    /// When the order was received: RFC 3339, UTC, milliseconds.
    pub(crate) timestamp: String,
    /// `dining room`, `takeout` or `drive thru`.
    pub(crate) destination: String,
    /// `received`, `fired`, `fulfilled` or `cancelled`.
    pub(crate) status: String,
    pub(crate) items: Vec<Item>,
    /// Remarks about the order as a whole.
    #[serde(default)]
    pub(crate) notes: Vec<String>,
}

/// One line of an order.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Item {
    /// The name on the menu.
    pub(crate) name: String,
    /// Changes to the item: `no onion`, `extra sauce`, …
    #[serde(default)]
    pub(crate) substitutions: Vec<String>,
}

/// The response to `GET /api/orders`, oldest order first.
#[derive(Debug, Deserialize)]
pub(crate) struct Orders {
    pub(crate) orders: Vec<Order>,
}
