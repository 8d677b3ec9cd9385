//! Listening sockets, and the HTTP connections on them.

pub(crate) mod connection;
pub(crate) mod frame;
pub(crate) mod listener;
mod response_bodies;
