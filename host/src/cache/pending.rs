//! Requests to the backend whose response others wait for.

use std::{
    collections::{HashMap, hash_map},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{entry::Entry, key::Key};

/// How a request to the backend has ended.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// The response is complete, and may be used for other requests.
    Complete(Arc<Entry>),
    /// The response is not for other requests, or the backend has failed.
    Declined,
    /// The client disconnected before the response.
    Abandoned,
}

/// The requests to the backend that others may wait for, by what distinguishes them.
#[derive(Default)]
pub(super) struct PendingFetches(Mutex<HashMap<String, Arc<PendingFetch>>>);

struct PendingFetch {
    key: Key,
    outcome: watch::Sender<Option<Outcome>>,
}

/// What a request does if another one may be in progress.
pub(super) enum Join {
    /// It is the first one.
    First(PendingGuard),
    /// It waits for the first one.
    Wait(Waiter),
    /// There is none, and it may not be the first one.
    None,
}

/// Waits for the outcome of another request.
pub(super) struct Waiter(watch::Receiver<Option<Outcome>>);

/// Reports the outcome of the first request. Dropping it reports that the request was abandoned.
pub(super) struct PendingGuard {
    fetches: Arc<PendingFetches>,
    id: String,
    fetch: Arc<PendingFetch>,
}

impl PendingFetches {
    /// Waits for a request with this id, or becomes the first one if `may_be_first`.
    pub(super) fn join(self: &Arc<Self>, id: String, key: &Key, may_be_first: bool) -> Join {
        let mut fetches = self.0.lock();
        match fetches.entry(id) {
            hash_map::Entry::Occupied(entry) => Join::Wait(Waiter(entry.get().outcome.subscribe())),
            hash_map::Entry::Vacant(entry) if may_be_first => {
                let id = entry.key().clone();
                let fetch = Arc::new(PendingFetch {
                    key: key.clone(),
                    outcome: watch::Sender::new(None),
                });
                entry.insert(fetch.clone());
                Join::First(PendingGuard {
                    fetches: self.clone(),
                    id,
                    fetch,
                })
            }
            hash_map::Entry::Vacant(_) => Join::None,
        }
    }

    /// Lets no further requests wait for those whose key matches.
    pub(super) fn forget(&self, matches: impl Fn(&Key) -> bool) {
        self.0.lock().retain(|_, fetch| !matches(&fetch.key));
    }
}

impl Waiter {
    /// Returns the outcome. Returns `None` if it is not known at the deadline.
    pub(super) async fn outcome(mut self, deadline: Instant) -> Option<Outcome> {
        match timeout_at(deadline, self.0.wait_for(Option::is_some)).await {
            Ok(Ok(outcome)) => outcome.clone(),
            // The sender reports an outcome before it is dropped.
            Ok(Err(_)) => Some(Outcome::Abandoned),
            Err(_) => None,
        }
    }
}

impl PendingGuard {
    /// Reports the outcome to all that wait.
    pub(super) fn finish(self, outcome: Outcome) {
        self.report(outcome);
    }

    fn report(&self, outcome: Outcome) {
        // Removed first, so that later requests look for a stored response.
        let mut fetches = self.fetches.0.lock();
        let current = fetches.get(&self.id);
        if current.is_some_and(|current| Arc::ptr_eq(current, &self.fetch)) {
            fetches.remove(&self.id);
        }
        drop(fetches);
        self.fetch.outcome.send_if_modified(|reported| {
            let is_first = reported.is_none();
            if is_first {
                *reported = Some(outcome);
            }
            is_first
        });
    }
}

impl Drop for PendingGuard {
    fn drop(&mut self) {
        self.report(Outcome::Abandoned);
    }
}
