//! The stored orders: numbered without gaps, limited to the newest thousand.
//!
//! Several component instances may add orders at the same time. Each id has a *slot*, the key
//! `orders/ID`, which holds a 64-bit number:
//!
//! - The low half counts the *claims* on the id. An instance increments it to get a claim of its
//!   own: 1, 2, …. It then writes its order to `orders/ID/CLAIM`.
//! - The high half holds the claim that won the id, or 0. An instance sets it to its claim by
//!   compare-and-swap, which makes its order final.
//!
//! The key `orders/count` holds the number of orders. It is advanced after a claim has won, by
//! any instance that finds it behind.
//!
//! So no two orders share an id, and ids have no gaps, even if an instance is killed. If that
//! happens before the compare-and-swap, it leaves only an unused claim. If it happens after, the
//! next instance advances the count.

use std::ops::RangeInclusive;

use crate::{
    number::StoredNumber,
    order::{Order, Status},
    storage::{Storage, StorageError},
};

/// The id of the first order.
pub(crate) const FIRST_ID: u64 = 100;

/// The number of orders that are kept.
const CAPACITY: u64 = 1000;

const COUNT_KEY: &str = "orders/count";

/// The number of attempts when other instances interfere. Each failed attempt means that another
/// instance made progress, so more failures than this point to a fault of the store.
const MAX_ATTEMPTS: usize = 1000;

/// An upper bound for the claims on one id, above any possible number of concurrent instances.
const MAX_CLAIMS: u32 = 1_000_000;

/// The number of ids that [`History::prune`] checks. There is more than one, as an instance that
/// was killed before it pruned leaves its work to later ones.
const PRUNE_IDS: u64 = 16;

/// The orders in a store.
#[derive(Clone, Debug)]
pub(crate) struct History<S> {
    storage: S,
    capacity: u64,
}

/// An error while reading or writing orders.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HistoryError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A value was not written by this component.
    #[error(
        "key {key:?} of the key-value store does not hold {expected}: remove the key or the store"
    )]
    Corrupt { key: String, expected: &'static str },
    #[error(
        "key {key:?} of the key-value store changed concurrently {MAX_ATTEMPTS} times in a row"
    )]
    Contention { key: String },
}

/// An error while updating an order's status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UpdateError {
    #[error("order {0} not found")]
    NotFound(u64),
    #[error("order {id} is {}: it cannot become {}", from.name(), to.name())]
    InvalidTransition { id: u64, from: Status, to: Status },
    #[error(transparent)]
    History(#[from] HistoryError),
}

impl From<StorageError> for UpdateError {
    fn from(error: StorageError) -> UpdateError {
        UpdateError::History(error.into())
    }
}

impl<S: Storage> History<S> {
    pub(crate) fn new(storage: S) -> History<S> {
        History {
            storage,
            capacity: CAPACITY,
        }
    }

    #[cfg(test)]
    pub(crate) fn storage(&self) -> &S {
        &self.storage
    }

    /// Stores an order under the next id. The order is durable when this returns.
    pub(crate) async fn add(&self, mut order: Order) -> Result<Order, HistoryError> {
        let mut key = String::new();
        for _ in 0..MAX_ATTEMPTS {
            order.id = self.last_id().await? + 1;
            key = slot_key(order.id);
            let slot = Slot(self.storage.increment(&key, 1).await?);
            if slot.winner().is_some() {
                self.advance_count(order.id).await?;
                continue;
            }
            // The slot may look unused because the order was stored and already pruned. After
            // this check, any change to the slot makes the swap fail.
            if self.last_id().await? >= order.id {
                continue;
            }
            let claim = slot.claims();
            let value = order.to_json();
            self.storage.set(&order_key(order.id, claim), value).await?;
            if self.win_slot(&key, slot, claim).await? {
                self.advance_count(order.id).await?;
                return Ok(order);
            }
        }
        Err(HistoryError::Contention { key })
    }

