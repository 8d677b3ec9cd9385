//! WebSockets: the handshake, one session per socket, and WebSocket-over-HTTP to the backend.
//!
//! In reading order, following a message from the client to the backend and back:
//!
//! - `handshake` answers an upgrade request, asking the backend with an OPEN event.
//! - `driver` runs a session: it waits for the client, the backend, publications and the shutdown, in one task.
//! - `reader` decodes the client's messages.
//! - `pending` queues them as events until the backend has accepted them.
//! - `ws_over_http` sends events to the backend and parses its response; `request_head` is the part
//!   of the upgrade request that each of these requests repeats.
//! - `typed_link` passes events to a component that handles typed frames (SIP-016) instead, and
//!   `typed_frames` translates them. Such components send frames by `tokens`, and `token_router` finds
//!   the host of a token.
//! - `session` is the state of a session, and applies the backend's responses to it.
//! - `identity` is who the client is: its user, and the channels of which it is a member.
//! - `outbox` writes frames to the client, both from the session and from publications.
//!   `shared_stream` is the connection for TLS and HTTP/2, which are not plain TCP.
//! - `deflate` negotiates compression, and compresses messages.
//! - `scheduled` sends keep-alive and delayed messages, and `auto_responses` are answers of the host.

mod auto_responses;
pub(crate) mod deflate;
mod driver;
#[cfg(test)]
#[path = "../../fuzz/src/short_run.rs"]
mod fuzz;
pub(crate) mod handshake;
mod identity;
pub(crate) mod outbox;
mod pending;
mod reader;
mod request_head;
mod scheduled;
mod session;
mod shared_stream;
#[cfg(test)]
mod tests;
pub(crate) mod token_router;
pub(crate) mod tokens;
mod typed_frames;
mod typed_link;
pub(crate) mod ws_over_http;
