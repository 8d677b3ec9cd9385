//! The interface between what holds connections and what answers requests.
//!
//! A [`Backend`] is an application in this process, or a server elsewhere. Its callers do not need
//! to know which.

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, uri::Scheme};
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};

use crate::websocket::{FramesCall, Opening, Pending};

/// A streaming body of a request or a response.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// An error that ends a body early.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The pending response of a backend.
pub type ResponseFuture<'a> =
    Pin<Box<dyn Future<Output = Result<Response<Body>, BackendError>> + Send + 'a>>;

/// A pending call of a component for an event of a cron trigger.
pub type CronFuture<'a> = Pin<Box<dyn Future<Output = Result<(), BackendError>> + Send + 'a>>;

/// Answers requests.
///
/// A host shares its backend between all connections, sessions and timers.
pub trait Backend: Send + Sync + 'static {
    /// Sends a request and returns the response as soon as its head is available.
    ///
    /// The request's URI is in origin form (`/path?query`), its `Host` header is set, and its
    /// extensions contain a [`Caller`]. Dropping the future cancels the request.
    fn call(&self, request: Request<Body>) -> ResponseFuture<'_>;

    /// Calls a component, by its id, for an event of a cron trigger. `timestamp` is the time of the
    /// event in seconds since 1970.
    ///
    /// Fails if the backend runs no such component. Dropping the future cancels the call.
    fn call_cron<'a>(&'a self, component: &'a str, _timestamp: u64) -> CronFuture<'a> {
        Box::pin(async move {
            Err(BackendError::NoRoute {
                path: component.to_owned(),
            })
        })
    }

    /// Returns a future that waits until the component of a path can be called. Returns `None` if it
    /// can be called already. Requests wait by themselves, but what comes before a request does not.
    ///
    /// The future fails like a request that waits too long. Dropping it cancels the wait.
    fn starting<'a>(&self, _path: &'a str) -> Option<Pending<'a, Result<(), BackendError>>> {
        None
    }

    /// Returns the id of the component that handles the WebSockets of a path by typed frames. `None` if
    /// they are handled by requests. The component must have [started](Self::starting).
    fn websocket_component(&self, _path: &str) -> Option<Arc<str>> {
        None
    }

    /// Passes an upgrade request to the component of [`Self::websocket_component`]. The request is one
    /// as for [`Self::call`]. Dropping the future cancels the call.
    fn open_websocket<'a>(
        &'a self,
        _token: Arc<str>,
        request: Request<Body>,
    ) -> Pending<'a, Result<Opening, BackendError>> {
        Box::pin(async move {
            Err(BackendError::NoRoute {
                path: request.uri().path().to_owned(),
            })
        })
    }

    /// Passes frames of a WebSocket to its component, and returns when it has handled them. Dropping the
    /// future cancels the call.
    fn receive_frames(&self, call: FramesCall) -> Pending<'_, Result<(), BackendError>> {
        Box::pin(async move {
            Err(BackendError::NoRoute {
                path: call.component.to_string(),
            })
        })
    }

    /// Returns the number of instances of each component, if the backend runs components.
    fn instances(&self) -> Vec<(Arc<str>, usize)> {
        Vec::new()
    }

    /// Returns how often each component failed, if the backend runs components.
    fn failures(&self) -> Vec<Failures> {
        Vec::new()
    }
}

/// The component that served a request.
///
/// A backend with several components adds it to the extensions of its responses.
#[derive(Clone, Debug)]
pub struct ServedBy(pub Arc<str>);

/// The sender of a request.
///
/// The extensions of every request to a [`Backend`] contain it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A client. Also used for the events of its WebSocket.
    Client(Client),
    /// The host itself, for a timer.
    Host,
}

/// The client of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The remote address of the connection.
    pub address: SocketAddr,
    /// The connection is encrypted, so its requests have the scheme `https`.
    pub is_secure: bool,
    /// The client is a proxy, whose forwarding headers are correct.
    pub is_trusted_proxy: bool,
    /// The address that limits by address apply to: that of a proxy's client, if the proxy names it.
    /// `None` for other requests of proxies, and for clients on this machine, which have no such
    /// limits.
    pub limited_address: Option<IpAddr>,
}

