//! The order service of Socket Burger, a Spin component.
//!
//! The component creates orders, stores the last thousand and serves them over HTTP. Browsers
//! receive new and updated orders in one of two ways:
//!
//! - over a WebSocket, whose events a GRIP host sends to the component as POST requests;
//! - as server-sent events, on a response that the GRIP host holds open.
//!
//! The crate `sockets` stores, publishes and authenticates, and decodes the events of WebSockets. In
//! native tests, it simulates the store and the host.
//!
//! `router` authenticates a request and passes it to the module that serves it: `query`, `websocket`,
//! `event_stream` or `update`. `orders` writes changes to `history`, and then publishes them.

mod event;
mod event_stream;
mod generator;
mod history;
mod menu;
mod order;
mod orders;
mod query;
mod response;
mod router;
mod spin;
mod timestamp;
mod update;
mod websocket;

#[cfg(test)]
mod testing;

pub use spin::handle;

/// Compiles the component in `docs/grip.md`.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/grip.md")]
struct Guide;
