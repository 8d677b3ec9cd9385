//! An instance whose functions the host calls one at a time, for anything but HTTP requests.

use std::{future::poll_fn, pin::Pin, sync::Arc, task::Poll, time::Duration};

use anyhow::anyhow;
use tokio::time::timeout;
use wasmtime::Store;

use super::{
    call::Call,
    component::Component,
    compute,
    failure::FailureReason,
    guest::{FIRST_DEADLINE, Guest, Incoming},
    worker::{Exit, Worker},
};
use crate::{
    backend::{BackendError, Busy},
    limits::Limits,
    websocket::Pending,
};

/// An instance with its exports. An instance that has failed must be dropped.
pub(crate) struct Instance<E> {
    store: Store<Guest>,
    exports: E,
    worker: Arc<Worker>,
    calls: usize,
}

/// Why a call returned nothing.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The component had too many instances for too long.
    NoInstance,
    /// The instance failed to start.
    Start(wasmtime::Error),
    /// The guest trapped, for this reason.
    Trapped(FailureReason, wasmtime::Error),
    /// The guest took longer than this.
    TimedOut(Duration),
    /// The guest returned something else than a result, which this describes.
    NoResult(String),
}

impl CallError {
    /// Counts the failure, and returns it as the error of a backend.
    pub(crate) fn record(self, component: &Component) -> BackendError {
        let (reason, source) = match self {
            Self::NoInstance => return component.busy(Busy::Requests),
            Self::TimedOut(limit) => {
                component.log.count(FailureReason::Timeout);
                return BackendError::Deadline {
                    component: component.id.to_string(),
                    limit,
                };
            }
            Self::Start(error) => (
                FailureReason::Start,
                anyhow!("instance failed to start: {error:#}"),
            ),
            Self::Trapped(reason, error) => (reason, error.into()),
            Self::NoResult(text) => (FailureReason::NoResponse, anyhow!(text)),
        };
        component.log.count(reason);
        BackendError::Failed {
            component: component.id.to_string(),
            source,
        }
    }
}

impl<E> Instance<E> {
    /// Starts an instance. If the component has too many of them, waits for as long as a request may
    /// take.
    ///
    /// # Errors
    /// Fails if no place for an instance gets free, if the instance cannot be created, or if that takes
    /// longer than a request may.
    pub(crate) async fn start(
        component: &Arc<Component>,
        engine: &wasmtime::Engine,
        incoming: Incoming,
        instantiate: impl AsyncFnOnce(&mut Store<Guest>) -> wasmtime::Result<E>,
    ) -> Result<Self, CallError> {
        let limits = component.pick_limits();
        let worker = Arc::new(Worker::new(component.id.clone(), limits));
        let limit = limits.request_timeout;
        let permit = timeout(limit, component.permits.clone().acquire_owned()).await;
        let permit = permit
            .map_err(|_| CallError::NoInstance)?
            .map_err(|error| CallError::Start(error.into()))?;
        let start = async {
            let mut store =
                Guest::store(engine, component.clone(), incoming, worker.clone(), permit)?;
            let exports = instantiate(&mut store).await?;
            Ok((store, exports))
        };
        let started = timeout(limit, compute::run(&worker, start)).await;
        let (store, exports) = started
            .map_err(|_| CallError::TimedOut(limit))?
            .map_err(CallError::Start)?;
        Ok(Self {
            store,
            exports,
            worker,
            calls: 0,
        })
    }

    /// Calls the guest. Its requests to other components belong to `context`.
    ///
    /// # Errors
    /// Fails if the guest traps, or takes longer than a request may.
    pub(crate) async fn call<T>(
        &mut self,
        context: Call,
        call: impl AsyncFnOnce(&mut Store<Guest>, &E) -> wasmtime::Result<T>,
    ) -> Result<T, CallError> {
        self.calls += 1;
        self.worker.progress();
        self.store.data_mut().outgoing.call = context;
        self.store.set_epoch_deadline(FIRST_DEADLINE);
        let limit = self.limits().request_timeout;
        let call = call(&mut self.store, &self.exports);
        match timeout(limit, compute::run(&self.worker, call)).await {
            Ok(Ok(returned)) => Ok(returned),
            Ok(Err(error)) => {
                let lacked_memory = self.store.data().memory.was_exceeded();
                let reason = FailureReason::of_exit(&error, lacked_memory);
                Err(CallError::Trapped(reason, error))
            }
            Err(_) => Err(CallError::TimedOut(limit)),
        }
    }

    /// Returns the limits of this instance.
    pub(crate) fn limits(&self) -> &Limits {
        self.worker.limits()
    }

    /// Returns the number of calls so far.
    pub(crate) fn calls(&self) -> usize {
        self.calls
    }
}

/// Runs a guest until it has responded. Returns the response, if there is one, and what the guest has
/// returned, if it has.
pub(crate) async fn until_response<T, R, E>(
    running: &mut Pending<'static, T>,
    mut response: impl Future<Output = Result<R, E>> + Unpin,
) -> (Option<R>, Option<T>) {
    poll_fn(|cx| {
        let returned = match running.as_mut().poll(cx) {
            Poll::Ready(returned) => Some(returned),
            Poll::Pending => None,
        };
        match Pin::new(&mut response).poll(cx) {
            Poll::Ready(Ok(response)) => Poll::Ready((Some(response), returned)),
            _ if returned.is_some() => Poll::Ready((None, returned)),
            _ => Poll::Pending,
        }
    })
    .await
}

impl<E> Drop for Instance<E> {
    fn drop(&mut self) {
        // Ends its turn to compute.
        self.worker.set_exit(Exit::Completed);
    }
}
