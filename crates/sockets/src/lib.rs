//! WebSockets, streams and long polls for Spin components.
//!
//! A component lives for one request, so it cannot keep a connection open. A *host* does that:
//! socket-host, or another GRIP proxy such as Pushpin. The author of a component writes a
//! [`Handler`], whose methods are called when something happens on a [`Connection`].
//!
//! # A chat
//!
//! This is a whole component. A client that opens `/?room=tea` gets the last 100 messages of the
//! room, then new ones, and the number of clients in the room whenever it changes:
//!
//! ```
//! use sockets::{Connection, Handler, Result, Room};
//!
//! struct Chat;
//!
//! impl Chat {
//!     fn room(connection: &Connection) -> Room {
//!         let name = connection.parameter("room");
//!         Room::new(name.as_deref().unwrap_or("lobby")).keep(100).counted()
//!     }
//! }
//!
//! impl Handler for Chat {
//!     async fn open(&self, connection: &mut Connection) -> Result {
//!         connection.join(&Chat::room(connection)).await
//!     }
//!
//!     async fn text(&self, connection: &mut Connection, text: &str) -> Result {
//!         Chat::room(connection).send(text).await
//!     }
//! }
//!
//! sockets::export!(Chat);
//!
//! # fn main() {
//! let mut ada = sockets::testing::connect(&Chat, "/?room=tea");
//! let mut bob = sockets::testing::connect(&Chat, "/?room=tea");
//! ada.send("hello");
//! assert_eq!(bob.items::<String>(), ["hello"]);
//! # }
//! ```
//!
//! `Cargo.toml` needs two tables besides the name of the package:
//!
//! ```toml
//! [lib]
//! crate-type = ["cdylib", "rlib"]
//!
//! [dependencies]
//! sockets = { path = "../socket-host/crates/sockets" }
//! ```
//!
//! The manifest `spin.toml` declares two variables, which socket-host sets by itself, and gives the
//! component access to the host and to its store. If lines are missing, the log of the component has
//! an error that lists them.
//!
//! ```toml
//! [variables]
//! grip_url = { default = "http://127.0.0.1:5561" }
//! grip_key = { default = "", secret = true }
//!
//! [component.chat]
//! source = "target/wasm32-wasip2/release/chat.wasm"
//! key_value_stores = ["default"]
//! allowed_outbound_hosts = ["{{ grip_url }}"]
//!
//! [component.chat.variables]
//! grip_url = "{{ grip_url }}"
//! grip_key = "{{ grip_key }}"
//! ```
//!
//! # What a handler does
//!
//! - **To one client:** [`Connection::send`] sends a message, and [`Connection::close`] closes the
//!   connection.
//! - **To many clients:** [`Connection::subscribe`] subscribes the client to a channel, and
//!   [`channel`]`("news").publish(…)` sends to all subscribers. Any component of the application may
//!   publish, at any time.
//! - **With a history:** a [`Room`] is a channel that keeps its last items in the key-value store.
//!   Clients that reconnect get what they have missed. It can count who is present.
//! - **State:** nothing in the memory of a component survives. [`Connection::set_meta`] stores text
//!   about one client, and [`store`] has counters, values and lists that clients share.
//!
//! A client is a `WebSocket`, or an `EventSource` of the same URL, which receives what a WebSocket
//! would, see [`Connection::is_stream`]. Long polls and streams of another kind start with [`hold`].
//!
//! # Tests
//!
//! [`testing`] connects a handler with clients, in a native unit test.
//!
//! # Typed frames
//!
//! With the feature `sip-016`, a component also exports the typed WebSockets of Spin's SIP-016. A
//! host that supports them passes the component frames in function calls, instead of requests. The
//! source is the same, with these limits:
//!
//! - A handler must not wait for an asynchronous function of another crate, such as
//!   `spin_sdk::http::send`. The connection is then closed with 1011.
//! - A held stream does not get what the handler of a WebSocket publishes. It asks every five
//!   seconds.
//! - [`Connection::control`] and [`Connection::auto_respond`] have no effect.
//!
//! # Rooms and their clients
//!
//! Items of rooms are JSON frames such as `{"$":"item","channel":"room:tea","id":7,"data":"hello"}`.
//! The subprotocol `rooms.v1` defines these frames, and how a client resumes after a lost connection.
//! It is documented in `docs/subprotocol.md`.

mod channel;
mod configuration;
mod connection;
mod events;
mod export;
mod files;
mod frame;
mod handler;
pub mod hold;
mod membership;
mod message;
mod platform;
mod query;
mod room;
mod serve;
mod server_sent_event;
pub mod store;
mod stream;
#[cfg(not(target_family = "wasm"))]
pub mod testing;
#[cfg(all(feature = "sip-016", target_family = "wasm"))]
mod typed;

pub use anyhow::Error;
pub use bytes::Bytes;
pub use grip::{self, CloseFrame};
pub use http::{self, Request, Response, StatusCode};

pub use self::{
    channel::{Channel, PublishError, channel, publish},
    configuration::{ConfigurationError, Unauthorized},
    connection::Connection,
    handler::Handler,
    message::{IntoMessage, Json, Message},
    room::Room,
    serve::{authenticate, serve},
};

/// The result of a handler. Any error can be returned with `?`.
///
/// [`Error::downcast_ref`] distinguishes the errors of this crate, which are
/// [`store::StoreError`], [`PublishError`], [`ConfigurationError`] and [`serde_json::Error`].
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

/// Used by [`export!`].
#[doc(hidden)]
#[cfg(target_family = "wasm")]
pub mod __private {
    pub use spin_sdk::wasip3;

    pub use crate::platform::handle;
    #[cfg(feature = "sip-016")]
    pub use crate::typed::{bindings, handle_frames, handle_new};
}
