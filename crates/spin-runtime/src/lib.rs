//! Spin applications behind one call: a request in, a response out.
//!
//! [`manifest`] reads a `spin.toml`, [`router`] finds the component of a path, [`embedded`] runs
//! components in this process. [`backend`] is the line: what is above it holds connections and
//! knows no component, what is here runs components and knows no WebSocket.

pub mod backend;
pub mod embedded;
pub mod excluded;
pub mod manifest;
pub mod outbound;
pub mod router;
pub mod variables;