    /// Sets the status of an order, if the transition is allowed.
    pub(crate) async fn update(&self, id: u64, status: Status) -> Result<Order, UpdateError> {
        if !self.ids().await?.contains(&id) {
            return Err(UpdateError::NotFound(id));
        }
        let key = slot_key(id);
        let winner = match self.get_value(&key).await? {
            Some(value) => Slot::decode(&key, &value)?.winner(),
            None => None,
        };
        let Some(claim) = winner else {
            return Err(UpdateError::NotFound(id));
        };
        let key = order_key(id, claim);
        for _ in 0..MAX_ATTEMPTS {
            let Some(value) = self.get_value(&key).await? else {
                return Err(UpdateError::NotFound(id));
            };
            let order: Order =
                serde_json::from_slice(&value).map_err(|_| HistoryError::Corrupt {
                    key: key.clone(),
                    expected: "an order",
                })?;
            if !order.status.can_become(status) {
                return Err(UpdateError::InvalidTransition {
                    id,
                    from: order.status,
                    to: status,
                });
            }
            let updated = Order { status, ..order };
            if self
                .storage
                .compare_and_swap(&key, &value, updated.to_json())
                .await?
            {
                return Ok(updated);
            }
        }
        Err(HistoryError::Contention { key }.into())
    }

    /// Returns an order as JSON.
    pub(crate) async fn get(&self, id: u64) -> Result<Option<Vec<u8>>, HistoryError> {
        if !self.ids().await?.contains(&id) {
            return Ok(None);
        }
        Ok(self.read(id..=id).await?.pop())
    }

    /// Returns the newest orders as JSON, oldest first.
    pub(crate) async fn latest(&self, limit: u64) -> Result<Vec<Vec<u8>>, HistoryError> {
        let (oldest, last) = self.ids().await?.into_inner();
        let first = oldest.max((last + 1).saturating_sub(limit));
        self.read(first..=last).await
    }

    /// Returns the first orders after `id` as JSON, oldest first.
    pub(crate) async fn after(&self, id: u64, limit: u64) -> Result<Vec<Vec<u8>>, HistoryError> {
        let (oldest, last) = self.ids().await?.into_inner();
        let first = oldest.max(id.saturating_add(1));
        let end = first.saturating_add(limit).min(last + 1);
        if first >= end {
            return Ok(Vec::new());
        }
        self.read(first..=end - 1).await
    }

    /// Removes the orders that exceed the capacity, given the newest id.
    pub(crate) async fn prune(&self, newest: u64) -> Result<(), HistoryError> {
        let Some(last) = newest
            .checked_sub(self.capacity)
            .filter(|id| *id >= FIRST_ID)
        else {
            return Ok(());
        };
        let ids = last.saturating_sub(PRUNE_IDS - 1).max(FIRST_ID)..=last;
        let slots = self
            .storage
            .get(ids.clone().map(slot_key).collect())
            .await?;
        let mut keys = Vec::new();
        for id in ids {
            let key = slot_key(id);
            if let Some(value) = slots.get(&key) {
                let claims = Slot::decode(&key, value)?.claims();
                keys.extend((1..=claims).map(|claim| order_key(id, claim)));
                // The slot is removed last: without it, remaining orders would not be found.
                keys.push(key);
            }
        }
        if !keys.is_empty() {
            self.storage.delete(keys).await?;
        }
        Ok(())
    }

    /// Makes `claim` the winner of a slot. Returns false if the slot has another winner.
    async fn win_slot(&self, key: &str, mut slot: Slot, claim: u32) -> Result<bool, HistoryError> {
        for _ in 0..MAX_ATTEMPTS {
            let new = slot.with_winner(claim);
            if self.storage.swap_number(key, slot.0, new.0).await? {
                return Ok(true);
            }
            slot = match self.get_value(key).await? {
                Some(value) => Slot::decode(key, &value)?,
                None => return Ok(false),
            };
            if slot.winner().is_some() {
                return Ok(false);
            }
        }
        Err(HistoryError::Contention { key: key.into() })
    }

