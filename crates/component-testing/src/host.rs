//! What the requests, WebSockets and timers of an application share.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use grip::header::{GRIP_FEATURE, GRIP_SIG};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use parking_lot::Mutex;
use spin_runtime::{
    Embedded, PrivateRoutes,
    backend::{Backend as _, BackendError, Body},
    escapes_root,
    simulation::SimulatedClock,
    websocket::{FramesCall, Opening},
};

use crate::{
    channels::Channels,
    failure::{Failure, not_found, text_response},
    publisher::Publisher,
    request::ClientRequest,
    shuffle::Shuffle,
    websocket::SocketTokens,
};

/// The features of the simulated host. `presence` and `user` have no effect.
const FEATURES: &str = "status, session, link:next, filter:skip-self, filter:skip-users, \
                        filter:require-sub, filter:var-subst, subscribe:recover, presence, user, \
                        auto-response";

/// The simulated GRIP host around the application.
pub(crate) struct Host {
    pub(crate) backend: Embedded,
    pub(crate) clock: SimulatedClock,
    pub(crate) publisher: Publisher,
    pub(crate) channels: Channels,
    /// The WebSockets to which components send frames.
    pub(crate) tokens: SocketTokens,
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
        tokens: SocketTokens,
        private: PrivateRoutes,
        shuffle: Shuffle,
    ) -> Self {
        Self {
            backend,
            clock,
            publisher,
            channels,
            tokens,
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
        self.record(&path, self.backend.call(request).await)
    }

    /// Passes an upgrade request to a component that handles typed frames. Records the error.
    pub(crate) async fn open_websocket(
        &self,
        token: Arc<str>,
        request: Request<Body>,
    ) -> Result<Opening, BackendError> {
        let path = request.uri().path().to_owned();
        self.shuffle.delay().await;
        self.record(&path, self.backend.open_websocket(token, request).await)
    }

    /// Passes frames of the WebSocket on a path to its component. Records the error.
    pub(crate) async fn receive_frames(
        &self,
        path: &str,
        call: FramesCall,
    ) -> Result<(), BackendError> {
        self.shuffle.delay().await;
        self.record(path, self.backend.receive_frames(call).await)
    }

    /// Records the error of a call, unless the path has no route.
    pub(crate) fn record<T>(
        &self,
        path: &str,
        called: Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        if let Err(error) = &called
            && !matches!(error, BackendError::NoRoute { .. })
        {
            self.fail(path, error.to_string());
        }
        called
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
