//! Typed WebSockets: the interfaces of SIP-016, and the channels that the host adds to them.
//!
//! - `handler` passes upgrade requests and frames to a component.
//! - `send` and `channels` are what components call.
//! - `convert` translates frames and close codes.

mod bindings;
mod channels;
mod convert;
mod handler;
mod send;

use wasmtime::component::Linker;

use super::guest::Guest;

pub(crate) use handler::{WebSocketHandler, WebSocketPre};
pub use send::SendingFrame;

/// Adds the interfaces that components call to a linker.
pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    send::add_to_linker(linker)?;
    channels::add_to_linker(linker)
}
