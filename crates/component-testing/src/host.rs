//! What the requests, WebSockets and timers of an application share.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use grip::header::{GRIP_FEATURE, GRIP_SIG};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use parking_lot::Mutex;
use spin_runtime::{
    Embedded, PrivateRoutes,
    backend::{Backend as _, BackendError, Body},
    escapes_root,
    simulation::SimulatedClock,
};

use crate::{
    channels::Channels,
    failure::{Failure, not_found, text_response},
    publisher::Publisher,
    request::ClientRequest,
    shuffle::Shuffle,
};

/// The features of the simulated host. `presence` and `user` have no effect.
const FEATURES: &str = "status, session, link:next, filter:skip-self, filter:skip-users, \
                        filter:require-sub, filter:var-subst, subscribe:recover, presence, user";

/// The simulated GRIP host around the application.
pub(crate) struct Host {
    pub(crate) backend: Embedded,
    pub(crate) clock: SimulatedClock,
    pub(crate) publisher: Publisher,
    pub(crate) channels: Channels,
    /// The paths that clients cannot request.
    private: PrivateRoutes,
    /// Decides when requests reach the application.
    shuffle: Shuffle,
    failures: Mutex<Vec<Failure>>,
    connections: AtomicU64,
}

impl Host {
    pub(crate) fn new(
        backend: Embedded,
        clock: SimulatedClock,
        publisher: Publisher,
        channels: Channels,
        private: PrivateRoutes,
        shuffle: Shuffle,
    ) -> Self {
        Self {
            backend,
            clock,
            publisher,
            channels,
            private,
            shuffle,
            failures: Mutex::default(),
            connections: AtomicU64::new(0),
        }
    }

    /// Returns the response to a request that the host does not pass on, if it is one.
    pub(crate) fn refuse(&self, request: &ClientRequest) -> Option<Response<Body>> {
        let path = request.uri.path();
        if escapes_root(path) {
            let text = "the path escapes the root";
            return Some(text_response(StatusCode::BAD_REQUEST, text));
        }
        if request.has_websocket_events() {
            let text = "only the host may send WebSocket events";
            return Some(text_response(StatusCode::FORBIDDEN, text));
        }
        self.private.matches(path).then(not_found)
    }

    /// Adds the headers by which a component recognizes its host.
    pub(crate) fn sign(&self, headers: &mut HeaderMap) {
        headers.insert(HeaderName::from_static(GRIP_SIG), self.publisher.token());
        let features = HeaderValue::from_static(FEATURES);
        headers.insert(HeaderName::from_static(GRIP_FEATURE), features);
    }

    /// Sends a request to the application. Records the error, unless the path has no route.
    pub(crate) async fn call(
        &self,
        request: Request<Body>,
    ) -> Result<Response<Body>, BackendError> {
        let path = request.uri().path().to_owned();
        self.shuffle.delay().await;
        let response = self.backend.call(request).await;
        if let Err(error) = &response
            && !matches!(error, BackendError::NoRoute { .. })
        {
            self.fail(&path, error.to_string());
        }
        response
    }

    /// Records a failure.
    pub(crate) fn fail(&self, target: &str, error: impl Into<String>) {
        self.failures.lock().push(Failure {
            target: target.to_owned(),
            error: error.into(),
        });
    }

    /// Returns the failures so far.
    pub(crate) fn failures(&self) -> Vec<Failure> {
        self.failures.lock().clone()
    }

    /// Returns the id of a new connection, in the form of a UUID.
    pub(crate) fn connection_id(&self) -> HeaderValue {
        let number = self.connections.fetch_add(1, Relaxed) + 1;
        let id = format!("00000000-0000-4000-8000-{number:012x}");
        HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static(""))
    }
}
