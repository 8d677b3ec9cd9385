//! The settings and resources that the instances of a component share.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use tokio::sync::Semaphore;

use super::{
    call::LocalCalls,
    capacity::{WaitingRequest, WaitingRequests},
    client::Client,
    component_log::ComponentLog,
    compute::ComputeQueue,
    files::Mounts,
    key_value::Stores,
    output::OutputStream,
    simulation::World,
    sqlite::Databases,
};
use crate::{
    allowed_hosts::AllowedHosts,
    backend::{BackendError, Busy},
    limits::Limits,
    websocket::WebSockets,
};

/// A component of a loaded application, without its code.
pub(crate) struct Component {
    /// The id in the manifest.
    pub(crate) id: Arc<str>,
    pub(crate) environment: Vec<(String, String)>,
    /// The files that it can read.
    pub(crate) mounts: Mounts,
    pub(crate) stdout: OutputStream,
    pub(crate) stderr: OutputStream,
    /// Its variables, with expanded templates.
    pub(crate) variables: BTreeMap<String, String>,
    /// The key-value stores that it may open.
    pub(crate) stores: Stores,
    /// The SQLite databases that it may open.
    pub(crate) databases: Databases,
    /// One permit for each connection to Redis that it may have open.
    #[cfg(feature = "redis")]
    pub(crate) redis_permits: Arc<Semaphore>,
    /// The hosts that it may send requests to.
    pub(crate) allowed_hosts: AllowedHosts,
    /// The client for these requests.
    pub(crate) client: Client,
    pub(crate) limits: Limits,
    /// What surrounds it, if that is simulated.
    pub(crate) world: Option<Arc<World>>,
    /// What is logged about it.
    pub(crate) log: Arc<ComponentLog>,
    /// One permit for each instance that may exist.
    pub(crate) permits: Arc<Semaphore>,
    /// Its guests that wait to compute.
    pub(crate) compute_queue: Arc<ComputeQueue>,
    /// One permit for each outgoing request whose response has not ended.
    pub(crate) outgoing_permits: Arc<Semaphore>,
    /// The WebSockets that it may send frames to.
    pub(crate) websockets: Arc<dyn WebSockets>,
    /// The current application, which may not be the one that this component belongs to.
    pub(crate) app: Weak<dyn LocalCalls>,
}

impl Component {
    /// Counts a request that waits for an instance, unless too many do. `room` is the number of requests
    /// that need not wait.
    pub(crate) fn admit(
        &self,
        waiting: &WaitingRequests,
        room: usize,
    ) -> Result<WaitingRequest, BackendError> {
        let admitted = if self.compute_queue.is_full() {
            None
        } else {
            waiting.try_add(room)
        };
        admitted.ok_or_else(|| self.busy(Busy::Requests))
    }

    /// Returns the error for a request that the component has no room for.
    pub(crate) fn busy(&self, cause: Busy) -> BackendError {
        BackendError::Busy {
            component: self.id.to_string(),
            cause,
        }
    }

    /// Returns the limits of a new instance.
    pub(crate) fn pick_limits(&self) -> Limits {
        match &self.world {
            Some(world) => self.limits.pick(&mut world.rng("limits")),
            None => self.limits.pick(&mut rand::rng()),
        }
    }
}
