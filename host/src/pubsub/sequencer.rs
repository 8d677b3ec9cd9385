//! The order of one channel's publications, and the detection of duplicates.
//!
//! A publication may name the one that it follows (`prev-id`). If that is not the last one
//! published, it waits for its predecessor, within bounds on time and number. The bounds are those
//! of Pushpin; what exceeds them is published out of order here instead of being dropped.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::config::Limits;

/// How long a publication waits for its predecessor.
pub(super) const REORDER_TIMEOUT: Duration = Limits::DEFAULT.reorder_timeout;
/// The most publications that wait on one channel.
const MAX_REORDERED_ITEMS: usize = Limits::DEFAULT.max_reordered_items;
/// The most bytes that wait on one channel.
const MAX_REORDERED_BYTES: usize = Limits::DEFAULT.max_reordered_bytes;
/// How long an id is remembered, to detect duplicates.
const KNOWN_ID_LIFETIME: Duration = Limits::DEFAULT.known_id_lifetime;
/// The most ids that are remembered for one channel.
const KNOWN_IDS_PER_CHANNEL: usize = Limits::DEFAULT.known_ids_per_channel;
/// The longest id that is remembered, in bytes. Longer ids are ignored.
pub(crate) const MAX_ID_BYTES: usize = Limits::DEFAULT.max_id_bytes;

/// An id on a channel.
pub(crate) type Id = Arc<str>;

/// The position of a publication in the order of its channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) id: Option<Id>,
    /// The id of the predecessor.
    pub(super) prev_id: Option<Id>,
    /// Do not wait for the predecessor (`no-seq`).
    pub(super) no_seq: bool,
    /// The bytes that count against [`MAX_REORDERED_BYTES`].
    pub(super) size: usize,
}

/// Puts the publications of a channel in order, and drops duplicates.
#[derive(Debug)]
pub(super) struct Sequencer<T> {
    /// The id of the last item published, if it had one.
    last_id: Option<Id>,
    /// An item without order was published after it.
    has_later: bool,
    /// In order of arrival, and so of deadline.
    waiting: VecDeque<Waiting<T>>,
    waiting_bytes: usize,
    /// In order of arrival.
    seen: VecDeque<(Instant, Id)>,
    seen_ids: HashSet<Id>,
}

#[derive(Debug)]
struct Waiting<T> {
    deadline: Instant,
    position: Position,
    item: T,
}

impl<T> Default for Sequencer<T> {
    fn default() -> Self {
        Self {
            last_id: None,
            has_later: false,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            seen: VecDeque::new(),
            seen_ids: HashSet::new(),
        }
    }
}

impl<T> Sequencer<T> {
    /// Accepts an item, and returns the items that can be published now, in order. Returns `None`
    /// if the item is a duplicate.
    pub(super) fn publish(
        &mut self,
        mut position: Position,
        item: T,
        now: Instant,
    ) -> Option<Vec<T>> {
        for id in [&mut position.id, &mut position.prev_id] {
            id.take_if(|id| id.len() > MAX_ID_BYTES);
        }
        if self.is_duplicate(&position, now) {
            return None;
        }
        if position.no_seq {
            self.has_later = true;
            return Some(vec![item]);
        }
        let mut ready = Vec::with_capacity(1);
        let in_order = match (&self.last_id, &position.prev_id) {
            (Some(last_id), Some(prev_id)) => last_id == prev_id,
            _ => true,
        };
        if in_order {
            self.advance(position, item, &mut ready);
            return Some(ready);
        }
        self.waiting_bytes += position.size;
        self.waiting.push_back(Waiting {
            deadline: now + REORDER_TIMEOUT,
            position,
            item,
        });
        while self.waiting.len() > MAX_REORDERED_ITEMS || self.waiting_bytes > MAX_REORDERED_BYTES {
            self.skip_gap(&mut ready);
        }
        Some(ready)
    }

