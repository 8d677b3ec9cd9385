//! socket-host serves the components of a `spin.toml` over HTTP and holds their WebSockets.

pub mod backend;
pub mod build;
pub mod manifest;
pub mod outbound;
pub mod router;
pub mod variables;