    /// Returns the id of the newest order, or `FIRST_ID - 1` if there are none.
    async fn last_id(&self) -> Result<u64, HistoryError> {
        let count = match self.get_value(COUNT_KEY).await? {
            None => 0,
            Some(value) => {
                let count = decode_number(COUNT_KEY, &value)?;
                u64::try_from(count).map_err(|_| not_a_number(COUNT_KEY))?
            }
        };
        count
            .checked_add(FIRST_ID - 1)
            .ok_or_else(|| not_a_number(COUNT_KEY))
    }

    /// Returns the ids of the kept orders.
    async fn ids(&self) -> Result<RangeInclusive<u64>, HistoryError> {
        let last = self.last_id().await?;
        Ok(FIRST_ID.max((last + 1).saturating_sub(self.capacity))..=last)
    }

    /// Includes the order `id` in the count, which must include all orders before it.
    async fn advance_count(&self, id: u64) -> Result<(), HistoryError> {
        let count = (id - (FIRST_ID - 1)).cast_signed();
        if count == 1 {
            // Creates the key, as a swap needs an existing value.
            self.storage.increment(COUNT_KEY, 0).await?;
        }
        // The swap fails if another instance has advanced the count already.
        self.storage
            .swap_number(COUNT_KEY, count - 1, count)
            .await?;
        Ok(())
    }

    /// Returns orders as JSON. Skips orders that were removed in the meantime.
    async fn read(&self, ids: RangeInclusive<u64>) -> Result<Vec<Vec<u8>>, HistoryError> {
        // The first claim nearly always wins, so fetch its order along with the slot.
        let keys = ids.clone().flat_map(|id| [slot_key(id), order_key(id, 1)]);
        let mut values = self.storage.get(keys.collect()).await?;
        let mut keys = Vec::new();
        for id in ids {
            let key = slot_key(id);
            if let Some(value) = values.get(&key)
                && let Some(claim) = Slot::decode(&key, value)?.winner()
            {
                keys.push(order_key(id, claim));
            }
        }
        let missing: Vec<String> = keys
            .iter()
            .filter(|key| !values.contains_key(*key))
            .cloned()
            .collect();
        if !missing.is_empty() {
            values.extend(self.storage.get(missing).await?);
        }
        Ok(keys.iter().filter_map(|key| values.remove(key)).collect())
    }

    async fn get_value(&self, key: &str) -> Result<Option<Vec<u8>>, HistoryError> {
        Ok(self.storage.get(vec![key.into()]).await?.remove(key))
    }
}

/// The value of a slot: the number of claims on an id, and the winner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot(i64);

impl Slot {
    fn decode(key: &str, value: &[u8]) -> Result<Slot, HistoryError> {
        decode_number(key, value).map(Slot)
    }

    /// Returns the number of claims. Right after an increment, this is the caller's claim.
    fn claims(self) -> u32 {
        (self.0 as u32).min(MAX_CLAIMS)
    }

    fn winner(self) -> Option<u32> {
        match (self.0 >> 32) as u32 {
            0 => None,
            claim => Some(claim),
        }
    }

    fn with_winner(self, claim: u32) -> Slot {
        Slot(self.0 | i64::from(claim) << 32)
    }
}

fn slot_key(id: u64) -> String {
    format!("orders/{id}")
}

fn order_key(id: u64, claim: u32) -> String {
    format!("orders/{id}/{claim}")
}

fn decode_number(key: &str, value: &[u8]) -> Result<i64, HistoryError> {
    let number = StoredNumber::decode(value).ok_or_else(|| not_a_number(key))?;
    Ok(number.value)
}

fn not_a_number(key: &str) -> HistoryError {
    HistoryError::Corrupt {
        key: key.into(),
        expected: "a number",
    }
}

#[cfg(test)]
mod tests;
