//! The history of a channel: its last items, which subscribers that were away or are slow receive
//! later.
//!
//! Each item has an offset, which rises by one. Offsets are never reused within a history, so a
//! subscriber that knows the next one it needs receives a contiguous run, or learns that items are
//! missing.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use serde::Serialize;
use tokio::time::Instant;

use crate::{config::HistoryLimits, pubsub::sequencer::Id};

/// The memory that all histories of a host may take together.
#[derive(Debug)]
pub(super) struct Budget {
    used: AtomicUsize,
    limit: usize,
}

/// The last items of a channel, in order.
#[derive(Debug)]
pub(super) struct History<T> {
    limits: HistoryLimits,
    budget: Arc<Budget>,
    items: VecDeque<Kept<T>>,
    bytes: usize,
    /// The offset of the next item.
    next: u64,
    /// The id of the item that was removed last. All later items are kept.
    before: Option<Id>,
    /// The offsets of the kept items that have an id.
    offsets: HashMap<Id, u64>,
}

#[derive(Debug)]
struct Kept<T> {
    item: T,
    id: Option<Id>,
    bytes: usize,
    expires: Instant,
}

/// How much a history has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct HistorySize {
    pub(crate) items: usize,
    pub(crate) bytes: usize,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicUsize::new(0),
            limit,
        })
    }

    fn is_exceeded(&self) -> bool {
        self.used.load(Relaxed) > self.limit
    }
}

impl<T> History<T> {
    /// Creates an empty history.
    pub(super) fn new(limits: HistoryLimits, budget: Arc<Budget>) -> Self {
        Self {
            limits,
            budget,
            items: VecDeque::new(),
            bytes: 0,
            next: 0,
            before: None,
            offsets: HashMap::new(),
        }
    }

    /// Forgets all items.
    pub(super) fn forget_all(&mut self) {
        while !self.items.is_empty() {
            self.forget_oldest();
        }
        self.before = None;
    }

    /// Changes the bounds.
    pub(super) fn set_limits(&mut self, limits: HistoryLimits, now: Instant) {
        self.limits = limits;
        self.trim(now);
    }

    /// Appends an item of `bytes` in memory, and returns its offset.
    pub(super) fn push(&mut self, item: T, id: Option<Id>, bytes: usize, now: Instant) -> u64 {
        let offset = self.next;
        self.next += 1;
        if let Some(id) = &id {
            self.offsets.insert(id.clone(), offset);
        }
        self.bytes += bytes;
        self.budget.used.fetch_add(bytes, Relaxed);
        self.items.push_back(Kept {
            item,
            id,
            bytes,
            expires: now + self.limits.age,
        });
        self.trim(now);
        offset
    }

    /// Forgets what exceeds the bounds.
    pub(super) fn trim(&mut self, now: Instant) {
        while let Some(oldest) = self.items.front()
            && (self.items.len() > self.limits.items
                || self.bytes > self.limits.bytes
                || oldest.expires <= now
                || self.budget.is_exceeded())
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let offset = self.first();
        let Some(oldest) = self.items.pop_front() else {
            return;
        };
        self.bytes -= oldest.bytes;
        self.budget.used.fetch_sub(oldest.bytes, Relaxed);
        if let Some(id) = &oldest.id
            // A later item may have the same id.
            && self.offsets.get(id) == Some(&offset)
        {
            self.offsets.remove(id);
        }
        self.before = oldest.id;
    }

    /// Returns how much is kept.
    pub(super) fn size(&self) -> HistorySize {
        HistorySize {
            items: self.items.len(),
            bytes: self.bytes,
        }
    }

    /// Returns how long an item is kept.
    pub(super) fn age(&self) -> Duration {
        self.limits.age
    }

    /// Returns the offset of the oldest item that is kept, or of the next one if none is.
    pub(super) fn first(&self) -> u64 {
        self.next - self.items.len() as u64
    }

    /// Returns the offset of the next item.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Returns the offset after the item `id`, if all items after it are kept.
    pub(super) fn offset_after(&self, id: &str) -> Option<u64> {
        match self.offsets.get(id) {
            Some(offset) => Some(offset + 1),
            None => (self.before.as_deref() == Some(id)).then(|| self.first()),
        }
    }

