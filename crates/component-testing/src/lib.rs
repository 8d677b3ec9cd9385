//! Tests compiled components in a simulated world.
//!
//! A [`TestApp`] runs the components of an application as socket-host does: with the same routes,
//! interfaces, variables and limits. What surrounds them is simulated. Time moves only when a test
//! lets it, random numbers come from a seed, key-value stores are in memory and can fail, servers are
//! functions, and WebSocket clients are objects. All of it runs on the thread of the test, which opens
//! no ports, so a test with the same seed always takes the same course.
//!
//! ```no_run
//! use component_testing::TestApp;
//!
//! # fn main() -> anyhow::Result<()> {
//! let app = TestApp::from_manifest("spin.toml").seed(7).build()?;
//! let client = app.websocket("/api/ws").unwrap();
//! app.run_timer("/internal/orders");
//! assert_eq!(client.texts().len(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! The guide for authors is `docs/testing.md`.

mod app;
mod builder;
mod channels;
mod failure;
mod filter;
mod grip_response;
mod hold;
mod host;
mod log;
mod manifest;
mod outbound;
mod publisher;
mod reply;
mod request;
mod response;
mod runtime;
mod serve;
mod servers;
mod shuffle;
mod store;
mod timers;
mod websocket;

pub use grip;
pub use http;
pub use spin_runtime::Limits;

pub use app::TestApp;
pub use builder::TestAppBuilder;
pub use failure::Failure;
pub use outbound::OutboundRequest;
pub use publisher::{Publication, PublishFailure};
pub use reply::Reply;
pub use response::Response;
pub use store::{Store, StoreCall};
pub use websocket::{Closed, Message, WebSocket};

/// Compiles and runs the example in the guide.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/testing.md")]
struct Guide;