impl Client {
    /// Returns a client whose connection is not encrypted, and which is no proxy.
    pub fn plain(address: SocketAddr) -> Self {
        let ip = address.ip().to_canonical();
        Self {
            address,
            is_secure: false,
            is_trusted_proxy: false,
            limited_address: (!ip.is_loopback()).then_some(ip),
        }
    }

    /// Returns the scheme of its requests.
    pub fn scheme(&self) -> Scheme {
        if self.is_secure {
            Scheme::HTTPS
        } else {
            Scheme::HTTP
        }
    }
}

/// Marks a request, as an extension, whose body was not yet received as a whole.
///
/// Such a request may occupy its backend for as long as its client takes to send the rest.
#[derive(Clone, Copy, Debug)]
pub struct UnfinishedBody {
    /// Whether a part of the body is available.
    pub has_started: bool,
}

/// Marks a request, as an extension, that waits while its backend is overloaded, instead of failing
/// with [`BackendError::Busy`] at once.
///
/// The sender bounds the number of such requests. Those of [`Caller::Host`] wait too.
#[derive(Clone, Copy, Debug)]
pub struct WaitsForCapacity;

/// The number of failures of a component for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failures {
    /// The component's id in the manifest.
    pub component: Arc<str>,
    /// The reason, as in logs and metrics.
    pub reason: &'static str,
    /// The number since the component was loaded.
    pub count: u64,
}

/// Why the body of a request ended early: the error of the body that a caller passes to
/// [`Backend::call`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestBodyError {
    /// The client violated the protocol: 400.
    #[error("malformed request body")]
    Malformed,
    /// The client disconnected or reset the stream: 400.
    #[error("request body ended early")]
    Incomplete,
    /// The client sent too little for too long: 408.
    #[error("request body too slow")]
    TooSlow,
    /// The body exceeds the limit: 413.
    #[error("request body too large: expected at most {max_bytes} bytes")]
    TooLarge {
        /// The limit.
        max_bytes: u64,
    },
}

/// Why a backend has not returned a response.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// No route matches the path: 404.
    #[error("no route for {path}")]
    NoRoute {
        /// The path of the request.
        path: String,
    },
    /// Receiving the body of the request failed: 400, 408 or 413.
    #[error(transparent)]
    RequestBody(#[from] RequestBodyError),
    /// The component or the upstream has too many requests, or is starting: 503. It has not received
    /// this one, so any request can be retried.
    #[error("{component} is busy: {cause}")]
    Busy {
        /// The component's id, or the upstream's address.
        component: String,
        /// Why it accepts no further request.
        cause: Busy,
    },
    /// The component trapped, failed to start, or returned no response: 500.
    #[error("component {component} failed: {source:#}")]
    Failed {
        /// The component's id in the manifest.
        component: String,
        /// The cause, for the log. It must not be sent to the client.
        source: anyhow::Error,
    },
    /// The request timed out, although it may have been processed: 504.
    #[error("request to {component} timed out after {limit:?}")]
    Deadline {
        /// The component's id, or the upstream's address.
        component: String,
        /// The timeout that has passed.
        limit: Duration,
    },
    /// The upstream could not be reached: 502. It has not received the request, so any request can
    /// be retried.
    #[error("upstream {upstream} unreachable: {source:#}")]
    Unreachable {
        /// The upstream's address.
        upstream: String,
        /// The cause, for the log. It must not be sent to the client.
        source: anyhow::Error,
    },
    /// The upstream may have processed the request and returned no valid response: 502.
    #[error("upstream {upstream} failed: {source:#}")]
    Broken {
        /// The upstream's address.
        upstream: String,
        /// The cause, for the log. It must not be sent to the client.
        source: anyhow::Error,
    },
}

/// Why a component or an upstream accepts no further request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    /// Too many requests wait for an instance or for a processor, or an upstream has not answered them.
    #[error("too many requests")]
    Requests,
    /// Too many requests have an unfinished body.
    #[error("too many uploads")]
    Uploads,
    /// The component is being compiled, which takes longer than a request may wait.
    #[error("starting")]
    Starting,
}

/// Creates a body from its contents.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// Creates an empty body.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}
