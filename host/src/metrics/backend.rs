//! Counts and times the requests to a backend.

use std::{sync::Arc, time::Instant};

use http::{Request, Response, StatusCode};
use spin_runtime::{
    backend::{Backend, BackendError, Body, CronFuture, Failures, ResponseFuture, ServedBy},
    websocket::{FramesCall, Opening, Pending},
};

use crate::metrics::registry::Metrics;

/// A backend whose requests are counted and timed.
pub(crate) struct Metered {
    backend: Arc<dyn Backend>,
    metrics: Arc<Metrics>,
    /// The name for responses that no component made.
    name: Arc<str>,
}

impl Metered {
    /// Wraps a backend.
    pub(crate) fn new(backend: Arc<dyn Backend>, metrics: Arc<Metrics>, name: &str) -> Self {
        Self {
            backend,
            metrics,
            name: name.into(),
        }
    }
}

impl Backend for Metered {
    fn call(&self, request: Request<Body>) -> ResponseFuture<'_> {
        let response = self.backend.call(request);
        Box::pin(metered(response, &self.metrics, &self.name))
    }

    /// The timer counts the calls.
    fn call_cron<'a>(&'a self, component: &'a str, timestamp: u64) -> CronFuture<'a> {
        self.backend.call_cron(component, timestamp)
    }

    fn starting<'a>(&self, path: &'a str) -> Option<Pending<'a, Result<(), BackendError>>> {
        self.backend.starting(path)
    }

    fn websocket_component(&self, path: &str) -> Option<Arc<str>> {
        self.backend.websocket_component(path)
    }

    fn open_websocket<'a>(
        &'a self,
        token: Arc<str>,
        request: Request<Body>,
    ) -> Pending<'a, Result<Opening, BackendError>> {
        let opening = self.backend.open_websocket(token, request);
        Box::pin(async move {
            let start = Instant::now();
            let opening = opening.await;
            let (component, status) = match &opening {
                Ok(opening) => (
                    opening.component.clone(),
                    Ok(opening.response.status().as_u16()),
                ),
                Err(error) => (failed_by(error, &self.name), Err(error)),
            };
            self.metrics.response(component, status, start.elapsed());
            opening
        })
    }

    /// A call counts as a request, with status 200 if it succeeds.
    fn receive_frames(&self, call: FramesCall) -> Pending<'_, Result<(), BackendError>> {
        let component = call.component.clone();
        let received = self.backend.receive_frames(call);
        Box::pin(async move {
            let start = Instant::now();
            let received = received.await;
            let status = received.as_ref().map(|()| StatusCode::OK.as_u16());
            self.metrics.response(component, status, start.elapsed());
            received
        })
    }

    fn instances(&self) -> Vec<(Arc<str>, usize)> {
        self.backend.instances()
    }

    fn failures(&self) -> Vec<Failures> {
        self.backend.failures()
    }
}

/// Counts and times a response. It is attributed to `name` unless a component made it.
///
/// # Errors
/// Returns the error of the response.
pub(crate) async fn metered(
    response: impl Future<Output = Result<Response<Body>, BackendError>>,
    metrics: &Metrics,
    name: &Arc<str>,
) -> Result<Response<Body>, BackendError> {
    let start = Instant::now();
    let response = response.await;
    let (served_by, status) = match &response {
        Ok(response) => {
            let served_by = response.extensions().get::<ServedBy>();
            let served_by = served_by.map_or(name, |ServedBy(component)| component);
            (served_by.clone(), Ok(response.status().as_u16()))
        }
        Err(error) => (failed_by(error, name), Err(error)),
    };
    metrics.response(served_by, status, start.elapsed());
    response
}

/// Returns the component or upstream that failed.
fn failed_by(error: &BackendError, name: &Arc<str>) -> Arc<str> {
    match error {
        BackendError::Failed { component, .. } | BackendError::Deadline { component, .. } => {
            component.as_str().into()
        }
        BackendError::Unreachable { upstream, .. } | BackendError::Broken { upstream, .. } => {
            upstream.as_str().into()
        }
        BackendError::Busy { component, .. } => component.as_str().into(),
        BackendError::NoRoute { .. } | BackendError::RequestBody(_) => name.clone(),
    }
}
