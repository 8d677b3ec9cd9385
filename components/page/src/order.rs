//! Orders as the order service sends them.

use serde::Deserialize;

/// One order. The page shows whatever text it is given, so nothing here is
/// narrower than the wire format, and only what a receipt cannot do without is
/// required.
#[derive(Clone, Debug, Deserialize)]
pub struct Order {
    /// Rises by one from order to order.
    pub id: u64,
    /// When it came in: RFC 3339, UTC, milliseconds.
    pub timestamp: String,
    /// Where it goes: `dining room`, `takeout` or `drive thru`.
    pub destination: String,
    /// How far the kitchen is: `received`, `fired`, `fulfilled` or `cancelled`.
    pub status: String,
    /// What was ordered, in the order it was said.
    pub items: Vec<Item>,
    /// Remarks about the whole order.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// One line of an order.
#[derive(Clone, Debug, Deserialize)]
pub struct Item {
    /// What the menu calls it.
    pub name: String,
    /// How it departs from the menu: `no onion`, `extra sauce`, …
    #[serde(default)]
    pub substitutions: Vec<String>,
}

/// The order service's answer to `GET /api/orders`: oldest first.
#[derive(Debug, Deserialize)]
pub struct Orders {
    /// The orders asked for.
    pub orders: Vec<Order>,
}
