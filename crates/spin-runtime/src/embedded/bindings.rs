//! Host sides of the interfaces that WASI's own crates do not bring, generated from `runtime/wit`.

#![allow(missing_docs, reason = "generated")]

use super::key_value;

wasmtime::component::bindgen!({
    path: "wit",
    world: "socket-host:embedded/host",
    imports: { default: async | trappable },
    with: {
        "spin:key-value/key-value.store": key_value::Bucket,
        "fermyon:spin/key-value.store": key_value::Bucket,
        "wasi:keyvalue/store.bucket": key_value::Bucket,
        "wasi:keyvalue/atomics.cas": key_value::Cas,
    },
    require_store_data_send: true,
});
