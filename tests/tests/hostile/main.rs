//! Hostile clients of HTTP/1.1 and of HTTP/2 with prior knowledge: what this host and another server
//! could read differently is refused, and nothing that follows it on the connection is served.
//!
//! Each case runs against components and in front of an upstream. `tls/hostile.rs` has the floods of
//! HTTP/2, `upstream/paths.rs` and `outside.rs` have the spellings of paths.

mod bodies;
mod fixture;
mod heads;
mod http2;
mod lengths;
mod lines;
mod methods;
mod pipelining;
mod targets;
mod upgrades;
