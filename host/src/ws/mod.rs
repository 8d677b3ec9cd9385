//! WebSockets: the handshake, one session per socket, and WebSocket-over-HTTP towards the backend.

mod driver;
pub(crate) mod handshake;
pub(crate) mod outbox;
mod pending;
mod reader;
mod request_head;
mod session;
#[cfg(test)]
mod tests;
mod timers;
pub(crate) mod ws_over_http;
