//! What is known of the resources of an application: their stored responses, the requests for them
//! that are in progress, and which of them cannot be stored.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio_util::sync::CancellationToken;

use super::{
    entry::Entry,
    filter::{KeyCounters, RecentKeys},
    key::Key,
    pending::PendingFetches,
    store::Store,
};
use crate::{config::CacheLimits, metrics::registry::CacheCounters};

/// The state of a cache.
pub(super) struct Resources {
    pub(super) store: Store,
    pub(super) pending: Arc<PendingFetches>,
    /// URLs whose last response was not stored. Requests for them do not wait for each other.
    pub(super) unstorable: RecentKeys,
    /// URLs whose last response became too large while it arrived. Others are not dropped for the next
    /// one.
    pub(super) too_large: RecentKeys,
    /// Counts purges.
    purges: AtomicU64,
    /// Counts the changes of resources.
    changes: KeyCounters,
    pub(super) max_response_bytes: usize,
    pub(super) counters: CacheCounters,
    /// Ends the tasks that store responses.
    pub(super) stop: CancellationToken,
}

/// Identifies what may be stored for a URL: an earlier response may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    purges: u64,
    changes: u32,
}

impl Resources {
    pub(super) fn new(
        limits: CacheLimits,
        counters: CacheCounters,
        stop: CancellationToken,
    ) -> Self {
        Self {
            store: Store::new(limits.max_bytes, counters.evictions.clone()),
            pending: Arc::default(),
            unstorable: RecentKeys::default(),
            too_large: RecentKeys::default(),
            purges: AtomicU64::new(0),
            changes: KeyCounters::default(),
            max_response_bytes: limits.max_response_bytes,
            counters,
            stop,
        }
    }

    /// Returns the current version of a URL.
    pub(super) fn version(&self, key: &Key) -> Version {
        Version {
            purges: self.purges.load(Relaxed),
            changes: self.changes.get(key),
        }
    }

    /// Stores the response to a request that began when this version was current, unless it was purged
    /// or changed in the meantime.
    pub(super) fn insert(&self, entry: &Arc<Entry>, version: Version) {
        self.store
            .insert(entry.clone(), || self.version(&entry.key) == version);
    }

    /// Removes what is stored for matching URLs, and returns the number of responses. Those to
    /// requests in progress are not stored.
    pub(super) fn purge(&self, matches: impl Fn(&Key) -> bool) -> usize {
        let purge = || {
            self.purges.fetch_add(1, Relaxed);
        };
        let removed = self.store.remove(&matches, purge);
        self.pending.forget(matches);
        self.too_large.clear();
        removed
    }

    /// Removes what is stored for a URL whose resource has changed.
    pub(super) fn invalidate(&self, key: &Key) {
        self.store.remove_key(key, || self.changes.increment(key));
        self.pending.forget(|other| other == key);
        self.too_large.remove(key);
    }
}