    /// Returns the items whose deadline has passed at `now`, and those that follow them.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<T> {
        let mut ready = Vec::new();
        while self.deadline().is_some_and(|deadline| deadline <= now) {
            self.skip_gap(&mut ready);
        }
        ready
    }

    /// Returns when [`Self::expire`] must be called next; `None` while nothing waits.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.front().map(|waiting| waiting.deadline)
    }

    /// Returns the id of the last item published, if it had one.
    pub(super) fn last_id(&self) -> Option<&Id> {
        self.last_id.as_ref()
    }

    /// Records the id of an item that was ordered elsewhere.
    pub(super) fn set_last_id(&mut self, id: Option<Id>) {
        self.last_id = id.filter(|id| id.len() <= MAX_ID_BYTES);
    }

    /// Returns whether nothing was published after the item with this id.
    pub(super) fn is_last(&self, id: &str) -> bool {
        self.last_id.as_deref() == Some(id) && !self.has_later
    }

    /// Forgets the last id, so that any next item is in order.
    pub(super) fn forget_last_id(&mut self) {
        self.last_id = None;
    }

    /// Returns whether there is nothing to remember.
    pub(super) fn is_empty(&self) -> bool {
        self.last_id.is_none() && self.waiting.is_empty() && self.seen.is_empty()
    }

    /// Publishes the oldest waiting item without its predecessor.
    fn skip_gap(&mut self, ready: &mut Vec<T>) {
        if let Some(first) = self.remove(0) {
            self.advance(first.position, first.item, ready);
        }
    }

    /// Publishes an item and the waiting items that follow it.
    fn advance(&mut self, position: Position, item: T, ready: &mut Vec<T>) {
        self.last_id = position.id;
        self.has_later = false;
        ready.push(item);
        while let Some(last_id) = &self.last_id {
            let follows = |waiting: &Waiting<T>| waiting.position.prev_id.as_ref() == Some(last_id);
            let Some(index) = self.waiting.iter().position(follows) else {
                return;
            };
            if let Some(next) = self.remove(index) {
                self.last_id = next.position.id;
                ready.push(next.item);
            }
        }
    }

    fn remove(&mut self, index: usize) -> Option<Waiting<T>> {
        let waiting = self.waiting.remove(index)?;
        self.waiting_bytes -= waiting.position.size;
        Some(waiting)
    }

    fn is_duplicate(&mut self, position: &Position, now: Instant) -> bool {
        let is_expired = |(seen, _): &(Instant, Id)| *seen + KNOWN_ID_LIFETIME <= now;
        while self.seen.len() >= KNOWN_IDS_PER_CHANNEL || self.seen.front().is_some_and(is_expired)
        {
            if let Some((_, id)) = self.seen.pop_front() {
                self.seen_ids.remove(&id);
            }
        }
        let Some(id) = &position.id else { return false };
        if !self.seen_ids.insert(id.clone()) {
            return true;
        }
        self.seen.push_back((now, id.clone()));
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn position(id: u32, prev_id: Option<u32>) -> Position {
        Position {
            id: Some(id.to_string().into()),
            prev_id: prev_id.map(|id| id.to_string().into()),
            ..Position::default()
        }
    }

    /// Publishes an item, which may be a duplicate.
    fn publish<T>(
        sequencer: &mut Sequencer<T>,
        position: Position,
        item: T,
        now: Instant,
    ) -> Vec<T> {
        sequencer.publish(position, item, now).unwrap_or_default()
    }

    /// The position `id` of a chain that begins with 1.
    fn link(id: u32) -> Position {
        position(id, id.checked_sub(1))
    }

    #[test]
    fn waiting_items_follow_the_missing_one() {
        let (mut sequencer, now) = (Sequencer::default(), Instant::now());
        assert_eq!(publish(&mut sequencer, link(1), 1, now), [1]);
        assert!(publish(&mut sequencer, link(4), 4, now).is_empty());
        assert!(publish(&mut sequencer, link(3), 3, now).is_empty());
        assert_eq!(publish(&mut sequencer, link(2), 2, now), [2, 3, 4]);
        assert_eq!(sequencer.deadline(), None);
        assert_eq!(sequencer.last_id().map(|id| &**id), Some("4"));
    }

    #[test]
    fn expired_items_are_published_with_their_followers() {
        let (mut sequencer, now) = (Sequencer::default(), Instant::now());
        publish(&mut sequencer, link(1), 1, now);
        publish(&mut sequencer, link(3), 3, now);
        publish(&mut sequencer, link(4), 4, now + Duration::from_secs(1));
        assert_eq!(sequencer.deadline(), Some(now + REORDER_TIMEOUT));
        assert!(
            sequencer
                .expire(now + REORDER_TIMEOUT - Duration::from_millis(1))
                .is_empty()
        );
        assert_eq!(sequencer.expire(now + REORDER_TIMEOUT), [3, 4]);
        // Too late: its predecessor is not the last item anymore.
        assert!(publish(&mut sequencer, link(2), 2, now + REORDER_TIMEOUT).is_empty());
        assert_eq!(sequencer.expire(now + 2 * REORDER_TIMEOUT), [2]);
    }

    #[test]
    fn duplicates_are_dropped_for_a_minute() {
        let (mut sequencer, now) = (Sequencer::default(), Instant::now());
        let unordered = || Position {
            id: Some("1".into()),
            no_seq: true,
            ..Position::default()
        };
        assert_eq!(publish(&mut sequencer, link(1), 'a', now), ['a']);
        assert!(sequencer.publish(unordered(), 'b', now).is_none());
        assert!(
            sequencer
                .publish(link(1), 'c', now + KNOWN_ID_LIFETIME / 2)
                .is_none()
        );
        assert_eq!(
            publish(&mut sequencer, unordered(), 'd', now + KNOWN_ID_LIFETIME),
            ['d']
        );
    }

    #[test]
    fn items_without_order_are_published_at_once() {
        let (mut sequencer, now) = (Sequencer::default(), Instant::now());
        publish(&mut sequencer, link(1), 1, now);
        let unordered = Position {
            no_seq: true,
            ..link(5)
        };
        assert_eq!(publish(&mut sequencer, unordered, 5, now), [5]);
        assert_eq!(publish(&mut sequencer, link(2), 2, now), [2]);
        // An item without an id leaves no last id.
        assert_eq!(publish(&mut sequencer, Position::default(), 0, now), [0]);
        assert_eq!(publish(&mut sequencer, link(9), 9, now), [9]);
    }

    #[test]
    fn the_number_and_size_of_waiting_items_are_limited() {
        let (mut sequencer, now) = (Sequencer::default(), Instant::now());
        publish(&mut sequencer, position(0, None), 0, now);
        for n in 0..MAX_REORDERED_ITEMS as u32 {
            let id = 10 + 2 * n;
            assert!(publish(&mut sequencer, link(id), id, now).is_empty());
        }
        assert_eq!(publish(&mut sequencer, link(9000), 9000, now), [10]);
        let large = Position {
            size: MAX_REORDERED_BYTES + 1,
            ..link(9002)
        };
        let out = publish(&mut sequencer, large, 9002, now);
        assert_eq!(
            (out.len(), out.last()),
            (MAX_REORDERED_ITEMS + 1, Some(&9002))
        );
        assert_eq!((sequencer.waiting_bytes, sequencer.deadline()), (0, None));
    }

    #[test]
    fn long_ids_are_ignored() {
        let (mut sequencer, now) = (Sequencer::default(), Instant::now());
        let long = Position {
            id: Some("x".repeat(MAX_ID_BYTES + 1).into()),
            ..Position::default()
        };
        assert_eq!(publish(&mut sequencer, long.clone(), 1, now), [1]);
        assert_eq!(publish(&mut sequencer, long, 2, now), [2]);
        assert!(sequencer.is_empty());
    }

    #[test]
    fn the_number_of_remembered_ids_is_limited() {
        let (mut sequencer, now) = (Sequencer::default(), Instant::now());
        for id in 1..=3 * KNOWN_IDS_PER_CHANNEL as u32 {
            assert_eq!(publish(&mut sequencer, link(id), id, now), [id]);
        }
        assert_eq!(sequencer.seen.len(), KNOWN_IDS_PER_CHANNEL);
        assert_eq!(sequencer.seen_ids.len(), KNOWN_IDS_PER_CHANNEL);
    }

    proptest! {
        /// In any order of arrival, and with duplicates: each item is published once, in order, and
        /// as soon as its predecessors have arrived.
        #[test]
        fn any_order_of_arrival_is_sorted(
            arrivals in (2..MAX_REORDERED_ITEMS as u32).prop_flat_map(|most| {
                (Just((1..=most).collect::<Vec<_>>()).prop_shuffle(), proptest::collection::vec(1..=most, 0..50))
            }),
            gap in 0..50_u64,
        ) {
            let (order, repeats) = arrivals;
            let most = order.len() as u32;
            let (mut sequencer, mut now) = (Sequencer::default(), Instant::now());
            let mut out = publish(&mut sequencer, position(0, None), 0, now);
            for (n, id) in order.iter().enumerate() {
                // All items arrive before the first deadline.
                now += Duration::from_millis(gap);
                out.extend(publish(&mut sequencer, link(*id), *id, now));
                if let Some(repeat) = repeats.get(n) && order[..=n].contains(repeat) {
                    prop_assert_eq!(publish(&mut sequencer, link(*repeat), *repeat, now), Vec::<u32>::new());
                }
                // Nothing waits without need.
                let published = (1..).take_while(|id| order[..=n].contains(id)).count();
                prop_assert_eq!(out.len(), 1 + published);
            }
            prop_assert_eq!(out, (0..=most).collect::<Vec<_>>());
            prop_assert_eq!(sequencer.deadline(), None);
        }

        /// With any items missing: nothing is lost or published twice, and what waits stays within
        /// the limits on time, number and size.
        #[test]
        fn nothing_is_lost_and_waiting_is_limited(
            arrivals in proptest::collection::vec((0..400_u32, proptest::option::of(0..400_u32), any::<bool>(), 0..2000_u64), 0..400),
        ) {
            let (mut sequencer, mut now) = (Sequencer::default(), Instant::now());
            let (mut arrived, mut out) = (std::collections::HashMap::new(), HashSet::new());
            for (id, prev_id, no_seq, gap) in arrivals {
                now += Duration::from_millis(gap.saturating_sub(1000));
                let mut ready = sequencer.expire(now);
                let position = Position { no_seq, size: 100_000, ..position(id, prev_id) };
                // An id that is repeated after it was forgotten is ignored here.
                let is_new = arrived.insert(id, now).is_none();
                let published = publish(&mut sequencer, position, (id, is_new), now);
                ready.extend(published);
                for (id, is_new) in ready {
                    if is_new {
                        prop_assert!(out.insert(id), "{} twice", id);
                    }
                }
                prop_assert!(sequencer.waiting.len() <= MAX_REORDERED_ITEMS);
                prop_assert!(sequencer.waiting_bytes <= MAX_REORDERED_BYTES);
                for waiting in &sequencer.waiting {
                    prop_assert!(waiting.deadline > now && waiting.deadline <= now + REORDER_TIMEOUT);
                }
            }
            for (id, is_new) in sequencer.expire(now + REORDER_TIMEOUT) {
                if is_new {
                    prop_assert!(out.insert(id), "{} twice", id);
                }
            }
            prop_assert_eq!(out.len(), arrived.len());
            prop_assert_eq!(sequencer.deadline(), None);
        }
    }
}
