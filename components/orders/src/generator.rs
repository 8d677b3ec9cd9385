//! Random orders. All choices are uniformly distributed.

use std::ops::RangeInclusive;

use rand::{
    Rng, RngExt,
    seq::{IndexedRandom, SliceRandom},
};

use crate::{
    menu::{Dish, MENU},
    order::{Destination, Item, Order, Status},
};

/// The number of items in an order.
const ITEMS: RangeInclusive<usize> = 1..=8;

/// The maximum number of substitutions of an item.
const MAX_SUBSTITUTIONS: usize = 2;

/// Returns a new order. Its id is 0 until it is stored.
pub(crate) fn random_order(rng: &mut impl Rng, timestamp: String) -> Order {
    let item_count = rng.random_range(ITEMS);
    Order {
        timestamp,
        id: 0,
        destination: pick(rng, &Destination::ALL),
        status: Status::Received,
        items: (0..item_count).map(|_| random_item(rng)).collect(),
        notes: Vec::new(),
    }
}

fn random_item(rng: &mut impl Rng) -> Item {
    let Dish {
        name,
        substitutions,
    } = pick(rng, &MENU);
    let max = MAX_SUBSTITUTIONS.min(substitutions.len());
    let count = rng.random_range(..=max);
    let mut chosen: Vec<&str> = substitutions.sample(rng, count).copied().collect();
    chosen.shuffle(rng);
    Item {
        name: name.into(),
        substitutions: chosen.into_iter().map(Into::into).collect(),
    }
}

fn pick<T: Copy>(rng: &mut impl Rng, choices: &[T]) -> T {
    choices[rng.random_range(..choices.len())]
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;

    proptest! {
        #[test]
        fn orders_contain_only_dishes_on_the_menu(seed: u64) {
            let order = random_order(&mut SmallRng::seed_from_u64(seed), "then".into());
            prop_assert!(ITEMS.contains(&order.items.len()));
            prop_assert_eq!(order.status, Status::Received);
            prop_assert_eq!(order.timestamp, "then");
            prop_assert!(order.notes.is_empty());
            for item in order.items {
                let dish = MENU.iter().find(|dish| dish.name == item.name).unwrap();
                prop_assert!(item.substitutions.len() <= MAX_SUBSTITUTIONS);
                let distinct: BTreeSet<_> = item.substitutions.iter().collect();
                prop_assert_eq!(distinct.len(), item.substitutions.len());
                for substitution in &item.substitutions {
                    prop_assert!(dish.substitutions.contains(&&**substitution));
                }
            }
        }
    }

    /// Asserts that there are `expected` choices, each made about equally often.
    fn assert_uniform<K: Ord + std::fmt::Debug>(counts: &BTreeMap<K, u32>, expected: usize) {
        assert_eq!(counts.len(), expected, "{counts:?}");
        let mean = f64::from(counts.values().sum::<u32>()) / expected as f64;
        for (choice, &count) in counts {
            // Five standard deviations. The seed is fixed, so the result never changes.
            let deviation = (f64::from(count) - mean).abs();
            assert!(
                deviation < 5.0 * mean.sqrt(),
                "{choice:?}: {count}, expected about {mean}"
            );
        }
    }

    #[test]
    fn choices_are_uniform() {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut items = BTreeMap::new();
        let mut destinations = BTreeMap::new();
        let mut dishes = BTreeMap::new();
        let mut burger_counts = BTreeMap::new();
        let mut burger_substitutions = BTreeMap::new();
        let mut fries_counts = BTreeMap::new();
        for _ in 0..20_000 {
            let order = random_order(&mut rng, String::new());
            *items.entry(order.items.len()).or_default() += 1;
            *destinations.entry(order.destination as u8).or_default() += 1;
            for item in order.items {
                *dishes.entry(item.name.clone()).or_default() += 1;
                if item.name.ends_with("urger") {
                    *burger_counts.entry(item.substitutions.len()).or_default() += 1;
                    for substitution in item.substitutions {
                        *burger_substitutions.entry(substitution).or_default() += 1;
                    }
                } else if item.name == "French Fries" {
                    *fries_counts.entry(item.substitutions.len()).or_default() += 1;
                }
            }
        }
        assert_uniform(&items, 8);
        assert_uniform(&destinations, 3);
        assert_uniform(&dishes, 7);
        assert_uniform(&burger_counts, 3);
        assert_uniform(&burger_substitutions, 6);
        assert_uniform(&fries_counts, 3);
    }
}
