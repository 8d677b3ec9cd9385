//! The host's side of the interfaces that Wasmtime does not provide, generated from `wit/`.

#![allow(missing_docs, reason = "generated")]

use super::{key_value, sqlite};

wasmtime::component::bindgen!({
    path: "wit",
    world: "socket-host:embedded/host",
    imports: { default: async | trappable },
    with: {
        "spin:key-value/key-value.store": key_value::OpenStore,
        "fermyon:spin/key-value.store": key_value::OpenStore,
        "spin:sqlite/sqlite.connection": sqlite::OpenConnection,
        "fermyon:spin/sqlite.connection": sqlite::OpenConnection,
        "wasi:keyvalue/store.bucket": key_value::OpenStore,
        "wasi:keyvalue/atomics.cas": key_value::CompareAndSwap,
    },
    require_store_data_send: true,
});
