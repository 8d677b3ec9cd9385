//! Records the calls of a backend as spans.

use std::sync::Arc;

use http::{Request, Response};
use spin_runtime::{
    backend::{Backend, BackendError, Body, CronFuture, Failures, ResponseFuture, ServedBy},
    websocket::{FramesCall, Opening, Pending},
};

use crate::{
    metrics::registry::failure,
    telemetry::{
        access_log::{MAX_METHOD_BYTES, printable},
        trace_context::{SpanContext, TRACESTATE},
        tracer::{SpanKind, Tracer},
    },
};

/// A backend whose calls are recorded.
pub(crate) struct Traced {
    backend: Arc<dyn Backend>,
    tracer: Tracer,
}

impl Traced {
    /// Wraps a backend.
    pub(crate) fn new(backend: Arc<dyn Backend>, tracer: Tracer) -> Self {
        Self { backend, tracer }
    }
}

impl Backend for Traced {
    fn call(&self, request: Request<Body>) -> ResponseFuture<'_> {
        Box::pin(traced(&self.tracer, request, |request| {
            self.backend.call(request)
        }))
    }

    /// The timer records the calls.
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
        mut request: Request<Body>,
    ) -> Pending<'a, Result<Opening, BackendError>> {
        let parent: Option<SpanContext> = request.extensions().get().copied();
        let span = self
            .tracer
            .start(SpanKind::Client, "WebSocket handshake", parent);
        if let Some(span) = &span {
            span.context().set(request.headers_mut());
        }
        let opening = self.backend.open_websocket(token, request);
        Box::pin(async move {
            let opening = opening.await;
            drop(span);
            opening
        })
    }

    /// The session records the calls.
    fn receive_frames(&self, call: FramesCall) -> Pending<'_, Result<(), BackendError>> {
        self.backend.receive_frames(call)
    }

    fn instances(&self) -> Vec<(Arc<str>, usize)> {
        self.backend.instances()
    }

    fn failures(&self) -> Vec<Failures> {
        self.backend.failures()
    }
}

/// Calls a backend, and records the call until the head of the response.
///
/// The span belongs to the trace of the [`SpanContext`] in the request's extensions, or else to a new
/// one. The backend gets its ids as `traceparent`.
///
/// # Errors
/// Returns the error of the call.
pub(crate) async fn traced<F>(
    tracer: &Tracer,
    mut request: Request<Body>,
    call: impl FnOnce(Request<Body>) -> F,
) -> Result<Response<Body>, BackendError>
where
    F: Future<Output = Result<Response<Body>, BackendError>>,
{
    let parent: Option<SpanContext> = request.extensions().get().copied();
    let Some(mut span) = tracer.start(SpanKind::Client, "call", parent) else {
        return call(request).await;
    };
    if parent.is_none() {
        request.headers_mut().remove(TRACESTATE);
    }
    span.context().set(request.headers_mut());
    let method = request.method().as_str().as_bytes();
    let method = printable(method, MAX_METHOD_BYTES);
    span.record(|record| {
        record.name = method.clone().into_owned().into();
        record.text("http.request.method", method);
        record.text("url.path", request.uri().path());
        // Until there is a result.
        record.error = Some("the call was canceled");
    });
    let result = call(request).await;
    span.record(|record| {
        record.error = None;
        let error_type = match &result {
            Ok(response) => {
                if let Some(ServedBy(component)) = response.extensions().get() {
                    record.name = format!("{} {component}", record.name).into();
                    record.text("component", &**component);
                }
                let status = response.status();
                record.number("http.response.status_code", status.as_u16());
                let is_error = status.is_client_error() || status.is_server_error();
                is_error.then(|| status.as_str().to_owned())
            }
            Err(error) => Some(failure(error).to_owned()),
        };
        if let Some(error_type) = error_type {
            record.text("error.type", error_type);
            record.error = Some("the call failed");
        }
    });
    result
}

#[cfg(test)]
mod tests {
    use spin_runtime::backend::empty;

    use super::*;
    use crate::telemetry::{trace_context::TRACEPARENT, tracer::tests::tracer};

    fn request(parent: Option<SpanContext>) -> Request<Body> {
        let request = Request::post("/a").header("tracestate", "a=1");
        let mut request = request.body(empty()).unwrap();
        if let Some(parent) = parent {
            request.extensions_mut().insert(parent);
        }
        request
    }

    const PARENT: SpanContext = SpanContext {
        trace_id: 1,
        span_id: 2,
        is_sampled: true,
    };

    #[tokio::test]
    async fn the_backend_gets_the_span_of_the_call() {
        let (tracer, mut queue, _) = tracer(10);
        let mut sent = None;
        let response = traced(&tracer, request(Some(PARENT)), |request| {
            sent = SpanContext::of(request.headers());
            assert_eq!(request.headers()[TRACESTATE], "a=1");
            let mut response = Response::new(empty());
            response.extensions_mut().insert(ServedBy("orders".into()));
            async { Ok(response) }
        });
        response.await.unwrap();
        let record = queue.try_recv().unwrap();
        assert_eq!(Some(record.context), sent);
        assert_eq!((record.context.trace_id, record.parent_id), (1, 2));
        assert_eq!((&*record.name, record.error), ("POST orders", None));
    }

    #[tokio::test]
    async fn a_call_without_a_parent_starts_a_trace() {
        let (tracer, mut queue, _) = tracer(10);
        let error = traced(&tracer, request(None), |request| {
            assert!(!request.headers().contains_key(TRACESTATE));
            let path = request.uri().path().to_owned();
            async { Err(BackendError::NoRoute { path }) }
        });
        error.await.unwrap_err();
        let record = queue.try_recv().unwrap();
        assert_eq!(record.parent_id, 0);
        assert!(record.error.is_some());
    }

    #[tokio::test]
    async fn a_call_that_is_canceled_is_an_error() {
        let (tracer, mut queue, _) = tracer(10);
        let mut call = Box::pin(traced(&tracer, request(Some(PARENT)), |_| {
            std::future::pending()
        }));
        assert!(futures_util::poll!(&mut call).is_pending());
        drop(call);
        assert!(queue.try_recv().unwrap().error.is_some());
    }

    #[tokio::test]
    async fn a_disabled_tracer_changes_nothing() {
        let tracer = Tracer::default();
        let response = traced(&tracer, request(None), |request| {
            assert!(!request.headers().contains_key(TRACEPARENT));
            assert!(request.headers().contains_key(TRACESTATE));
            async { Ok(Response::new(empty())) }
        });
        response.await.unwrap();
    }
}
