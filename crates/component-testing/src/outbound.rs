//! Requests of components to other servers.

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Method, Uri};

use crate::reply::Reply;

/// A request that a component has sent to a server.
#[derive(Clone, Debug)]
pub struct OutboundRequest {
    /// The id of the component.
    pub component: String,
    /// When it was sent.
    pub time: SystemTime,
    /// Its method.
    pub method: Method,
    /// Its URI, with scheme and host.
    pub uri: Uri,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// Answers the requests for which a test has fakes.
pub(crate) type Fake = Arc<dyn Fn(&OutboundRequest) -> Reply + Send + Sync>;
