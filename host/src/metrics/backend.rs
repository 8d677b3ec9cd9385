//! A backend whose requests are counted and timed.

use std::{sync::Arc, time::Instant};

use http::{Request, Response};
use spin_runtime::backend::{Answer, AnsweredBy, Backend, BackendError, Body};

use crate::metrics::registry::Metrics;

/// See the module's words.
pub(crate) struct Metered {
    backend: Arc<dyn Backend>,
    metrics: Arc<Metrics>,
    /// Whom an answer is by that does not say.
    name: Arc<str>,
}

impl Metered {
    /// Counts what goes to `backend`, whose own answers are by `name`.
    pub(crate) fn new(backend: Arc<dyn Backend>, metrics: Arc<Metrics>, name: &str) -> Self {
        Self {
            backend,
            metrics,
            name: name.into(),
        }
    }
}

impl Backend for Metered {
    fn call(&self, request: Request<Body>) -> Answer<'_> {
        Box::pin(metered(
            self.backend.call(request),
            &self.metrics,
            &self.name,
        ))
    }

    fn instances(&self) -> Vec<(Arc<str>, usize)> {
        self.backend.instances()
    }
}

/// Counts and times an answer, which is by `name` unless it says by whom it is.
///
/// # Errors
/// Those of the answer.
pub(crate) async fn metered(
    answer: impl Future<Output = Result<Response<Body>, BackendError>>,
    metrics: &Metrics,
    name: &Arc<str>,
) -> Result<Response<Body>, BackendError> {
    let since = Instant::now();
    let answer = answer.await;
    let (by, what) = match &answer {
        Ok(response) => {
            let by = response.extensions().get::<AnsweredBy>();
            let by = by.map_or(name, |AnsweredBy(component)| component);
            (by.clone(), Ok(response.status().as_u16()))
        }
        Err(error) => (failed(error, name), Err(error)),
    };
    metrics.answered(by, what, since.elapsed());
    answer
}

fn failed(error: &BackendError, name: &Arc<str>) -> Arc<str> {
    match error {
        BackendError::Failed { component, .. } | BackendError::Deadline { component, .. } => {
            component.as_str().into()
        }
        BackendError::Unreachable { upstream, .. } | BackendError::Broken { upstream, .. } => {
            upstream.as_str().into()
        }
        BackendError::NoRoute { .. } => name.clone(),
    }
}
