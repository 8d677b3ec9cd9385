//! The order service of Socket Burger, a Spin component.
//!
//! It makes orders, keeps the last thousand, answers for them over HTTP, and speaks
//! with browsers through WebSocket events that a GRIP host sends it as POSTs, or through
//! server-sent events on responses that the host holds. Only [`spin`] knows that it runs
//! in Spin; all else is plain Rust over two traits, [`Storage`](storage::Storage) and
//! [`Announce`](announce::Announce).
//!
//! A request goes [`service`] → ([`gate`]) → [`socket`], [`stream`], [`query`] or [`change`] →
//! [`kitchen`] → [`history`] → [`storage`], and news from the kitchen out through [`announce`].

pub mod announce;
pub mod change;
pub mod gate;
pub mod generator;
pub mod history;
pub mod kitchen;
pub mod menu;
pub mod order;
pub mod query;
pub mod reply;
pub mod service;
pub mod socket;
pub mod spin;
pub mod storage;
pub mod stream;
pub mod timestamp;

#[cfg(test)]
mod testing;

/// The guide's component compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/grip.md")]
struct Guide;
