//! Instances that serve one request at a time.
//!
//! Such an instance runs in the task of its caller: until the guest has responded, and then whenever the
//! body of the response is read. Most guests have returned by the time the body has ended. Others, and
//! those whose body is dropped early, continue in a task of their own.
//!
//! All requests to components for WASI 0.2 have such an instance, which serves a single one. For WASI
//! 0.3, they are for components whose requests must not share instances, and serve several, the one that
//! was used last first. All other requests share instances, which is faster if many come at once.

use std::{
    collections::VecDeque,
    future::{pending, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_channel::oneshot;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::{runtime::Handle, time::timeout};
use wasmtime::{AsContextMut as _, Result, Store, format_err};
use wasmtime_wasi_http::{
    Error, WasiBody,
    handler::{Prepared, Proxy, TrapOrPanicError},
    p2::bindings::{self, http::types::Scheme},
};

use super::{
    body,
    call::Call,
    compute,
    guest::{FIRST_DEADLINE, Guest},
    idle_instances::IdleInstances,
    instance::until_response,
    instances::{Instances, WorkerPolicy},
    worker::{RequestToken, StopReason, Worker},
};
use crate::{
    backend::{Body, full},
    websocket::Pending,
};

/// The parts of a body that are read before its response is returned.
const MAX_FETCHED_FRAMES: usize = 4;

/// The instances of a component that serve one request at a time.
pub(crate) struct ExclusiveInstances {
    instances: Instances,
    idle: Arc<IdleInstances<Exclusive>>,
}

/// An instance that serves one request at a time. Dropping it during a request cancels the request.
struct Exclusive {
    policy: WorkerPolicy,
    worker: Arc<Worker>,
    store: Option<Store<Guest>>,
    proxy: Proxy,
    calls: usize,
    is_running: bool,
}

type Responder = oneshot::Sender<Result<Response<WasiBody>>>;

impl ExclusiveInstances {
    pub(crate) fn new(instances: Instances) -> Self {
        Self {
            idle: Arc::new(IdleInstances::new(instances.component().clone())),
            instances,
        }
    }

    /// Passes a request to an instance and returns its response.
    ///
    /// # Errors
    /// Returns the error of the guest, a [`StartError`], or a [`TrapOrPanicError`] if the instance has
    /// failed, whose exit then has the cause.
    pub(crate) async fn handle(
        &self,
        token: RequestToken,
        request: Request<WasiBody>,
    ) -> Result<Response<Body>> {
        let instance = match self.idle.take() {
            Some(instance) => instance,
            None => self.start().await.map_err(StartError)?,
        };
        let is_nested = token.call.depth > 0;
        let worker = instance.worker.clone();
        let (sender, receiver) = oneshot::channel();
        let (body_ends, body_ended) = oneshot::channel();
        let mut running: Pending<'static, ()> =
            Box::pin(instance.run(token, request, sender, body_ended, self.idle.clone()));
        let (response, returned) = until_response(&mut running, receiver).await;
        let response = match response {
            Some(response) => response?,
            None if worker.has_failed() => return Err(TrapOrPanicError.into()),
            None => return Err(format_err!("guest has set no response")),
        };
        let (head, body) = response.into_parts();
        let mut body = RunningBody {
            body,
            first: VecDeque::new(),
            has_ended: false,
            running: returned.is_none().then_some(running),
            ends: Some(body_ends),
            worker: worker.clone(),
        };
        poll_fn(|cx| {
            body.fetch(cx);
            Poll::Ready(())
        })
        .await;
        let body = match body.take_whole() {
            Some(bytes) => full(bytes),
            None => {
                if is_nested {
                    // Wasmtime does not run a guest while it polls another one, which reads this.
                    body.detach();
                }
                body::response(body.boxed_unsync(), worker)
            }
        };
        Ok(Response::from_parts(head, body))
    }

    async fn start(&self) -> Result<Exclusive> {
        let (store, proxy, worker) = self.instances.start().await?;
        Ok(Exclusive {
            policy: self.instances.policy(worker.clone()),
            worker,
            store: Some(store),
            proxy,
            calls: 0,
            is_running: false,
        })
    }
}

/// An instance could not be started.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
pub(crate) struct StartError(wasmtime::Error);

impl Exclusive {
    /// Serves a request until the guest has no more work and the body of its response has ended. Then
    /// waits for the next one, if it can.
    async fn run(
        mut self,
        token: RequestToken,
        request: Request<WasiBody>,
        sender: Responder,
        body_ended: oneshot::Receiver<()>,
        idle: Arc<IdleInstances<Self>>,
    ) {
        let RequestToken {
            call,
            shared,
            waiting,
        } = token;
        drop(waiting);
        self.worker.accept(&shared);
        self.is_running = true;
        self.calls += 1;
        let Some(store) = &mut self.store else {
            return;
        };
        store.set_epoch_deadline(FIRST_DEADLINE);
        let guest = store.data_mut();
        guest.calls.clear();
        guest.outgoing.call = call.clone();
        let called = match &self.proxy {
            Proxy::P2(proxy) => {
                let called = call_wasi02(store, proxy, request, sender);
                compute::run(&self.worker, called).await
            }
            proxy @ Proxy::P3(_) => {
                let called = call_wasi03(store, proxy, call, request, sender, body_ended);
                compute::run(&self.worker, called).await
            }
        };
        self.is_running = false;
        match called {
            Ok(()) if matches!(self.proxy, Proxy::P3(_)) => {
                let (calls, limits) = (self.calls, *self.worker.limits());
                idle.put(self, calls, &limits);
            }
            called => self.end(called),
        }
    }

    fn end(&mut self, result: Result<()>) {
        if let Some(store) = self.store.take() {
            self.policy.end(store, result);
        }
    }
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        if !self.is_running {
            self.end(Ok(()));
        } else if self.store.is_some() {
            self.worker.set_stop_reason(StopReason::Canceled);
            self.end(Err(format_err!("guest stopped")));
        }
    }
}

async fn call_wasi02(
    store: &mut Store<Guest>,
    guest: &bindings::Proxy,
    request: Request<WasiBody>,
    sender: Responder,
) -> Result<()> {
    let mut view = store.data_mut().incoming();
    let request = view.new_incoming_request(Scheme::Http, request)?;
    let response = view.new_response_outparam_from_callback(move |response| {
        // The caller may have left.
        let _ = sender.send(response.map_err(Into::into));
    })?;
    let handler = guest.wasi_http_incoming_handler();
    handler.call_handle(store, request, response).await
}

async fn call_wasi03(
    store: &mut Store<Guest>,
    guest: &Proxy,
    call: Call,
    request: Request<WasiBody>,
    sender: Responder,
    body_ended: oneshot::Receiver<()>,
) -> Result<()> {
    let called = store.run_concurrent(async |accessor| {
        let prepared = accessor.with(|mut access| {
            let mut store = access.as_context_mut();
            let prepared = Prepared::new(
                store.as_context_mut(),
                guest,
                request,
                Guest::incoming,
                sender,
            )?;
            if let Prepared::P3 { call: task, .. } = &prepared {
                store.data_mut().calls.push((task.task(), call));
            }
            Ok::<_, wasmtime::Error>(prepared)
        })?;
        prepared.run(accessor, pending()).await?;
        poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
        // The body passes through the store until it has ended.
        let _ = body_ended.await;
        Ok(())
    });
    called.await?
}

/// The body of a response, whose first parts may have been read already. Reading it runs the guest,
/// unless that has returned.
struct RunningBody {
    body: WasiBody,
    first: VecDeque<Result<Frame<Bytes>, Error>>,
    has_ended: bool,
    running: Option<Pending<'static, ()>>,
    /// Dropped when the body has ended, for which the guest's call waits.
    ends: Option<oneshot::Sender<()>>,
    worker: Arc<Worker>,
}

impl RunningBody {
    fn run(&mut self, cx: &mut Context<'_>) {
        if let Some(running) = &mut self.running
            && running.as_mut().poll(cx).is_ready()
        {
            self.running = None;
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(None) = frame {
            self.has_ended = true;
            self.ends = None;
        }
        if frame.is_ready() {
            // The guest can write the next part, or return.
            self.run(cx);
        }
        frame
    }

    /// Reads what the guest has written.
    fn fetch(&mut self, cx: &mut Context<'_>) {
        while self.first.len() < MAX_FETCHED_FRAMES
            && let Poll::Ready(Some(frame)) = self.poll_body(cx)
        {
            self.first.push_back(frame);
        }
    }

    /// Lets the guest continue in a task of its own.
    fn detach(&mut self) {
        // There is no runtime at the exit of the host.
        if let (Some(running), Ok(runtime)) = (self.running.take(), Handle::try_current()) {
            runtime.spawn(finish(running, self.worker.clone()));
        }
    }

    /// Returns the whole body, if it has been read and is in one piece.
    fn take_whole(&mut self) -> Option<Bytes> {
        if !self.has_ended || self.worker.has_failed() || self.first.len() > 1 {
            return None;
        }
        match self.first.front() {
            Some(Ok(frame)) => frame.data_ref().cloned(),
            Some(Err(_)) => None,
            None => Some(Bytes::new()),
        }
    }
}

impl HttpBody for RunningBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Some(frame) = self.first.pop_front() {
            return Poll::Ready(Some(frame));
        }
        if self.has_ended {
            return Poll::Ready(None);
        }
        self.run(cx);
        self.poll_body(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_empty() && (self.has_ended || self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let frames = self.first.iter().flatten();
        let first = frames
            .filter_map(Frame::data_ref)
            .map(|data| data.len() as u64);
        let first: u64 = first.sum();
        let rest = self.body.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(first));
        }
        hint.set_lower(rest.lower().saturating_add(first));
        hint
    }
}

impl Drop for RunningBody {
    fn drop(&mut self) {
        self.detach();
    }
}

/// Runs a guest until it returns. Once nothing reads its body, it has as long as a request may take.
async fn finish(mut running: Pending<'static, ()>, worker: Arc<Worker>) {
    let limit = worker.limits().request_timeout;
    while timeout(limit, running.as_mut()).await.is_err() {
        if !worker.has_open_bodies() {
            worker.set_stop_reason(StopReason::Lingering);
            return;
        }
    }
}
