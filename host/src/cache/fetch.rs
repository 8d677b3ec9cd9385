//! A request whose response may be stored.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    entry::Entry,
    key::Key,
    pending::{Outcome, PendingGuard},
    resources::{Resources, Version},
};

/// A request whose response may be stored. Dropping it means that the client has disconnected.
pub(super) struct Fetch {
    pub(super) resources: Arc<Resources>,
    pub(super) key: Key,
    /// What is current when the request begins.
    version: Version,
    pub(super) started: Instant,
    /// Reports to the requests that wait, unless none may.
    pending: Option<PendingGuard>,
}

impl Fetch {
    /// Creates a fetch of what is current now.
    pub(super) fn new(resources: &Arc<Resources>, key: Key, pending: Option<PendingGuard>) -> Self {
        Self {
            version: resources.version(&key),
            resources: resources.clone(),
            key,
            started: Instant::now(),
            pending,
        }
    }

    /// Stores the response, unless it was purged in the meantime.
    pub(super) fn complete(self, entry: impl FnOnce(Key) -> Entry) {
        let Self {
            resources,
            key,
            version,
            pending,
            ..
        } = self;
        let entry = Arc::new(entry(key));
        resources.unstorable.remove(&entry.key);
        resources.insert(&entry, version);
        // Those who wait have asked before a purge, so they may get it anyway.
        if let Some(pending) = pending {
            pending.finish(Outcome::Complete(entry));
        }
    }

    /// Releases the requests that wait, because the response is not for other clients. Later requests of
    /// the URL do not wait for each other.
    pub(super) fn decline(self) {
        self.resources.unstorable.insert(&self.key);
        self.fail();
    }

    /// Releases the requests that wait, because the backend has failed.
    pub(super) fn fail(self) {
        if let Some(pending) = self.pending {
            pending.finish(Outcome::Declined);
        }
    }
}
