//! The data of an instance: the contents of its Wasmtime store.

use std::sync::Arc;

use http::{HeaderName, header};
use tokio::sync::OwnedSemaphorePermit;
use wasmtime::{
    Engine, Result, Store, UpdateDeadline,
    component::{GuestTaskId, ResourceTable},
};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView,
    WasiHttpHooks, WasiHttpView,
};

use super::{
    call::Call,
    component::Component,
    memory_limit::MemoryLimit,
    outgoing::{Outgoing, PendingResponse},
    sockets,
    worker::{StopReason, Worker},
};

/// The epochs after which a call is interrupted for the first time. The first epoch has begun before
/// the call, so with 1 a short call could be interrupted.
pub(crate) const FIRST_DEADLINE: u64 = 2;

/// The data of an instance, shared by its concurrent requests.
pub(crate) struct Guest {
    pub(crate) component: Arc<Component>,
    /// The resources that the guest has handles to.
    pub(crate) table: ResourceTable,
    /// The call of each task of the guest, oldest first.
    pub(crate) calls: Vec<(GuestTaskId, Call)>,
    /// Sends the guest's own requests.
    pub(crate) outgoing: Outgoing,
    pub(crate) worker: Arc<Worker>,
    incoming: Incoming,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    /// Its memory, and whether it asked for more than it may have.
    pub(crate) memory: MemoryLimit,
    _permit: OwnedSemaphorePermit,
}

impl Guest {
    /// Creates a store for an instance of `component`.
    pub(crate) fn store(
        engine: &Engine,
        component: Arc<Component>,
        incoming: Incoming,
        worker: Arc<Worker>,
        permit: OwnedSemaphorePermit,
    ) -> Result<Store<Self>> {
        let mut wasi = WasiCtxBuilder::new();
        wasi.envs(&component.environment)
            .stdout(component.stdout.pipe())
            .stderr(component.stderr.pipe())
            .allow_ip_name_lookup(false);
        match &component.world {
            Some(world) => world.configure(&mut wasi, &component.id),
            None => sockets::allow(&mut wasi, component.clone()),
        }
        component.mounts.open(&mut wasi)?;
        let mut table = ResourceTable::new();
        table.set_max_capacity(component.limits.handles_per_instance);
        let guest = Self {
            table,
            calls: Vec::new(),
            outgoing: Outgoing::new(component.clone()),
            incoming,
            wasi: wasi.build(),
            http: WasiHttpCtx::new(),
            memory: MemoryLimit::new(component.limits.instance_memory_bytes),
            component,
            worker,
            _permit: permit,
        };
        let mut store = Store::new(engine, guest);
        store.limiter(|guest| &mut guest.memory);
        store.set_epoch_deadline(FIRST_DEADLINE);
        store.epoch_deadline_callback(|mut store| {
            let guest = store.data_mut();
            if guest.worker.is_canceled() {
                guest.worker.set_stop_reason(StopReason::Canceled);
                wasmtime::bail!("all requests were canceled");
            }
            if guest.component.world.is_some() {
                // The order in which guests run must not depend on their speed, so only those that
                // run forever are stopped.
                guest.worker.tick()?;
                return Ok(UpdateDeadline::Continue(1));
            }
            // It may have waited for all of the epoch.
            if guest.worker.has_waited() {
                return Ok(UpdateDeadline::Continue(1));
            }
            let epochs = guest.worker.tick()?;
            let last = guest.worker.take_turn();
            let (component, worker) = (guest.component.clone(), guest.worker.clone());
            let turn = async move {
                let turn = component.compute_queue.next_turn(last, epochs).await;
                worker.begin_turn(turn);
            };
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(turn)))
        });
        Ok(store)
    }

    /// Returns the view for incoming requests.
    pub(crate) fn incoming(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: &mut self.table,
            hooks: &mut self.incoming,
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
            hooks: &mut self.outgoing,
        }
    }
}

/// The rules for incoming requests: which headers a component does not see. They are those of
/// Spin.
#[derive(Clone, Copy)]
pub(crate) enum Incoming {
    /// A component for WASI 0.2 sees neither `Host` nor `Upgrade`.
    Wasi02,
    Wasi03,
}

impl WasiHttpHooks for Incoming {
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        match self {
            Self::Wasi02 => DEFAULT_FORBIDDEN_HEADERS.contains(name),
            Self::Wasi03 => [header::CONNECTION, header::TRANSFER_ENCODING].contains(name),
        }
    }

    fn send_request(
        &mut self,
        _: http::Request<WasiBody>,
        _: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), wasmtime_wasi_http::Error>> + Send>,
    ) -> PendingResponse {
        // Never called: guests send requests through the other view.
        Box::new(async { Err(wasmtime_wasi_http::Error::HttpRequestDenied) })
    }
}
