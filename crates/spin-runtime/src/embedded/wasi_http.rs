//! The `wasi:http` interfaces that send requests.
//!
//! They wrap Wasmtime's implementation, to find the call that a request belongs to and to allow
//! requests without a host.

use http::uri::Authority;
use wasmtime::{
    AsContextMut as _, Result, StoreContextMut,
    component::{Accessor, HasData, Linker, Resource},
};
use wasmtime_wasi::TrappableError;
use wasmtime_wasi_http::{
    RequestOptions, WasiHttp, WasiHttpCtxView, WasiHttpView as _,
    p2::{
        bindings::http::{outgoing_handler, types},
        types::{HostFutureIncomingResponse, HostOutgoingRequest},
    },
    p3::{self, bindings::http::client, bindings::http::types::ErrorCode},
};

use super::guest::Guest;

/// The host of a request without one: the application itself.
const SELF: &str = "self";

/// The interface of WASI 0.2, in the version whose types Wasmtime links.
const P2_OUTGOING_HANDLER: &str = "wasi:http/outgoing-handler@0.2.12";

/// Adds the interfaces to a linker.
pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> Result<()> {
    client::add_to_linker::<_, HttpClient>(linker, Guest::http)?;
    linker
        .instance(P2_OUTGOING_HANDLER)?
        .func_wrap("handle", handle_p2)
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
                    guest.outgoing.call = *call;
                }
                let request = guest.table.get_mut(&request)?;
                request
                    .authority
                    .get_or_insert(Authority::from_static(SELF));
                Ok::<_, wasmtime::Error>(())
            })
            .map_err(TrappableError::trap)?;
        // This calls `Outgoing::send_request` before it first awaits, so `call` is still the same.
        let accessor = accessor.with_getter::<WasiHttp>(Guest::http);
        <WasiHttp as client::HostWithStore<Guest>>::send(&accessor, request).await
    }
}

/// `wasi:http/outgoing-handler.handle` of WASI 0.2.
fn handle_p2(
    mut store: StoreContextMut<'_, Guest>,
    (request, options): (
        Resource<HostOutgoingRequest>,
        Option<Resource<RequestOptions>>,
    ),
) -> Result<(Result<Resource<HostFutureIncomingResponse>, types::ErrorCode>,)> {
    let mut view = store.data_mut().http();
    let outgoing = view.table.get_mut(&request)?;
    if outgoing.authority.as_deref().unwrap_or_default().is_empty() {
        outgoing.authority = Some(SELF.to_owned());
    }
    match outgoing_handler::Host::handle(&mut view, request, options) {
        Ok(response) => Ok((Ok(response),)),
        Err(error) => Ok((Err(error.downcast()?),)),
    }
}
