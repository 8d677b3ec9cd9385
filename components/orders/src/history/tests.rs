//! Tests of concurrent writers that interleave at any call and are killed at any call.

use std::{
    future::Future,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use proptest::prelude::*;

use super::*;
use crate::testing::{MemoryStorage, ready, sample_order};

fn history(capacity: u64) -> History<MemoryStorage> {
    History {
        storage: MemoryStorage::default(),
        capacity,
    }
}

fn orders_after(history: &History<MemoryStorage>, id: u64) -> Vec<Order> {
    let orders = ready(history.after(id, u64::MAX)).unwrap();
    let orders = orders
        .iter()
        .map(|order| serde_json::from_slice(order).unwrap());
    orders.collect()
}

fn numbered_order(number: usize) -> Order {
    Order {
        notes: vec![format!("order {number}")],
        ..sample_order()
    }
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

/// Lets writers add orders, in the given sequence of actions.
///
/// A writer starts another order when it has added one, or was killed. Returns the orders whose
/// addition was confirmed.
fn run(history: &History<MemoryStorage>, writers: usize, actions: &[Action]) -> Vec<Order> {
    type AddFuture<'a> = Pin<Box<dyn Future<Output = Result<Order, HistoryError>> + 'a>>;

    let mut started = 0;
    let mut start = || -> AddFuture<'_> {
        started += 1;
        let order = numbered_order(started);
        Box::pin(async move {
            let order = history.add(order).await?;
            history.prune(order.id).await?;
            Ok(order)
        })
    };
    let mut running: Vec<AddFuture> = (0..writers).map(|_| start()).collect();
    let mut added = Vec::new();
    for action in actions {
        match *action {
            Action::Kill(writer) => running[writer] = start(),
            Action::Step(writer) => {
                let mut context = Context::from_waker(Waker::noop());
                if let Poll::Ready(order) = running[writer].as_mut().poll(&mut context) {
                    added.push(order.unwrap());
                    running[writer] = start();
                }
            }
        }
    }
    added
}

/// Returns the keys that belong to orders before `oldest`.
fn keys_before(storage: &MemoryStorage, oldest: u64) -> Vec<String> {
    let values = storage.values.borrow();
    let mut keys: Vec<String> = values.keys().cloned().collect();
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
        let history = history(CAPACITY);
        history.storage.yields.set(true);
        let added = run(&history, 3, &actions);
        history.storage.yields.set(false);
        // This writer completes what the killed ones left behind.
        let last = ready(history.add(numbered_order(0))).unwrap();

        let orders = orders_after(&history, 0);
        let ids: Vec<u64> = orders.iter().map(|order| order.id).collect();
        prop_assert_eq!(ids, (FIRST_ID..=last.id).collect::<Vec<_>>());
        for order in &added {
            prop_assert_eq!(&orders[(order.id - FIRST_ID) as usize], order);
        }
        // No order was stored under two ids.
        let mut notes: Vec<_> = orders.iter().map(|order| &order.notes).collect();
        notes.sort();
        notes.dedup();
        prop_assert_eq!(notes.len(), orders.len());
    }

    #[test]
    fn only_the_newest_orders_are_kept(actions in actions(3)) {
        let history = history(5);
        history.storage.yields.set(true);
        run(&history, 3, &actions);
        history.storage.yields.set(false);
        let mut last = ready(history.last_id()).unwrap();
        for _ in 0..PRUNE_IDS {
            last = ready(history.add(numbered_order(0))).unwrap().id;
            ready(history.prune(last)).unwrap();
        }
        let ids: Vec<u64> = orders_after(&history, 0).iter().map(|order| order.id).collect();
        prop_assert_eq!(ids, (last - 4..=last).collect::<Vec<_>>());
    }

    #[test]
    fn concurrent_readers_see_no_gaps(actions in actions(2), known in 98u64..110) {
        let history = history(CAPACITY);
        history.storage.yields.set(true);
        let mut reader = pin!(history.after(known, 1000));
        let mut context = Context::from_waker(Waker::noop());
        for actions in actions.chunks(7) {
            run(&history, 2, actions);
            if let Poll::Ready(orders) = reader.as_mut().poll(&mut context) {
                let orders = orders.unwrap();
                let orders = orders.iter().map(|order| serde_json::from_slice::<Order>(order).unwrap());
                for (order, id) in orders.zip(known.max(FIRST_ID - 1) + 1..) {
                    prop_assert_eq!(order.id, id);
                }
                break;
            }
        }
    }

    #[test]
    fn one_of_two_concurrent_updates_succeeds(first_steps in 0usize..8, second_steps in 0usize..8) {
        let history = history(CAPACITY);
        ready(history.add(sample_order())).unwrap();
        history.storage.yields.set(true);
        let mut first = pin!(history.update(FIRST_ID, Status::Cancelled));
        let mut second = pin!(history.update(FIRST_ID, Status::Cancelled));
        let mut context = Context::from_waker(Waker::noop());
        let (mut results, mut done) = (Vec::new(), [false; 2]);
        let schedule = [(0, first_steps), (1, second_steps), (0, 99), (1, 99)];
        for (which, steps) in schedule {
            for _ in 0..steps {
                if done[which] {
                    break;
                }
                let update = if which == 0 { first.as_mut() } else { second.as_mut() };
                if let Poll::Ready(result) = update.poll(&mut context) {
                    done[which] = true;
                    results.push(result);
                }
            }
        }
        let invalid = UpdateError::InvalidTransition {
            id: FIRST_ID,
            from: Status::Cancelled,
            to: Status::Cancelled,
        };
        prop_assert_eq!(results.len(), 2);
        prop_assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
        prop_assert!(results.contains(&Err(invalid)));
    }
}

