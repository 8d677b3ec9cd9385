//! What an instance has beside its memory: the data of its wasmtime store.

use std::sync::Arc;

use http::{HeaderName, header};
use tokio::sync::OwnedSemaphorePermit;
use wasmtime::{
    Result, Store, StoreLimits, StoreLimitsBuilder, UpdateDeadline,
    component::{GuestTaskId, ResourceTable},
};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{
    RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

use super::{
    component::Component,
    outbound::{Exchange, Outbound},
    worker::Worker,
};
use crate::backend::Caller;

/// The requests an instance is called for at once share this.
pub struct Guest {
    /// The component that this is an instance of.
    pub component: Arc<Component>,
    /// Resources lent to the guest.
    pub table: ResourceTable,
    /// Which call each of the guest's tasks belongs to, oldest first.
    pub calls: Vec<(GuestTaskId, Call)>,
    /// Requests that the guest sends.
    pub outbound: Outbound,
    /// Whether the instance still has something to do, and how it ended.
    pub worker: Arc<Worker>,
    inbound: Inbound,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    limits: StoreLimits,
    _permit: OwnedSemaphorePermit,
}

/// What a request that a guest sends inherits from the one it is answering.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Who sent the first request.
    pub caller: Caller,
    /// How many components called one another before this one.
    pub depth: u8,
}

impl Guest {
    /// A store for an instance of `component`.
    ///
    /// # Errors
    /// When one of the component's folders is gone.
    pub fn store(
        component: Arc<Component>,
        worker: Arc<Worker>,
        permit: OwnedSemaphorePermit,
    ) -> Result<Store<Self>> {
        let mut wasi = WasiCtxBuilder::new();
        wasi.envs(&component.environment)
            .stdout(component.stdout.pipe())
            .stderr(component.stderr.pipe())
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false);
        component.mounts.open(&mut wasi)?;
        let guest = Self {
            table: ResourceTable::new(),
            calls: Vec::new(),
            outbound: Outbound::new(component.clone()),
            inbound: Inbound,
            wasi: wasi.build(),
            http: WasiHttpCtx::new(),
            limits: StoreLimitsBuilder::new()
                .memory_size(component.limits.max_memory)
                .build(),
            component,
            worker,
            _permit: permit,
        };
        let engine = guest.component.pre.engine().clone();
        let mut store = Store::new(&engine, guest);
        store.limiter(|guest| &mut guest.limits);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|mut store| {
            store.data_mut().worker.tick()?;
            // Tokio's own way to yield: it looks at sockets and timers before it comes back.
            Ok(UpdateDeadline::YieldCustom(
                1,
                Box::pin(tokio::task::yield_now()),
            ))
        });
        Ok(store)
    }

    /// The view for requests that come in: unlike what a guest may send, they show it `Host` and
    /// `Upgrade`.
    pub fn inbound(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: &mut self.table,
            hooks: &mut self.inbound,
        }
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: &mut self.table,
            hooks: &mut self.outbound,
        }
    }
}

/// Rules for the headers of requests that come in.
struct Inbound;

impl WasiHttpHooks for Inbound {
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        *name == header::CONNECTION || *name == header::TRANSFER_ENCODING
    }

    fn send_request(
        &mut self,
        _: http::Request<WasiBody>,
        _: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), wasmtime_wasi_http::Error>> + Send>,
    ) -> Exchange {
        // Only a guest sends, and it has another view.
        Box::new(async { Err(wasmtime_wasi_http::Error::HttpRequestDenied) })
    }
}
