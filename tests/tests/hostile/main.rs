//! Hostile clients of HTTP/1.1 and of HTTP/2 with prior knowledge: what this host and another server
//! could read differently is refused, and nothing that follows it on the connection is served.
//!
//! Each case runs against components and in front of an upstream. Other tests have what is slow
//! (`slow.rs`, `uploads.rs`), the floods of HTTP/2 (`tls/hostile.rs`), and paths that escape the root
//! (`upstream/paths.rs`).

mod bodies;
mod fixture;
mod heads;
mod http2;
mod lengths;
mod lines;
mod methods;
mod paths;
mod pipelining;
mod targets;
mod upgrades;
