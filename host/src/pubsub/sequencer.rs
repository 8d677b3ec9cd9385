//! The order of one channel: each publication after the one it follows, and each once.
//!
//! A publication may say which one it follows (`prev-id`). When that is not the last one seen,
//! it waits for the missing one, but not for long and not in any number. The bounds are
//! Pushpin's; what is over them goes out of order here instead of being lost.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

/// How long a publication waits for the one it follows.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// The most publications that wait on one channel.
pub(crate) const MAX_WAITING: usize = 100;
/// The most bytes that wait on one channel.
pub(crate) const MAX_WAITING_BYTES: usize = 4 * 1024 * 1024;
/// How long an id is known as seen.
pub(crate) const REMEMBERED: Duration = Duration::from_secs(60);
/// The most ids that are known as seen.
pub(crate) const MAX_REMEMBERED: usize = 1000;
/// The longest id that is remembered, in bytes. A longer one orders and repeats as it likes.
pub(crate) const MAX_ID: usize = 1024;

/// An id on a channel.
pub(crate) type Id = Arc<str>;

/// Where a publication says it belongs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// Its own id.
    pub(crate) id: Option<Id>,
    /// The id of the one it follows.
    pub(crate) prev_id: Option<Id>,
    /// It goes out as it comes (`no-seq`).
    pub(crate) no_seq: bool,
    /// The bytes that it counts for while it waits.
    pub(crate) size: usize,
}

/// See the module's words.
#[derive(Debug)]
pub(crate) struct Sequencer<T> {
    /// The id of the last one that went out, when it had one.
    last: Option<Id>,
    /// In the order of their arrival, and so of their deadlines.
    waiting: VecDeque<Waiting<T>>,
    waiting_bytes: usize,
    /// In the order of their arrival.
    seen: VecDeque<(Instant, Id)>,
    seen_ids: HashSet<Id>,
}

#[derive(Debug)]
struct Waiting<T> {
    deadline: Instant,
    place: Position,
    item: T,
}

impl<T> Default for Sequencer<T> {
    fn default() -> Self {
        Self {
            last: None,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            seen: VecDeque::new(),
            seen_ids: HashSet::new(),
        }
    }
}

impl<T> Sequencer<T> {
    /// Takes what is published at `now`, and gives what goes out for it, in this order; `None` when
    /// its id has been there.
    pub(crate) fn offer(&mut self, mut place: Position, item: T, now: Instant) -> Option<Vec<T>> {
        for id in [&mut place.id, &mut place.prev_id] {
            id.take_if(|id| id.len() > MAX_ID);
        }
        if self.is_repeated(&place, now) {
            return None;
        }
        if place.no_seq {
            return Some(vec![item]);
        }
        let mut ready = Vec::with_capacity(1);
        let in_order = match (&self.last, &place.prev_id) {
            (Some(last), Some(prev_id)) => last == prev_id,
            _ => true,
        };
        if in_order {
            self.release(place, item, &mut ready);
            return Some(ready);
        }
        self.waiting_bytes += place.size;
        self.waiting.push_back(Waiting {
            deadline: now + PATIENCE,
            place,
            item,
        });
        while self.waiting.len() > MAX_WAITING || self.waiting_bytes > MAX_WAITING_BYTES {
            self.give_up(&mut ready);
        }
        Some(ready)
    }

