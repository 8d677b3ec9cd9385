//! The stored responses, which together take a bounded amount of memory.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use http::HeaderMap;
use parking_lot::RwLock;
use prometheus_client::metrics::counter::Counter;

use super::{entry::Entry, key::Key, selection, status::ForwardReason};
use crate::config::Limits;

/// The most entries of one URL.
const MAX_VARIANTS: usize = Limits::DEFAULT.max_cache_variants;

/// Stored responses by URL.
pub(super) struct Store {
    state: RwLock<State>,
    max_bytes: usize,
    evictions: Counter,
}

#[derive(Default)]
struct State {
    /// The entries of each URL, the newest last.
    resources: HashMap<Key, Vec<Arc<Entry>>>,
    /// All entries, in the order in which they are considered for eviction. An entry that was used in
    /// the meantime moves to the end once.
    queue: VecDeque<Arc<Entry>>,
    /// The size of all entries.
    stored_bytes: usize,
    /// What is reserved for entries whose content is arriving.
    reserved_bytes: usize,
}

impl Store {
    /// Creates a store that evicts entries beyond `max_bytes`.
    pub(super) fn new(max_bytes: usize, evictions: Counter) -> Self {
        Self {
            state: RwLock::default(),
            max_bytes,
            evictions,
        }
    }

    /// Returns the entry that answers a request, or why there is none.
    pub(super) fn find(&self, key: &Key, request: &HeaderMap) -> Result<Arc<Entry>, ForwardReason> {
        let state = self.state.read();
        let entries = state.resources.get(key).ok_or(ForwardReason::UriMiss)?;
        let mut entries = entries.iter().rev();
        let entry = entries
            .find(|entry| entry.selection().matches(request))
            .ok_or(ForwardReason::VaryMiss)?;
        if !entry.is_fresh() {
            return Err(ForwardReason::Stale);
        }
        entry.mark_used();
        Ok(entry.clone())
    }

    /// Returns what distinguishes a request from those that select other responses, as far as it is
    /// known. Requests for which it is equal may wait for the same response.
    pub(super) fn describe(&self, key: &Key, request: &HeaderMap) -> String {
        let mut text = key.as_str().to_owned();
        let state = self.state.read();
        match state.resources.get(key).and_then(|entries| entries.last()) {
            Some(entry) => entry.selection().describe(request, &mut text),
            None => selection::describe_unknown(request, &mut text),
        }
        text
    }

    /// Reserves memory for an entry whose content is arriving, and evicts others for it. Returns
    /// whether there is enough.
    pub(super) fn reserve(&self, bytes: usize) -> bool {
        let mut state = self.state.write();
        let has_room = self.make_room(&mut state, bytes);
        if has_room {
            state.reserved_bytes += bytes;
        }
        has_room
    }

    /// Returns reserved memory.
    pub(super) fn release(&self, bytes: usize) {
        self.state.write().reserved_bytes -= bytes;
    }

    /// Stores an entry if `is_current`. It replaces those for the same requests, and those that are
    /// stale. Returns whether it was stored.
    pub(super) fn insert(&self, entry: Arc<Entry>, is_current: impl FnOnce() -> bool) -> bool {
        let mut state = self.state.write();
        // Checked while nothing can be removed, so that no purge is missed.
        if !is_current() {
            return false;
        }
        let key = &entry.key;
        state.remove_of(key, |other| {
            !other.is_fresh() || other.selection().is_same(entry.selection())
        });
        let variants = state.resources.get(key).map_or(0, Vec::len);
        if variants >= MAX_VARIANTS
            && let Some(oldest) = state.resources.get(key).map(|entries| entries[0].clone())
        {
            state.remove_of(key, |other| Arc::ptr_eq(other, &oldest));
            self.evictions.inc();
        }
        if !self.make_room(&mut state, entry.bytes) {
            return false;
        }
        state.stored_bytes += entry.bytes;
        state.queue.push_back(entry.clone());
        let entries = state.resources.entry(entry.key.clone()).or_default();
        entries.push(entry);
        true
    }

    /// Removes the entries whose key matches, and returns their number. `invalidate` runs while no
    /// entry can be stored.
    pub(super) fn remove(
        &self,
        matches: impl Fn(&Key) -> bool,
        invalidate: impl FnOnce(),
    ) -> usize {
        let mut state = self.state.write();
        invalidate();
        let before = state.queue.len();
        let mut removed_bytes = 0;
        state.queue.retain(|entry| {
            let is_removed = matches(&entry.key);
            if is_removed {
                removed_bytes += entry.bytes;
            }
            !is_removed
        });
        state.resources.retain(|key, _| !matches(key));
        state.stored_bytes -= removed_bytes;
        before - state.queue.len()
    }

    /// Removes the entries of a URL. `invalidate` runs while no entry can be stored.
    pub(super) fn remove_key(&self, key: &Key, invalidate: impl FnOnce()) {
        let mut state = self.state.write();
        invalidate();
        state.remove_of(key, |_| true);
    }

    /// Returns the number of entries and their size.
    pub(super) fn size(&self) -> (usize, usize) {
        let state = self.state.read();
        (state.queue.len(), state.stored_bytes)
    }

    /// Evicts entries until there is room for this number of bytes. Returns `false` if there cannot
    /// be.
    fn make_room(&self, state: &mut State, bytes: usize) -> bool {
        let Some(room) = self
            .max_bytes
            .checked_sub(state.reserved_bytes.saturating_add(bytes))
        else {
            return false;
        };
        while state.stored_bytes > room {
            let Some(entry) = state.queue.pop_front() else {
                return false;
            };
            if entry.take_used() {
                state.queue.push_back(entry);
                continue;
            }
            state.stored_bytes -= entry.bytes;
            state.forget(&entry);
            self.evictions.inc();
        }
        true
    }
}

impl State {
    /// Removes the entries of a URL that match.
    fn remove_of(&mut self, key: &Key, matches: impl Fn(&Arc<Entry>) -> bool) {
        let Some(entries) = self.resources.get_mut(key) else {
            return;
        };
        let removed: Vec<_> = entries.extract_if(.., |entry| matches(entry)).collect();
        if removed.is_empty() {
            return;
        }
        if entries.is_empty() {
            self.resources.remove(key);
        }
        let is_removed = |entry: &Arc<Entry>| removed.iter().any(|it| Arc::ptr_eq(it, entry));
        self.queue.retain(|entry| !is_removed(entry));
        let bytes: usize = removed.iter().map(|entry| entry.bytes).sum();
        self.stored_bytes -= bytes;
    }

    /// Removes an entry, which is not in the queue, from those of its URL.
    fn forget(&mut self, entry: &Arc<Entry>) {
        if let Some(entries) = self.resources.get_mut(&entry.key) {
            entries.retain(|other| !Arc::ptr_eq(other, entry));
            if entries.is_empty() {
                self.resources.remove(&entry.key);
            }
        }
    }
}
