//! Small tables that remember something about URLs, approximately and without locks.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

use super::key::Key;

/// The URLs that are remembered at the same time.
const REMEMBERED: usize = 8192;

/// The slots for counters.
const COUNTERS: usize = 1024;

/// Remembers some URLs. A newer one takes the place of an older one.
pub(super) struct RecentKeys {
    hasher: RandomState,
    /// The hashes of the URLs. 0 is none.
    hashes: Box<[AtomicU64]>,
}

impl Default for RecentKeys {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            hashes: (0..REMEMBERED).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl RecentKeys {
    pub(super) fn contains(&self, key: &Key) -> bool {
        let (hash, slot) = self.slot(key);
        slot.load(Relaxed) == hash
    }

    pub(super) fn insert(&self, key: &Key) {
        let (hash, slot) = self.slot(key);
        slot.store(hash, Relaxed);
    }

    pub(super) fn remove(&self, key: &Key) {
        let (hash, slot) = self.slot(key);
        // Another URL may have taken its place.
        let _ = slot.compare_exchange(hash, 0, Relaxed, Relaxed);
    }

    pub(super) fn clear(&self) {
        for hash in &self.hashes {
            hash.store(0, Relaxed);
        }
    }

    fn slot(&self, key: &Key) -> (u64, &AtomicU64) {
        let hash = self.hasher.hash_one(key).max(1);
        (hash, &self.hashes[hash as usize % REMEMBERED])
    }
}

/// Counts something for each URL. Some URLs share a counter.
pub(super) struct KeyCounters {
    hasher: RandomState,
    counters: Box<[AtomicU32]>,
}

impl Default for KeyCounters {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            counters: (0..COUNTERS).map(|_| AtomicU32::new(0)).collect(),
        }
    }
}

impl KeyCounters {
    pub(super) fn get(&self, key: &Key) -> u32 {
        self.counter(key).load(Relaxed)
    }

    pub(super) fn increment(&self, key: &Key) {
        self.counter(key).fetch_add(1, Relaxed);
    }

    fn counter(&self, key: &Key) -> &AtomicU32 {
        &self.counters[self.hasher.hash_one(key) as usize % COUNTERS]
    }
}