    /// Gives what has waited long enough at `now`, and what follows it.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<T> {
        let mut ready = Vec::new();
        while self.deadline().is_some_and(|deadline| deadline <= now) {
            self.give_up(&mut ready);
        }
        ready
    }

    /// When [`Self::expire`] has something to give; `None` while nothing waits.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.waiting.front().map(|waiting| waiting.deadline)
    }

    /// The id of the last one that went out, when it had one.
    pub(crate) fn last(&self) -> Option<&Id> {
        self.last.as_ref()
    }

    /// Forgets the last id: whatever comes next is in order.
    pub(crate) fn forget(&mut self) {
        self.last = None;
    }

    /// Whether there is nothing to remember.
    pub(crate) fn is_blank(&self) -> bool {
        self.last.is_none() && self.waiting.is_empty() && self.seen.is_empty()
    }

    /// The oldest of those that wait goes out.
    fn give_up(&mut self, ready: &mut Vec<T>) {
        if let Some(first) = self.take(0) {
            self.release(first.place, first.item, ready);
        }
    }

    fn release(&mut self, place: Position, item: T, ready: &mut Vec<T>) {
        self.last = place.id;
        ready.push(item);
        while let Some(last) = &self.last {
            let follows = |waiting: &Waiting<T>| waiting.place.prev_id.as_ref() == Some(last);
            let Some(next) = self.waiting.iter().position(follows) else {
                return;
            };
            if let Some(next) = self.take(next) {
                self.last = next.place.id;
                ready.push(next.item);
            }
        }
    }

    fn take(&mut self, index: usize) -> Option<Waiting<T>> {
        let taken = self.waiting.remove(index)?;
        self.waiting_bytes -= taken.place.size;
        Some(taken)
    }

    fn is_repeated(&mut self, place: &Position, now: Instant) -> bool {
        let is_old = |(seen, _): &(Instant, Id)| *seen + REMEMBERED <= now;
        while self.seen.len() >= MAX_REMEMBERED || self.seen.front().is_some_and(is_old) {
            if let Some((_, id)) = self.seen.pop_front() {
                self.seen_ids.remove(&id);
            }
        }
        let Some(id) = &place.id else { return false };
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

    fn place(id: u32, prev_id: Option<u32>) -> Position {
        Position {
            id: Some(id.to_string().into()),
            prev_id: prev_id.map(|id| id.to_string().into()),
            ..Position::default()
        }
    }

    /// What goes out for one whose id may have been there.
    fn offer<T>(sequencer: &mut Sequencer<T>, place: Position, item: T, now: Instant) -> Vec<T> {
        sequencer.offer(place, item, now).unwrap_or_default()
    }

    /// The `id`th of a chain that begins with 1.
    fn link(id: u32) -> Position {
        place(id, id.checked_sub(1))
    }

    #[test]
    fn the_missing_one_brings_those_that_waited() {
        let (mut sequencer, now) = (Sequencer::default(), Instant::now());
        assert_eq!(offer(&mut sequencer, link(1), 1, now), [1]);
        assert!(offer(&mut sequencer, link(4), 4, now).is_empty());
        assert!(offer(&mut sequencer, link(3), 3, now).is_empty());
        assert_eq!(offer(&mut sequencer, link(2), 2, now), [2, 3, 4]);
        assert_eq!(sequencer.deadline(), None);
        assert_eq!(sequencer.last().map(|id| &**id), Some("4"));
    }

    #[test]
    fn what_waits_in_vain_goes_out_and_takes_its_followers_along() {
        let (mut sequencer, now) = (Sequencer::default(), Instant::now());
        offer(&mut sequencer, link(1), 1, now);
        offer(&mut sequencer, link(3), 3, now);
        offer(&mut sequencer, link(4), 4, now + Duration::from_secs(1));
        assert_eq!(sequencer.deadline(), Some(now + PATIENCE));
        assert!(
            sequencer
                .expire(now + PATIENCE - Duration::from_millis(1))
                .is_empty()
        );
        assert_eq!(sequencer.expire(now + PATIENCE), [3, 4]);
        // Too late: it follows nothing that is last.
        assert!(offer(&mut sequencer, link(2), 2, now + PATIENCE).is_empty());
        assert_eq!(sequencer.expire(now + 2 * PATIENCE), [2]);
    }

    #[test]
    fn an_id_goes_out_once_for_a_minute() {
        let (mut sequencer, now) = (Sequencer::default(), Instant::now());
        let unordered = || Position {
            id: Some("1".into()),
            no_seq: true,
            ..Position::default()
        };
        assert_eq!(offer(&mut sequencer, link(1), 'a', now), ['a']);
        assert!(sequencer.offer(unordered(), 'b', now).is_none());
        assert!(
            sequencer
                .offer(link(1), 'c', now + REMEMBERED / 2)
                .is_none()
        );
        assert_eq!(
            offer(&mut sequencer, unordered(), 'd', now + REMEMBERED),
            ['d']
        );
    }

    #[test]
    fn what_is_not_ordered_goes_out_at_once() {
        let (mut sequencer, now) = (Sequencer::default(), Instant::now());
        offer(&mut sequencer, link(1), 1, now);
        let unordered = Position {
            no_seq: true,
            ..link(5)
        };
        assert_eq!(offer(&mut sequencer, unordered, 5, now), [5]);
        assert_eq!(offer(&mut sequencer, link(2), 2, now), [2]);
        // Without an id nothing is known to be last.
        assert_eq!(offer(&mut sequencer, Position::default(), 0, now), [0]);
        assert_eq!(offer(&mut sequencer, link(9), 9, now), [9]);
    }

    #[test]
    fn so_many_wait_and_no_more() {
        let (mut sequencer, now) = (Sequencer::default(), Instant::now());
        offer(&mut sequencer, place(0, None), 0, now);
        for n in 0..MAX_WAITING as u32 {
            let id = 10 + 2 * n;
            assert!(offer(&mut sequencer, link(id), id, now).is_empty());
        }
        assert_eq!(offer(&mut sequencer, link(9000), 9000, now), [10]);
        let large = Position {
            size: MAX_WAITING_BYTES + 1,
            ..link(9002)
        };
        let out = offer(&mut sequencer, large, 9002, now);
        assert_eq!((out.len(), out.last()), (MAX_WAITING + 1, Some(&9002)));
        assert_eq!((sequencer.waiting_bytes, sequencer.deadline()), (0, None));
    }

    #[test]
    fn a_long_id_is_not_kept() {
        let (mut sequencer, now) = (Sequencer::default(), Instant::now());
        let long = Position {
            id: Some("x".repeat(MAX_ID + 1).into()),
            ..Position::default()
        };
        assert_eq!(offer(&mut sequencer, long.clone(), 1, now), [1]);
        assert_eq!(offer(&mut sequencer, long, 2, now), [2]);
        assert!(sequencer.is_blank());
    }

    #[test]
    fn few_ids_are_remembered() {
        let (mut sequencer, now) = (Sequencer::default(), Instant::now());
        for id in 1..=3 * MAX_REMEMBERED as u32 {
            assert_eq!(offer(&mut sequencer, link(id), id, now), [id]);
        }
        assert_eq!(sequencer.seen.len(), MAX_REMEMBERED);
        assert_eq!(sequencer.seen_ids.len(), MAX_REMEMBERED);
    }

    proptest! {
        /// Whatever the order of arrival, repeats included: in order, each once, at once when
        /// the missing one is there.
        #[test]
        fn any_order_within_the_bounds_comes_out_in_order(
            arrivals in (2..MAX_WAITING as u32).prop_flat_map(|most| {
                (Just((1..=most).collect::<Vec<_>>()).prop_shuffle(), proptest::collection::vec(1..=most, 0..50))
            }),
            gap in 0..50_u64,
        ) {
            let (order, repeats) = arrivals;
            let most = order.len() as u32;
            let (mut sequencer, mut now) = (Sequencer::default(), Instant::now());
            let mut out = offer(&mut sequencer, place(0, None), 0, now);
            for (n, id) in order.iter().enumerate() {
                // All of them come within the patience.
                now += Duration::from_millis(gap);
                out.extend(offer(&mut sequencer, link(*id), *id, now));
                if let Some(repeat) = repeats.get(n) && order[..=n].contains(repeat) {
                    prop_assert_eq!(offer(&mut sequencer, link(*repeat), *repeat, now), Vec::<u32>::new());
                }
                // Nothing is held back that could go.
                let reach = (1..).take_while(|id| order[..=n].contains(id)).count();
                prop_assert_eq!(out.len(), 1 + reach);
            }
            prop_assert_eq!(out, (0..=most).collect::<Vec<_>>());
            prop_assert_eq!(sequencer.deadline(), None);
        }

        /// Whatever is missing: nothing is lost, nothing comes twice, nothing waits longer
        /// than the bound, and not more than the bound.
        #[test]
        fn nothing_is_lost_or_waits_for_long(
            arrivals in proptest::collection::vec((0..400_u32, proptest::option::of(0..400_u32), any::<bool>(), 0..2000_u64), 0..400),
        ) {
            let (mut sequencer, mut now) = (Sequencer::default(), Instant::now());
            let (mut came, mut out) = (std::collections::HashMap::new(), HashSet::new());
            for (id, prev_id, no_seq, gap) in arrivals {
                now += Duration::from_millis(gap.saturating_sub(1000));
                let mut ready = sequencer.expire(now);
                let place = Position { no_seq, size: 100_000, ..place(id, prev_id) };
                // One id may come again after it was forgotten; this is about those that did not.
                let is_new = came.insert(id, now).is_none();
                let offered = offer(&mut sequencer, place, (id, is_new), now);
                ready.extend(offered);
                for (id, is_new) in ready {
                    if is_new {
                        prop_assert!(out.insert(id), "{} twice", id);
                    }
                }
                prop_assert!(sequencer.waiting.len() <= MAX_WAITING);
                prop_assert!(sequencer.waiting_bytes <= MAX_WAITING_BYTES);
                for waiting in &sequencer.waiting {
                    prop_assert!(waiting.deadline > now && waiting.deadline <= now + PATIENCE);
                }
            }
            for (id, is_new) in sequencer.expire(now + PATIENCE) {
                if is_new {
                    prop_assert!(out.insert(id), "{} twice", id);
                }
            }
            prop_assert_eq!(out.len(), came.len());
            prop_assert_eq!(sequencer.deadline(), None);
        }
    }
}
