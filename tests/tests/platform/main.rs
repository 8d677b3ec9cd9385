//! Socket Burger's components on another platform for WASI HTTP: the server of Wasmtime, with
//! Wasmtime's own key-value store and configuration. A proxy in front holds the connections.

mod adapter;
mod burger;
mod compose;
mod engine;
mod proxies;
mod server;
mod wasi;
