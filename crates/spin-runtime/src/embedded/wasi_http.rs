//! The `wasi:http` interfaces that send requests.
//!
//! They wrap Wasmtime's implementation, to find the call that a request belongs to.

use wasmtime::{
    AsContextMut as _, Result,
    component::{Accessor, HasData, Linker, Resource},
};
use wasmtime_wasi::TrappableError;
use wasmtime_wasi_http::{
    WasiHttp, WasiHttpCtxView, WasiHttpView as _,
    p2::bindings::http::outgoing_handler,
    p3::{self, bindings::http::client, bindings::http::types::ErrorCode},
};

use super::guest::Guest;

/// Adds the interfaces to a linker.
pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> Result<()> {
    client::add_to_linker::<_, HttpClient>(linker, Guest::http)?;
    outgoing_handler::add_to_linker::<_, WasiHttp>(linker, Guest::http)
}

/// The client of WASI 0.3.
struct HttpClient;

impl HasData for HttpClient {
    type Data<'a> = WasiHttpCtxView<'a>;
}

impl client::HostWithStore<Guest> for HttpClient {
    async fn send(
        accessor: &Accessor<Guest, Self>,
        request: Resource<p3::Request>,
    ) -> Result<Resource<p3::Response>, TrappableError<ErrorCode>> {
        accessor
            .with(|mut access| {
                let mut store = access.as_context_mut();
                // An instance serves several calls, and the task tells which one this is.
                let tasks: Vec<_> = store.async_call_stack()?.collect();
                let guest = store.data_mut();
                let call_of = |task| guest.calls.iter().rev().find(|(id, _)| *id == task);
                if let Some((_, call)) = tasks.into_iter().find_map(call_of) {
                    guest.outgoing.call = call.clone();
                }
                Ok::<_, wasmtime::Error>(())
            })
            .map_err(TrappableError::trap)?;
        // This calls `Outgoing::send_request` before it first awaits, so `call` is still the same.
        let accessor = accessor.with_getter::<WasiHttp>(Guest::http);
        <WasiHttp as client::HostWithStore<Guest>>::send(&accessor, request).await
    }
}