#[test]
fn a_writer_killed_at_any_call_leaves_no_gap() {
    for steps in 0.. {
        let history = history(1);
        history.storage.yields.set(true);
        let actions = [vec![Action::Step(0); steps], vec![Action::Kill(0)]].concat();
        let added = run(&history, 1, &actions);
        history.storage.yields.set(false);
        let last_counted = ready(history.last_id()).unwrap();
        let add = || {
            let order = ready(history.add(numbered_order(0))).unwrap();
            ready(history.prune(order.id)).unwrap();
            order
        };
        let next = add();
        // The killed writer may have stored one order without counting it, but no more.
        assert!((last_counted + 1..=last_counted + 2).contains(&next.id));
        assert!(next.id <= FIRST_ID + 1 + added.len() as u64);
        assert_eq!(
            orders_after(&history, 0),
            std::slice::from_ref(&next),
            "after {steps} calls"
        );
        let last = add();
        assert_eq!(last.id, next.id + 1);
        assert_eq!(
            orders_after(&history, 0),
            std::slice::from_ref(&last),
            "after {steps} calls"
        );
        // Pruning also removes orders under claims that did not win.
        assert_eq!(
            keys_before(&history.storage, last.id),
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
    /// More calls than it takes to add an order after another writer has added one.
    const ENOUGH: usize = 40;

    for (steps, others) in (0..ENOUGH).flat_map(|a| (0..ENOUGH).map(move |b| (a, b))) {
        let history = history(CAPACITY);
        history.storage.yields.set(true);
        let actions = [
            vec![Action::Step(0); steps],
            vec![Action::Step(1); others],
            vec![Action::Step(0); ENOUGH],
        ];
        let added = run(&history, 2, &actions.concat());
        // With this many uninterrupted calls, a writer adds two orders at least.
        assert!(
            added.len() >= 2,
            "after {steps} and {others} calls: {added:?}"
        );
    }
}

#[test]
fn numbers_of_a_redis_store_are_decimal() {
    let history = history(3);
    history.storage.is_decimal.set(true);
    let value = |key: &str| history.storage.values.borrow().get(key).cloned();
    for id in 100..105 {
        let order = ready(history.add(sample_order())).unwrap();
        assert_eq!(order.id, id);
        ready(history.prune(id)).unwrap();
    }
    ready(history.update(104, Status::Fired)).unwrap();
    assert_eq!(value(COUNT_KEY), Some(b"5".to_vec()));
    // The first claim has won the slot.
    let slot = (1_i64 << 32 | 1).to_string();
    assert_eq!(value("orders/104"), Some(slot.into_bytes()));
    assert_eq!(value("orders/101"), None);
    let ids: Vec<u64> = orders_after(&history, 0)
        .iter()
        .map(|order| order.id)
        .collect();
    assert_eq!(ids, [102, 103, 104]);
}

#[test]
fn corrupt_values_are_errors() {
    let history = history(CAPACITY);
    let set = |key: &str, value: &[u8]| {
        let mut values = history.storage.values.borrow_mut();
        values.insert(key.into(), value.into());
    };
    set(COUNT_KEY, b"ten");
    let error = ready(history.latest(1)).unwrap_err();
    assert_eq!(
        error,
        HistoryError::Corrupt {
            key: COUNT_KEY.into(),
            expected: "a number"
        }
    );
    for count in [-1, i64::MIN] {
        set(COUNT_KEY, &count.to_le_bytes());
        assert!(ready(history.latest(1)).is_err(), "{count}");
        set(COUNT_KEY, count.to_string().as_bytes());
        assert!(ready(history.latest(1)).is_err(), "{count}");
    }
    history.storage.values.borrow_mut().clear();
    ready(history.add(sample_order())).unwrap();
    set("orders/100/1", b"{}");
    let error = ready(history.update(100, Status::Fired)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "key \"orders/100/1\" of the key-value store does not hold an order: remove the key or the store"
    );
}
