//! What all parts of a host share.

use std::sync::Arc;

use spin_runtime::{backend::Backend, manifest::WebSocketLimits};
use tokio_util::sync::CancellationToken;

use crate::{
    channels::Channels,
    holds::Holds,
    metered::Metered,
    metrics::{Dropped, Metrics},
    sessions::Sessions,
    signer::Signer,
};

/// See the module's words. Clones share it too, but for the limits.
#[derive(Clone)]
pub struct Services {
    /// Where requests and events go.
    pub backend: Arc<dyn Backend>,
    /// What sessions and holds subscribe to.
    pub channels: Channels,
    /// Where sessions are counted.
    pub sessions: Arc<Sessions>,
    /// Where held requests are counted.
    pub holds: Arc<Holds>,
    /// What signs the requests.
    pub signer: Signer,
    /// The bounds of each session.
    pub limits: WebSocketLimits,
    /// Where everything else is counted.
    pub metrics: Arc<Metrics>,
}

impl Services {
    /// Services in front of `backend`, whose own answers are counted as `name`'s, until `stop`.
    pub fn new(
        backend: Arc<dyn Backend>,
        name: &str,
        signer: Signer,
        limits: WebSocketLimits,
        stop: CancellationToken,
    ) -> Self {
        let metrics = Arc::new(Metrics::default());
        Self {
            backend: Arc::new(Metered::new(backend, metrics.clone(), name)),
            channels: Channels::new(
                metrics.published.clone(),
                metrics.dropped(Dropped::Duplicate),
            ),
            sessions: Sessions::new(limits.max_connections),
            holds: Holds::new(limits.max_connections, stop),
            signer,
            limits,
            metrics,
        }
    }
}