    /// Returns the offset of the oldest of the last `count` items, as far as they are known.
    pub(super) fn offset_of_newest(&self, count: u64) -> u64 {
        self.next.saturating_sub(count).max(self.first())
    }

    /// Returns the items from an offset on, or `None` if some of them are forgotten.
    pub(super) fn since(&self, offset: u64) -> Option<impl Iterator<Item = &T>> {
        let skipped = offset.checked_sub(self.first())?;
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        let kept = self.items.range(skipped.min(self.items.len())..);
        Some(kept.map(|kept| &kept.item))
    }

    /// Returns when the oldest item expires, if there is one.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.items.front().map(|oldest| oldest.expires)
    }
}

impl<T> Drop for History<T> {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HistoryLimits = HistoryLimits {
        items: 4,
        bytes: 100,
        age: Duration::from_secs(60),
    };

    fn history(limits: HistoryLimits) -> History<u32> {
        History::new(limits, Budget::new(usize::MAX))
    }

    fn push(history: &mut History<u32>, item: u32, now: Instant) {
        history.push(item, Some(item.to_string().into()), 10, now);
    }

    /// Returns what a subscriber receives that has the item `id`.
    fn after(history: &History<u32>, id: &str) -> Option<Vec<u32>> {
        let offset = history.offset_after(id)?;
        Some(history.since(offset)?.copied().collect())
    }

    #[test]
    fn items_after_a_known_one_are_returned() {
        let (mut history, now) = (history(LIMITS), Instant::now());
        assert_eq!(after(&history, "1"), None);
        for item in 1..=6 {
            push(&mut history, item, now);
        }
        assert_eq!(after(&history, "5"), Some(vec![6]));
        assert_eq!(after(&history, "6"), Some(vec![]));
        // Removed, but all later items are kept.
        assert_eq!(after(&history, "2"), Some(vec![3, 4, 5, 6]));
        assert_eq!(after(&history, "1"), None);
        assert_eq!(after(&history, "7"), None);
    }

    #[test]
    fn the_newest_items_are_returned() {
        let (mut history, now) = (history(LIMITS), Instant::now());
        let newest = |history: &History<u32>, count| {
            let items = history.since(history.offset_of_newest(count));
            items.map(|items| items.copied().collect::<Vec<_>>())
        };
        assert_eq!(newest(&history, 3), Some(vec![]));
        for item in 1..=6 {
            push(&mut history, item, now);
        }
        assert_eq!(newest(&history, 1), Some(vec![6]));
        assert_eq!(newest(&history, 100), Some(vec![3, 4, 5, 6]));
        assert_eq!(newest(&history, 0), Some(vec![]));
    }

    #[test]
    fn each_bound_is_kept() {
        let (mut history, now) = (history(LIMITS), Instant::now());
        push(&mut history, 1, now);
        push(&mut history, 2, now + LIMITS.age / 2);
        assert_eq!(history.next_expiry(), Some(now + LIMITS.age));
        history.trim(now + LIMITS.age);
        assert_eq!(after(&history, "1"), Some(vec![2]));
        // Larger than the bound: not even the item itself is kept.
        history.push(3, Some("3".into()), 101, now);
        assert_eq!((history.items.len(), history.bytes), (0, 0));
        assert_eq!(after(&history, "3"), Some(vec![]));
        assert_eq!(after(&history, "2"), None);
        assert!(history.since(2).is_none() && history.since(3).is_some());
    }

    #[test]
    fn an_id_that_is_published_again_means_the_later_item() {
        let (mut history, now) = (history(LIMITS), Instant::now());
        for (item, id) in [(1, "a"), (2, "b"), (3, "a"), (4, "c"), (5, "d"), (6, "e")] {
            history.push(item, Some(id.into()), 10, now);
        }
        assert_eq!(after(&history, "a"), Some(vec![4, 5, 6]));
    }

    #[test]
    fn all_histories_share_a_budget() {
        let (budget, now) = (Budget::new(50), Instant::now());
        let mut histories = [(); 2].map(|()| History::new(LIMITS, budget.clone()));
        for item in 0..4 {
            for history in &mut histories {
                history.push(item, None, 10, now);
            }
        }
        let kept = histories.each_ref().map(|history| history.items.len());
        assert_eq!(kept.iter().sum::<usize>(), 5);
        drop(histories);
        assert_eq!(budget.used.load(Relaxed), 0);
    }
}
