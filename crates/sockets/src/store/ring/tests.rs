//! Tests of concurrent writers that interleave at any call and are killed at any call.

use std::{
    future::Future,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use proptest::prelude::*;

use super::*;
use crate::{store::Memory, testing::block_on};

/// An id other than the default, so that mixing up ids and counts is noticed.
const START: u64 = 7;

fn ring(capacity: u64) -> Ring<Memory> {
    let ring = Ring::in_store(Memory::default(), "log");
    ring.keep(capacity).starting_at(START)
}

/// Returns the ids and numbers of the entries after `id`.
fn entries_after(ring: &Ring<Memory>, id: u64) -> Vec<(u64, usize)> {
    parse(block_on(ring.after(id, u64::MAX)).unwrap())
}

fn parse(entries: Vec<Entry>) -> Vec<(u64, usize)> {
    let entries = entries.iter();
    entries
        .map(|entry| (entry.id, entry.json().unwrap()))
        .collect()
}

fn append(ring: &Ring<Memory>, number: usize) -> u64 {
    let entry = block_on(ring.append(|_| number.to_string().into()));
    entry.unwrap().id
}

/// An action of one of several writers.
#[derive(Clone, Copy, Debug)]
enum Action {
    /// The writer makes its next call to the store.
    Step(usize),
    /// The writer is killed between two calls.
    Kill(usize),
}

fn actions(writers: usize) -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        20 => (0..writers).prop_map(Action::Step),
        1 => (0..writers).prop_map(Action::Kill),
    ];
    prop::collection::vec(action, 0..400)
}

/// Lets writers append numbered entries, in the given sequence of actions.
///
/// A writer starts another entry when it has appended one, or was killed. Returns the ids and
/// numbers of the entries whose addition was confirmed.
fn run(ring: &Ring<Memory>, writers: usize, actions: &[Action]) -> Vec<(u64, usize)> {
    type Append<'a> = Pin<Box<dyn Future<Output = Result<(u64, usize), StoreError>> + 'a>>;

    let mut started = 0;
    let mut start = || -> Append<'_> {
        started += 1;
        let number = started;
        Box::pin(async move { Ok((ring.push(&number).await?, number)) })
    };
    let mut running: Vec<Append> = (0..writers).map(|_| start()).collect();
    let mut added = Vec::new();
    for action in actions {
        match *action {
            Action::Kill(writer) => running[writer] = start(),
            Action::Step(writer) => {
                let mut context = Context::from_waker(Waker::noop());
                if let Poll::Ready(entry) = running[writer].as_mut().poll(&mut context) {
                    added.push(entry.unwrap());
                    running[writer] = start();
                }
            }
        }
    }
    added
}

/// Returns the keys that belong to entries before `oldest`.
fn keys_before(memory: &Memory, oldest: u64) -> Vec<String> {
    let mut keys = memory.keys();
    keys.retain(|key| {
        let id = key.split('/').nth(1).and_then(|id| id.parse::<u64>().ok());
        id.is_some_and(|id| id < oldest)
    });
    keys
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn ids_are_unique_and_have_no_gaps(actions in actions(3)) {
        let ring = ring(1000);
        ring.storage.set_yielding(true);
        let added = run(&ring, 3, &actions);
        ring.storage.set_yielding(false);
        // This writer completes what the killed ones left behind.
        let last = append(&ring, 0);

        let entries = entries_after(&ring, 0);
        let ids: Vec<u64> = entries.iter().map(|entry| entry.0).collect();
        prop_assert_eq!(ids, (START..=last).collect::<Vec<_>>());
        for entry in &added {
            prop_assert_eq!(&entries[(entry.0 - START) as usize], entry);
        }
        // No entry was stored under two ids.
        let mut numbers: Vec<_> = entries.iter().map(|entry| entry.1).collect();
        numbers.sort();
        numbers.dedup();
        prop_assert_eq!(numbers.len(), entries.len());
    }

    #[test]
    fn only_the_newest_entries_are_kept(actions in actions(3)) {
        let ring = ring(5);
        ring.storage.set_yielding(true);
        run(&ring, 3, &actions);
        ring.storage.set_yielding(false);
        let mut last = block_on(ring.last_id()).unwrap();
        for _ in 0..PRUNE_IDS {
            last = block_on(ring.push(&0)).unwrap();
        }
        let ids: Vec<u64> = entries_after(&ring, 0).iter().map(|entry| entry.0).collect();
        prop_assert_eq!(ids, (last - 4..=last).collect::<Vec<_>>());
    }

    #[test]
    fn concurrent_readers_see_no_gaps(actions in actions(2), known in START - 2..START + 10) {
        let ring = ring(1000);
        ring.storage.set_yielding(true);
        let mut reader = pin!(ring.after(known, 1000));
        let mut context = Context::from_waker(Waker::noop());
        for actions in actions.chunks(7) {
            run(&ring, 2, actions);
            if let Poll::Ready(entries) = reader.as_mut().poll(&mut context) {
                for (entry, id) in entries.unwrap().iter().zip(known.max(START - 1) + 1..) {
                    prop_assert_eq!(entry.id, id);
                }
                break;
            }
        }
    }

    #[test]
    fn no_update_is_lost(first_steps in 0usize..8, second_steps in 0usize..8) {
        let ring = ring(10);
        append(&ring, 0);
        ring.storage.set_yielding(true);
        let update = || ring.update::<StoreError>(START, |entry| {
            let number: u32 = entry.json()?;
            Ok((number + 1).to_string().into())
        });
        let (mut first, mut second) = (pin!(update()), pin!(update()));
        let mut context = Context::from_waker(Waker::noop());
        let mut done = [false; 2];
        for (which, steps) in [(0, first_steps), (1, second_steps), (0, 99), (1, 99)] {
            for _ in 0..steps {
                if done[which] {
                    break;
                }
                let update = if which == 0 { first.as_mut() } else { second.as_mut() };
                if let Poll::Ready(result) = update.poll(&mut context) {
                    done[which] = true;
                    prop_assert!(result.unwrap().is_some());
                }
            }
        }
        prop_assert_eq!(done, [true; 2]);
        ring.storage.set_yielding(false);
        prop_assert_eq!(entries_after(&ring, 0), [(START, 2)]);
    }
}

