//! Sockets and bytes: listeners, TLS, the HTTP connections on them with their bodies, and WebSocket
//! frames.

pub(crate) mod addresses;
pub(crate) mod connection;
pub(crate) mod connections;
pub(crate) mod date;
pub(crate) mod draining;
pub(crate) mod frame;
pub(crate) mod io;
pub(crate) mod listener;
pub(crate) mod probe;
mod proxy_protocol;
pub(crate) mod rate;
pub(crate) mod request_body;
mod response_body;
pub(crate) mod stream;
pub(crate) mod tls;
pub(crate) mod trusted_proxies;
