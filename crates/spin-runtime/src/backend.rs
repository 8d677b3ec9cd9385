//! A backend answers requests: components in this process, or a server elsewhere.
//!
//! Everything above this line of the house (listener, session, timer) sees one
//! call: a request in, a response out, bodies streaming both ways.

use std::{future::Future, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};

/// A streaming body, of a request or of a response.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// What can end a body before its end.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The answer of a backend, when it comes.
pub type Answer<'a> =
    Pin<Box<dyn Future<Output = Result<Response<Body>, BackendError>> + Send + 'a>>;

/// Answers requests. Shared by every connection, session and timer of a host.
pub trait Backend: Send + Sync + 'static {
    /// Sends `request` and returns the answer once its head is there.
    ///
    /// The URI is in origin form (`/path?query`), the `Host` header is set, and
    /// a [`Caller`] is among the extensions. Dropping the future gives the call up.
    fn call(&self, request: Request<Body>) -> Answer<'_>;

    /// How many instances of each component there are, where the backend runs components.
    fn instances(&self) -> Vec<(Arc<str>, usize)> {
        Vec::new()
    }
}

/// Which component a response is by: an extension of the responses of a backend that runs several.
#[derive(Clone, Debug)]
pub struct AnsweredBy(pub Arc<str>);

/// Who sent a request: an extension of every request that a [`Backend`] gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A client, from this address; also for the events of its WebSocket.
    Client(SocketAddr),
    /// The host itself, on a timer.
    Host,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// No route matches the path: 404.
    #[error("no route for {path}")]
    NoRoute {
        /// The path of the request.
        path: String,
    },
    /// The component trapped, could not be started, or answered nothing: 500.
    #[error("component {component} failed: {source:#}")]
    Failed {
        /// The component's id in the manifest.
        component: String,
        /// What went wrong, for the log and not for the client.
        source: anyhow::Error,
    },
    /// No answer within the deadline, though the request may have been acted on: 504.
    #[error("{component} did not answer within {limit:?}")]
    Deadline {
        /// The component's id, or the upstream's address.
        component: String,
        /// The deadline that passed.
        limit: Duration,
    },
    /// The upstream could not be reached, and has certainly not had the request, which may
    /// therefore be sent again whatever it asks for: 502.
    #[error("upstream {upstream} is not reached: {source:#}")]
    Unreachable {
        /// The upstream's address.
        upstream: String,
        /// What went wrong, for the log and not for the client.
        source: anyhow::Error,
    },
    /// The upstream was reached, may have acted on the request, and gave no usable answer: 502.
    #[error("upstream {upstream} failed: {source:#}")]
    Broken {
        /// The upstream's address.
        upstream: String,
        /// What went wrong, for the log and not for the client.
        source: anyhow::Error,
    },
}

/// A body that is already here.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A body without content.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}
