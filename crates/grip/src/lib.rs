//! GRIP as both ends speak it: the host that holds connections, and the component behind it.
//!
//! Plain values and codecs, no I/O, no clock: the same code runs natively and in a
//! component. The protocols are those of Pushpin:
//! <https://pushpin.org/docs/protocols/websocket-over-http/> and
//! <https://pushpin.org/docs/protocols/grip/>.
//!
//! - [`event`]: what happened on a WebSocket, as the body of a POST and of its answer.
//! - [`extension`]: the `grip` WebSocket extension, which tells content from control.
//! - [`control`]: what a component asks of the host, inside a message that begins with `c:`.
//! - [`publish`]: items for all who are subscribed to a channel.
//! - [`hold`]: what a plain response asks of the host: to be held, and what for.
//! - [`signature`]: the `Grip-Sig` and `Authorization: Bearer` tokens.
//! - [`header`]: the names that all of this has in HTTP.

pub mod control;
pub mod event;
pub mod extension;
mod fields;
pub mod header;
pub mod hold;
pub mod message;
mod parameters;
pub mod publish;
pub mod signature;

/// The example of the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

pub use bytestring::ByteString;
pub use control::{ControlError, ControlMessage};
pub use event::{CloseFrame, Event, EventError, Limits};
pub use extension::Extension;
pub use hold::{Instruct, InstructError};
pub use message::Message;
pub use publish::{Item, PublishError};
pub use signature::{Claims, Key, KeyError, SignatureError, Verifier};
