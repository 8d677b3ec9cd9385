//! The host's side of the interfaces that Wasmtime does not provide, generated from `wit/`.

#![allow(missing_docs, reason = "generated")]

use super::store;

wasmtime::component::bindgen!({
    path: "wit",
    world: "socket-host:embedded/host",
    imports: { default: async | trappable },
    with: {
        "spin:key-value/key-value.store": store::OpenStore,
        "fermyon:spin/key-value.store": store::OpenStore,
        "wasi:keyvalue/store.bucket": store::OpenStore,
        "wasi:keyvalue/atomics.cas": store::CompareAndSwap,
    },
    require_store_data_send: true,
});
