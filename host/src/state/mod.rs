//! What all parts of a host share.

pub(crate) mod activity;
pub(crate) mod holds;
pub(crate) mod sessions;

use std::sync::Arc;

use spin_runtime::{backend::Backend, manifest::WebSocketLimits};
use tokio_util::sync::CancellationToken;

use crate::{
    http::signer::Signer,
    metrics::{
        backend::Metered,
        registry::{Dropped, Metrics, Snapshot},
    },
    pubsub::channels::Channels,
    state::{holds::Holds, sessions::Sessions},
};

/// See the module's words. Clones share it too, but for the limits.
#[derive(Clone)]
pub(crate) struct Services {
    /// Where requests and events go.
    pub(crate) backend: Arc<dyn Backend>,
    /// What sessions and holds subscribe to.
    pub(crate) channels: Channels,
    /// Where sessions are counted.
    pub(crate) sessions: Arc<Sessions>,
    /// Where held requests are counted.
    pub(crate) holds: Arc<Holds>,
    /// What signs the requests.
    pub(crate) signer: Signer,
    /// The bounds of each session.
    pub(crate) limits: WebSocketLimits,
    /// Where everything else is counted.
    pub(crate) metrics: Arc<Metrics>,
}

impl Services {
    /// Services in front of `backend`, whose own answers are counted as `name`'s, until `stop`.
    pub(crate) fn new(
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

    /// Returns the current number of sessions, holds, channels and instances.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot {
            sessions: self
                .sessions
                .by_stage()
                .map(|(stage, count)| (stage.name(), count)),
            holds: [
                ("stream", self.holds.streams()),
                ("response", self.holds.responses()),
            ],
            channels: self.channels.len(),
            subscriptions: self.channels.subscriptions(),
            instances: self.backend.instances(),
        }
    }
}
