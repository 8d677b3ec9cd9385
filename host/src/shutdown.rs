//! The steps in which a host shuts down.

use tokio_util::sync::CancellationToken;

/// The signals of a shutdown, handed to everything that runs.
#[derive(Clone, Default)]
pub(crate) struct Shutdown {
    /// Call no timers, and let clients move to other hosts.
    pub(crate) stop: CancellationToken,
    /// Accept nothing new and finish what is in progress.
    pub(crate) drain: CancellationToken,
    /// Accept nothing new on the control port, which serves for longer than the public port.
    pub(crate) drain_control: CancellationToken,
    /// Drop everything at once.
    pub(crate) abort: CancellationToken,
}
