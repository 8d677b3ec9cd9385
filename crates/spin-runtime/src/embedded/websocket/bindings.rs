//! The interfaces in `wit/` at the root of the repository, generated.

#![allow(missing_docs, reason = "generated")]

wasmtime::component::bindgen!({
    path: "../../wit",
    world: "socket-host:websocket/websocket-handler",
    imports: { default: async | trappable },
    exports: { default: async },
    with: {
        "wasi:http": wasmtime_wasi_http::p2::bindings::http,
        "wasi:io": wasmtime_wasi::p2::bindings::io,
        "wasi:clocks": wasmtime_wasi::p2::bindings::clocks,
        "fermyon:spin/websocket-types.future-send-frame": super::SendingFrame,
    },
    require_store_data_send: true,
});