#[test]
fn a_writer_killed_at_any_call_leaves_no_gap() {
    for steps in 0.. {
        let ring = ring(1);
        ring.storage.set_yielding(true);
        let actions = [vec![Action::Step(0); steps], vec![Action::Kill(0)]].concat();
        let added = run(&ring, 1, &actions);
        ring.storage.set_yielding(false);
        let last_counted = block_on(ring.last_id()).unwrap();
        let next = block_on(ring.push(&0)).unwrap();
        // The killed writer may have stored one entry without counting it, but no more.
        assert!((last_counted + 1..=last_counted + 2).contains(&next));
        assert!(next <= START + 1 + added.len() as u64);
        assert_eq!(entries_after(&ring, 0), [(next, 0)], "after {steps} calls");
        let last = block_on(ring.push(&1)).unwrap();
        assert_eq!(last, next + 1);
        assert_eq!(entries_after(&ring, 0), [(last, 1)], "after {steps} calls");
        // Pruning also removes entries under claims that did not win.
        assert_eq!(
            keys_before(&ring.storage, last),
            Vec::<String>::new(),
            "after {steps} calls"
        );
        if added.len() == 2 {
            return;
        }
    }
}

#[test]
fn a_writer_makes_progress_when_another_interferes_at_any_call() {
    /// More calls than it takes to append an entry after another writer has appended one.
    const ENOUGH: usize = 40;

    for (steps, others) in (0..ENOUGH).flat_map(|a| (0..ENOUGH).map(move |b| (a, b))) {
        let ring = ring(1000);
        ring.storage.set_yielding(true);
        let actions = [
            vec![Action::Step(0); steps],
            vec![Action::Step(1); others],
            vec![Action::Step(0); ENOUGH],
        ];
        let added = run(&ring, 2, &actions.concat());
        // With this many uninterrupted calls, a writer appends two entries at least.
        assert!(
            added.len() >= 2,
            "after {steps} and {others} calls: {added:?}"
        );
    }
}

#[test]
fn numbers_of_a_redis_store_are_decimal() {
    let ring = ring(3);
    ring.storage.set_decimal(true);
    for id in START..START + 5 {
        assert_eq!(block_on(ring.push(&0)).unwrap(), id);
    }
    assert_eq!(ring.storage.value("log/count"), Some(b"5".to_vec()));
    // The first claim has won the slot.
    let slot = (1_i64 << 32 | 1).to_string();
    assert_eq!(ring.storage.value("log/11"), Some(slot.into_bytes()));
    assert_eq!(ring.storage.value("log/8"), None);
    assert_eq!(entries_after(&ring, 0), [(9, 0), (10, 0), (11, 0)]);
}

#[test]
fn entries_are_read_by_id() {
    let ring = ring(3);
    assert!(block_on(ring.ids()).unwrap().is_empty());
    assert_eq!(block_on(ring.latest(5)).unwrap(), []);
    for number in 0..5 {
        block_on(ring.push(&number)).unwrap();
    }
    assert_eq!(block_on(ring.ids()).unwrap(), 9..=11);
    assert_eq!(block_on(ring.get(8)).unwrap(), None);
    assert_eq!(block_on(ring.get(12)).unwrap(), None);
    let entry = block_on(ring.get(9)).unwrap().unwrap();
    assert_eq!((entry.id, entry.json::<u32>()), (9, Ok(2)));
    let read = |entries: Result<Vec<Entry>, StoreError>| parse(entries.unwrap());
    assert_eq!(read(block_on(ring.latest(2))), [(10, 3), (11, 4)]);
    assert_eq!(read(block_on(ring.after(0, 2))), [(9, 2), (10, 3)]);
    assert_eq!(read(block_on(ring.after(11, 2))), []);
    assert_eq!(read(block_on(ring.after(u64::MAX, 2))), []);
    let unchanged = block_on(ring.update::<StoreError>(8, |_| Ok(Vec::new())));
    assert_eq!(unchanged, Ok(None));
}

#[test]
fn corrupt_values_are_errors() {
    let ring = ring(3);
    let set = |key: &str, value: &[u8]| {
        block_on(ring.storage.set(key, value.to_vec())).unwrap();
    };
    set("log/count", b"ten");
    let error = block_on(ring.latest(1)).unwrap_err();
    assert_eq!(error, StoreError::corrupt("log/count", "a number"));
    for count in [-1, i64::MIN] {
        set("log/count", &count.to_le_bytes());
        assert!(block_on(ring.latest(1)).is_err(), "{count}");
        set("log/count", count.to_string().as_bytes());
        assert!(block_on(ring.latest(1)).is_err(), "{count}");
    }
    set("log/count", b"0");
    append(&ring, 0);
    set("log/7/1", b"{}");
    let entry = block_on(ring.get(START)).unwrap().unwrap();
    assert_eq!(
        entry.json::<u32>().unwrap_err().to_string(),
        "key \"log/7/1\" of the key-value store does not hold JSON for u32: remove the key or the store"
    );
}
