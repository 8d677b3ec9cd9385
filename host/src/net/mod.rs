//! Sockets and bytes: listeners, the HTTP connections on them, and WebSocket frames.

pub(crate) mod connection;
pub(crate) mod frame;
pub(crate) mod listener;
mod response_bodies;
