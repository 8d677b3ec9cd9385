//! The instances of a component: how they start, how many requests they serve, and when they stop.
//!
//! Wasmtime's `ProxyHandler` passes requests to instances that they share. It asks the types of this
//! module for decisions.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    time::{Instant, Sleep, timeout},
};
use wasmtime::{Result, Store, StoreContextMut, component::GuestTaskId};
use wasmtime_wasi_http::handler::{
    HandlerState, Instance, Proxy, ShouldAccept, WorkerExpiration, WorkerState, WorkerStatus,
};

use super::{
    compile::Pre,
    component::Component,
    component_log::ComponentLog,
    compute,
    failure::FailureReason,
    guest::{FIRST_DEADLINE, Guest, Incoming},
    worker::{Canceled, Exit, GRACE_PERIOD, RequestToken, StopReason, Worker},
};

/// Creates the instances of a component.
#[derive(Clone)]
pub(crate) struct Instances {
    component: Arc<Component>,
    pre: Pre,
}

impl Instances {
    pub(crate) fn new(component: Arc<Component>, pre: Pre) -> Self {
        Self { component, pre }
    }

    pub(crate) fn component(&self) -> &Arc<Component> {
        &self.component
    }

    /// Starts an instance.
    ///
    /// # Errors
    /// Fails if the instance cannot be created, or if that takes longer than a request may.
    pub(crate) async fn start(&self) -> Result<(Store<Guest>, Proxy, Arc<Worker>)> {
        let component = &self.component;
        let worker = Arc::new(Worker::new(component.id.clone(), component.pick_limits()));
        let start = async {
            let permit = component.permits.clone().acquire_owned().await?;
            let engine = self.pre.engine();
            let incoming = if self.pre.reuses_instances() {
                Incoming::Wasi03
            } else {
                Incoming::Wasi02
            };
            let mut store =
                Guest::store(engine, component.clone(), incoming, worker.clone(), permit)?;
            let proxy = self.pre.instantiate_async(&mut store).await?;
            Ok::<_, wasmtime::Error>((store, proxy))
        };
        // Callers have their own timeout. This one applies when all of them are gone.
        let limit = component.limits.request_timeout + GRACE_PERIOD;
        match compute::run(&worker, timeout(limit, start)).await {
            Ok(Ok((store, proxy))) => Ok((store, proxy, worker)),
            Ok(Err(error)) => {
                component.log.count(FailureReason::Start);
                Err(error)
            }
            Err(_) => wasmtime::bail!("not started within {limit:?}"),
        }
    }

    /// Returns the policy of an instance.
    pub(crate) fn policy(&self, worker: Arc<Worker>) -> WorkerPolicy {
        let limits = worker.limits();
        WorkerPolicy {
            log: self.component.log.clone(),
            max_requests: limits.requests_per_instance,
            max_concurrent_requests: limits.concurrent_requests_per_instance,
            worker,
        }
    }
}

impl HandlerState for Instances {
    type StoreData = Guest;
    type WorkerExpiration = Expiration;
    type WorkerState = WorkerPolicy;

    async fn instantiate(&self) -> Result<Instance<Guest, Expiration, WorkerPolicy>> {
        let (store, proxy, worker) = self.start().await?;
        let expiration = Expiration {
            worker: worker.clone(),
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
            bodies_closed: None,
            status_since: None,
            permits: self.component.permits.clone(),
        };
        Ok(Instance {
            store,
            proxy,
            view: Guest::incoming,
            expiration,
            state: self.policy(worker),
        })
    }
}

/// Stops an instance, even one that never returns from a computation.
pub(crate) struct Expiration {
    worker: Arc<Worker>,
    sleep: Pin<Box<Sleep>>,
    /// When the last response body was closed.
    bodies_closed: Option<Instant>,
    /// When the status last changed, by Wasmtime's clock and by Tokio's.
    status_since: Option<(std::time::Instant, Instant)>,
    permits: Arc<Semaphore>,
}

impl Expiration {
    /// Converts a time of Wasmtime's clock, which a paused clock of Tokio does not follow.
    fn convert(&mut self, since: std::time::Instant) -> Instant {
        match self.status_since {
            // When a request ends, the time of an earlier one may apply again.
            Some((known, converted)) if since <= known => {
                converted.checked_sub(known - since).unwrap_or(converted)
            }
            _ => {
                let now = Instant::now();
                self.status_since = Some((since, now));
                now
            }
        }
    }
}

