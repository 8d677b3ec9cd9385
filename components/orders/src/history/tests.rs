//! Tests of the history: makers that come between each other and are killed anywhere.

use std::{
    future::Future,
    pin::{Pin, pin},
    task::{Context, Waker},
};

use proptest::prelude::*;

use super::*;
use crate::testing::{Memory, any_order, now};

fn orders_in(history: &History<&Memory>, after: u64) -> Vec<Order> {
    let orders = now(history.after(after, u64::MAX)).unwrap();
    let orders = orders
        .iter()
        .map(|order| serde_json::from_slice(order).unwrap());
    orders.collect()
}

fn order_by(maker: usize) -> Order {
    Order {
        notes: vec![format!("maker {maker}")],
        ..any_order()
    }
}

/// What happens next to one of several makers.
#[derive(Clone, Copy, Debug)]
enum Turn {
    /// It makes its next call to the store.
    Step(usize),
    /// It is killed, between two calls.
    Kill(usize),
}

fn turns(makers: usize) -> impl Strategy<Value = Vec<Turn>> {
    let turn = prop_oneof![
        20 => (0..makers).prop_map(Turn::Step),
        1 => (0..makers).prop_map(Turn::Kill),
    ];
    prop::collection::vec(turn, 0..400)
}

/// Lets makers add orders in turns; each begins its next order when one is made or it
/// was killed. Returns the orders that were made for sure.
fn run(history: &History<&Memory>, makers: usize, turns: &[Turn]) -> Vec<Order> {
    type Making<'a> = Pin<Box<dyn Future<Output = Result<Order, HistoryError>> + 'a>>;

    let begin = |number: usize| -> Making<'_> {
        Box::pin(async move {
            let order = history.add(order_by(number)).await?;
            history.prune(order.id).await?;
            Ok(order)
        })
    };
    let mut begun = 0;
    let mut next = || {
        begun += 1;
        begin(begun)
    };
    let mut running: Vec<Making> = (0..makers).map(|_| next()).collect();
    let mut made = Vec::new();
    for turn in turns {
        match *turn {
            Turn::Kill(maker) => running[maker] = next(),
            Turn::Step(maker) => {
                let mut context = Context::from_waker(Waker::noop());
                if let std::task::Poll::Ready(order) = running[maker].as_mut().poll(&mut context) {
                    made.push(order.unwrap());
                    running[maker] = next();
                }
            }
        }
    }
    made
}

/// That nothing is in the store but what belongs to the orders that are kept.
fn leftovers(memory: &Memory, oldest: u64) -> Vec<String> {
    let values = memory.values.borrow();
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
    fn ids_have_no_gaps_and_are_never_shared(turns in turns(3)) {
        let memory = Memory::default();
        let history = History { storage: &memory, keep: KEEP };
        memory.yields.set(true);
        let made = run(&history, 3, &turns);
        memory.yields.set(false);
        // The next maker finds whatever the killed ones left behind.
        let last = now(history.add(order_by(0))).unwrap();

        let orders = orders_in(&history, 0);
        let ids: Vec<u64> = orders.iter().map(|order| order.id).collect();
        prop_assert_eq!(ids, (FIRST..=last.id).collect::<Vec<_>>());
        for order in &made {
            prop_assert_eq!(&orders[(order.id - FIRST) as usize], order);
        }
        // Each order is there once: no maker's order got two ids.
        let mut notes: Vec<_> = orders.iter().map(|order| &order.notes).collect();
        notes.sort();
        notes.dedup();
        prop_assert_eq!(notes.len(), orders.len());
    }

    #[test]
    fn the_old_go_and_the_new_stay(turns in turns(3)) {
        let memory = Memory::default();
        let history = History { storage: &memory, keep: 5 };
        memory.yields.set(true);
        run(&history, 3, &turns);
        memory.yields.set(false);
        let mut last = now(history.last()).unwrap();
        for _ in 0..PRUNE {
            last = now(history.add(order_by(0))).unwrap().id;
            now(history.prune(last)).unwrap();
        }
        let ids: Vec<u64> = orders_in(&history, 0).iter().map(|order| order.id).collect();
        prop_assert_eq!(ids, (last - 4..=last).collect::<Vec<_>>());
    }

    #[test]
    fn readers_see_no_gaps_while_orders_are_made(turns in turns(2), known in 98u64..110) {
        let memory = Memory::default();
        let history = History { storage: &memory, keep: KEEP };
        memory.yields.set(true);
        let mut reading = pin!(history.after(known, 1000));
        let mut context = Context::from_waker(Waker::noop());
        for turns in turns.chunks(7) {
            run(&history, 2, turns);
            if let std::task::Poll::Ready(orders) = reading.as_mut().poll(&mut context) {
                let orders = orders.unwrap();
                let orders = orders.iter().map(|order| serde_json::from_slice::<Order>(order).unwrap());
                for (order, id) in orders.zip(known.max(FIRST - 1) + 1..) {
                    prop_assert_eq!(order.id, id);
                }
                break;
            }
        }
    }

    #[test]
    fn of_two_changes_at_once_one_is_made(first_steps in 0usize..8, second_steps in 0usize..8) {
        let memory = Memory::default();
        let history = History { storage: &memory, keep: KEEP };
        now(history.add(any_order())).unwrap();
        memory.yields.set(true);
        let mut first = pin!(history.update(FIRST, Status::Cancelled));
        let mut second = pin!(history.update(FIRST, Status::Cancelled));
        let mut context = Context::from_waker(Waker::noop());
        let (mut results, mut done) = (Vec::new(), [false; 2]);
        let begin = [(0, first_steps), (1, second_steps), (0, 99), (1, 99)];
        for (which, steps) in begin {
            for _ in 0..steps {
                if done[which] {
                    break;
                }
                let update = if which == 0 { first.as_mut() } else { second.as_mut() };
                if let std::task::Poll::Ready(result) = update.poll(&mut context) {
                    done[which] = true;
                    results.push(result);
                }
            }
        }
        let impossible = UpdateError::Impossible { id: FIRST, from: Status::Cancelled, to: Status::Cancelled };
        prop_assert_eq!(results.len(), 2);
        prop_assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
        prop_assert!(results.contains(&Err(impossible)));
    }
}

