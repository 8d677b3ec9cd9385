//! The two steps in which a host shuts down.

use tokio_util::sync::CancellationToken;

/// The signals of a shutdown, handed to everything that runs.
#[derive(Clone, Default)]
pub(crate) struct Shutdown {
    /// Accept nothing new and finish what is in progress.
    pub(crate) drain: CancellationToken,
    /// Drop everything at once.
    pub(crate) abort: CancellationToken,
}