impl WorkerExpiration for Expiration {
    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        status: WorkerStatus,
        since: std::time::Instant,
    ) -> Poll<()> {
        let since = self.convert(since);
        let worker = self.worker.clone();
        // Wasmtime polls this when the guest waits.
        worker.end_turn();
        worker.register(cx);
        let limits = worker.limits();
        let is_idle = status == WorkerStatus::Idle;
        if !is_idle && worker.is_canceled() {
            worker.set_stop_reason(StopReason::Canceled);
            return Poll::Ready(());
        }
        let (deadline, reason) = match status {
            // At the limit, an idle instance makes room for another one.
            WorkerStatus::Idle if self.permits.available_permits() == 0 => (since, None),
            WorkerStatus::Idle => (since + limits.idle_instance_timeout, None),
            WorkerStatus::Requests => (
                // A body that is still arriving postpones the timeout.
                worker.last_upload().map_or(since, |last| last.max(since))
                    + limits.request_timeout
                    + GRACE_PERIOD,
                Some(StopReason::TimedOut),
            ),
            // A body may take as long as it is being read.
            WorkerStatus::PostReturn if worker.has_open_bodies() => {
                self.bodies_closed = None;
                return Poll::Pending;
            }
            WorkerStatus::PostReturn => {
                let bodies_closed = *self.bodies_closed.get_or_insert_with(Instant::now);
                (
                    bodies_closed.max(since) + limits.request_timeout,
                    Some(StopReason::Lingering),
                )
            }
        };
        if self.sleep.deadline() != deadline {
            self.sleep.as_mut().reset(deadline);
        }
        std::task::ready!(self.sleep.as_mut().poll(cx));
        if let Some(reason) = reason {
            worker.set_stop_reason(reason);
        }
        Poll::Ready(())
    }
}

/// Decides how many requests an instance serves, and observes their start and the exit.
pub(crate) struct WorkerPolicy {
    worker: Arc<Worker>,
    log: Arc<ComponentLog>,
    max_requests: usize,
    max_concurrent_requests: usize,
}

impl WorkerState for WorkerPolicy {
    type StoreData = Guest;
    type RequestData = RequestToken;

    fn should_accept_request(&self, concurrent: usize, total: usize) -> ShouldAccept {
        if total >= self.max_requests {
            ShouldAccept::Never
        } else if concurrent >= self.max_concurrent_requests {
            ShouldAccept::No
        } else {
            ShouldAccept::Yes
        }
    }

    fn on_request_start(
        &self,
        mut store: StoreContextMut<'_, Guest>,
        token: RequestToken,
        task: GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + Sync>> {
        let RequestToken {
            call,
            shared,
            waiting,
        } = token;
        drop(waiting);
        self.worker.accept(&shared);
        // If its caller has left, the guest stops before it computes.
        let epochs = if self.worker.is_canceled() {
            0
        } else {
            FIRST_DEADLINE
        };
        store.set_epoch_deadline(epochs);
        let guest = store.data_mut();
        guest.calls.push((task, call.clone()));
        guest.outgoing.call = call;
        Box::pin(Canceled(shared))
    }

    fn drop(&self, store: Store<Guest>, result: Result<()>) {
        self.end(store, result);
    }
}

impl WorkerPolicy {
    /// Records how an instance exited, and drops it.
    pub(crate) fn end(&self, store: Store<Guest>, result: Result<()>) {
        let exit = match result {
            Ok(()) => Exit::Completed,
            Err(error) => {
                let lacked_memory = store.data().memory.was_exceeded();
                self.record_failure(&error, lacked_memory);
                Exit::Failed(Arc::new(error))
            }
        };
        // The exit must be set before the store closes the streams of the guest, so that readers
        // can tell an incomplete body from a complete one.
        self.worker.set_exit(exit);
        drop(store);
    }

    /// Logs and counts the failure of the instance.
    fn record_failure(&self, error: &wasmtime::Error, lacked_memory: bool) {
        let component = self.worker.component();
        let stop_reason = self.worker.stop_reason();
        let reason = match stop_reason {
            // The callers count the requests that timed out.
            Some(StopReason::Canceled | StopReason::TimedOut) => None,
            Some(StopReason::Lingering) => Some(FailureReason::Lingering),
            None if is_dropped_at_exit(error) => None,
            None => Some(FailureReason::of_exit(error, lacked_memory)),
        };
        if let Some(reason) = reason {
            self.worker.set_failure(reason);
            self.log.count(reason);
        }
        match stop_reason {
            Some(StopReason::Canceled) => {
                tracing::debug!(component, "instance stopped: all requests were canceled");
            }
            _ if is_dropped_at_exit(error) => {
                tracing::debug!(component, "instance dropped at exit");
            }
            // The waiting callers log the error with their route.
            _ if self.worker.has_waiting_callers() => {}
            _ => self.log.failed_late.log(|| {
                tracing::error!(
                    %component,
                    reason = reason.map(FailureReason::name),
                    error = %format_args!("{error:#}"),
                    "component failed after its response"
                );
            }),
        }
    }
}

/// Returns whether the runtime has dropped an instance at exit. Wasmtime then reports a panic, because
/// it does not know why the instance did not complete.
fn is_dropped_at_exit(error: &wasmtime::Error) -> bool {
    !std::thread::panicking() && error.to_string() == "worker panicked"
}