#[test]
fn a_maker_killed_at_any_call_leaves_no_gap() {
    for steps in 0.. {
        let memory = Memory::default();
        let history = History {
            storage: &memory,
            keep: 1,
        };
        memory.yields.set(true);
        let turns = [vec![Turn::Step(0); steps], vec![Turn::Kill(0)]].concat();
        let made = run(&history, 1, &turns);
        memory.yields.set(false);
        let committed = now(history.last()).unwrap();
        let add = || {
            let order = now(history.add(order_by(0))).unwrap();
            now(history.prune(order.id)).unwrap();
            order
        };
        let next = add();
        // What the killed one stored and did not count is there, and no more than that.
        assert!((committed + 1..=committed + 2).contains(&next.id));
        assert!(next.id <= FIRST + 1 + made.len() as u64);
        assert_eq!(
            orders_in(&history, 0),
            std::slice::from_ref(&next),
            "after {steps} calls"
        );
        let last = add();
        assert_eq!(last.id, next.id + 1);
        assert_eq!(
            orders_in(&history, 0),
            std::slice::from_ref(&last),
            "after {steps} calls"
        );
        // Also what it wrote under a claim that led nowhere goes with the order.
        assert_eq!(
            leftovers(&memory, last.id),
            Vec::<String>::new(),
            "after {steps} calls"
        );
        if made.len() == 2 {
            return;
        }
    }
}

#[test]
fn a_maker_gets_on_when_another_comes_between_at_any_call() {
    /// More calls than it takes to make an order, after another was made.
    const ENOUGH: usize = 40;

    for (steps, others) in (0..ENOUGH).flat_map(|a| (0..ENOUGH).map(move |b| (a, b))) {
        let memory = Memory::default();
        let history = History {
            storage: &memory,
            keep: KEEP,
        };
        memory.yields.set(true);
        let turns = [
            vec![Turn::Step(0); steps],
            vec![Turn::Step(1); others],
            vec![Turn::Step(0); ENOUGH],
        ];
        let made = run(&history, 2, &turns.concat());
        // Whoever has that many turns to itself makes two orders at least.
        assert!(
            made.len() >= 2,
            "after {steps} and {others} calls: {made:?}"
        );
    }
}

#[test]
fn a_store_that_others_wrote_to() {
    let memory = Memory::default();
    let history = History {
        storage: &memory,
        keep: KEEP,
    };
    memory
        .values
        .borrow_mut()
        .insert(COUNT.into(), b"ten".into());
    let error = now(history.latest(1)).unwrap_err();
    assert_eq!(
        error,
        HistoryError::Corrupt {
            key: COUNT.into(),
            expected: "a number of 8 bytes"
        }
    );
    for count in [-1, i64::MIN] {
        memory
            .values
            .borrow_mut()
            .insert(COUNT.into(), count.to_le_bytes().into());
        assert!(now(history.latest(1)).is_err(), "{count}");
    }
    memory.values.borrow_mut().clear();
    now(history.add(any_order())).unwrap();
    memory
        .values
        .borrow_mut()
        .insert("orders/100/1".into(), b"{}".into());
    let error = now(history.update(100, Status::Fired)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "key \"orders/100/1\" of the key-value store does not hold an order: remove it, or the store"
    );
}
