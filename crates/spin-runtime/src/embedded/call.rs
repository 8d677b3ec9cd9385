//! Calls between the components of an application.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Request};

use crate::backend::{Body, Caller, ResponseFuture, WaitsForCapacity};

/// The context of a request, which the requests that its component sends inherit.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// The sender of the first request.
    pub(crate) caller: Caller,
    /// The number of components that have called each other before this one.
    pub(crate) depth: u8,
    /// The trace of the first request, if it has one.
    pub(crate) trace: Option<Arc<TraceHeaders>>,
    /// Whether it waits while the component is overloaded, instead of failing at once.
    pub(crate) waits: bool,
}

impl Call {
    /// Returns the context of a request from outside of the application.
    pub(crate) fn of(request: &Request<Body>) -> Self {
        let extensions = request.extensions();
        let caller = extensions.get().copied().unwrap_or(Caller::Host);
        Self {
            caller,
            depth: 0,
            trace: TraceHeaders::of(request.headers()),
            // Calls of one timer do not overlap, so few of them wait.
            waits: extensions.get::<WaitsForCapacity>().is_some() || caller == Caller::Host,
        }
    }

    /// Returns the context of what the host does for itself.
    pub(crate) fn of_host() -> Self {
        Self {
            caller: Caller::Host,
            depth: 0,
            trace: None,
            waits: false,
        }
    }
}

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The headers that name the trace of a request (W3C Trace Context).
#[derive(Debug)]
pub(crate) struct TraceHeaders {
    parent: HeaderValue,
    states: Vec<HeaderValue>,
}

impl TraceHeaders {
    /// Returns those of a request, if it has them.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Arc<Self>> {
        let parent = headers.get(TRACEPARENT)?.clone();
        let states = headers.get_all(TRACESTATE).iter().cloned().collect();
        Some(Arc::new(Self { parent, states }))
    }

    /// Adds them to a request, unless its sender has set them.
    pub(crate) fn add_to(&self, headers: &mut HeaderMap) {
        if headers.contains_key(TRACEPARENT) {
            return;
        }
        headers.insert(TRACEPARENT, self.parent.clone());
        headers.remove(TRACESTATE);
        for state in &self.states {
            headers.append(TRACESTATE, state.clone());
        }
    }
}

/// Calls components of the current application.
pub(crate) trait LocalCalls: Send + Sync {
    /// Calls the component that the routes select.
    fn call(&self, request: Request<Body>, call: Call) -> ResponseFuture<'_>;

    /// Calls a component by its id, regardless of its routes.
    fn call_component<'a>(
        &'a self,
        id: &'a str,
        request: Request<Body>,
        call: Call,
    ) -> ResponseFuture<'a>;
}
