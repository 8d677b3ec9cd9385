//! Codecs for GRIP and WebSocket-over-HTTP.
//!
//! With these protocols a *host* holds connections for a *component* that only speaks plain
//! HTTP, such as a function that lives for one request. The host turns the events of a
//! WebSocket into `POST` requests, and holds HTTP responses as streams or long polls. The
//! component publishes items to everybody who is subscribed to a channel.
//!
//! The crate serves both ends. It does no I/O and reads no clock, so it runs natively and
//! in WebAssembly. The protocols are those of Pushpin:
//! [GRIP](https://pushpin.org/docs/protocols/grip/) and
//! [WebSocket-over-HTTP](https://pushpin.org/docs/protocols/websocket-over-http/).
//!
//! # Modules
//!
//! - [`event`]: the events of a WebSocket, in requests and responses.
//! - [`extension`]: the `grip` extension, which distinguishes content from control messages.
//! - [`control`]: control messages, with which a component acts on one WebSocket.
//! - [`publish`]: items for all subscribers of a channel.
//! - [`hold`]: instructions to hold an HTTP response.
//! - [`signature`]: tokens that prove who sent a request.
//! - [`header`]: the names of headers and content types.
//!
//! # Example
//!
//! A component that subscribes its clients to a channel and echoes their messages. It
//! answers the requests of type [`header::WEBSOCKET_EVENTS`]:
//!
//! ```
//! use bytes::Bytes;
//! use grip::{ControlMessage, Event, EventError, Limits, control, event};
//!
//! fn respond(body: Bytes) -> Result<Bytes, EventError> {
//!     let mut responses = Vec::new();
//!     for event in event::decode_all(body, Limits::default())? {
//!         match event {
//!             Event::Open => {
//!                 responses.push(Event::Open);
//!                 responses.push(ControlMessage::subscribe("news").into_event());
//!             }
//!             Event::Text(text) => responses.push(control::content(text)),
//!             Event::Close(frame) => responses.push(Event::Close(frame)),
//!             _ => {}
//!         }
//!     }
//!     Ok(event::encode_all(&responses))
//! }
//!
//! let responses = respond(Bytes::from("OPEN\r\nTEXT 2\r\nhi\r\n"))?;
//! assert_eq!(
//!     responses,
//!     "OPEN\r\nTEXT 27\r\nc:{\"channel\":\"news\",\"type\":\"subscribe\"}\r\nTEXT 4\r\nm:hi\r\n"
//! );
//! # Ok::<(), EventError>(())
//! ```
//!
//! To reach all clients of the channel, it posts items to the host's control port:
//!
//! ```
//! use grip::{Item, publish};
//!
//! let body = publish::to_json(&[Item::ws_text("news", "hello")]);
//! assert_eq!(
//!     body,
//!     r#"{"items":[{"channel":"news","formats":{"ws-message":{"content":"hello"}}}]}"#
//! );
//! ```

pub mod control;
pub mod event;
pub mod extension;
pub mod header;
pub mod hold;
mod json;
mod message;
mod mime_base64;
mod parameters;
pub mod publish;
pub mod signature;

/// Compiles the example in the README.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

pub use bytestring::ByteString;
pub use control::{ControlError, ControlMessage, Presence};
pub use event::{CloseFrame, Event, EventError, Limits};
pub use extension::Extension;
pub use hold::{Instruct, InstructError};
pub use message::Message;
pub use publish::{Item, PublishError};
pub use signature::{Claims, Key, KeyError, SignatureError, Verifier};
