//! Offers interfaces of Spin on platforms that lack them.
//!
//! A Spin component is composed with the adapter, and then imports only interfaces of WASI that
//! other platforms have:
//!
//! - `spin:variables` reads `wasi:config`;
//! - `wasi:keyvalue@0.2.0-draft2`, the version of Spin, uses `wasi:keyvalue@0.2.0-draft`, the version
//!   of Wasmtime.

#[cfg(target_family = "wasm")]
mod key_value;
#[cfg(target_family = "wasm")]
mod variables;

#[cfg(target_family = "wasm")]
mod bindings {
    #![allow(missing_docs)]
    wit_bindgen::generate!({ path: "wit", generate_all });

    use super::Adapter;

    export!(Adapter);
}

/// Implements the exported interfaces.
#[cfg(target_family = "wasm")]
struct Adapter;
