//! The orders that were made: numbered without gaps, kept to the last thousand.
//!
//! Order `ID` has a *slot*, `orders/ID`: a number that is only ever incremented and
//! compared-and-swapped. Its low half counts the makers who tried for the id; each of
//! them thereby has a *claim* of its own, 1, 2, …, under which it writes its order,
//! `orders/ID/CLAIM`. Swapping its claim into the slot's high half makes that order
//! *the* order with that id, for good. `orders/count` says how many are made; it is
//! moved on after that, by whoever sees that it is behind.
//!
//! So no id is shared, whoever makes orders at the same time, and none is left out,
//! wherever a maker is killed: before the swap nothing has happened but a claim that
//! leads nowhere, and after it the next maker moves the count on.

use std::ops::RangeInclusive;

use crate::{
    order::{Order, Status},
    storage::{Storage, StorageError},
};

/// The id of the first order.
pub const FIRST: u64 = 100;

/// How many orders are kept.
pub const KEEP: u64 = 1000;

const COUNT: &str = "orders/count";

/// How often to try again when others come between. Each time one of them gets ahead,
/// so this many mean that the store does not do what it should.
const MAX_TRIES: usize = 1000;

/// More claims on one id than there can be makers at the same time.
const MAX_CLAIMS: u32 = 1_000_000;

/// How many ids are looked at for orders to remove, back from the newest that is too
/// old: makers that were killed before they did so leave theirs to the next ones.
const PRUNE: u64 = 16;

/// The orders in a store.
#[derive(Clone, Debug)]
pub struct History<S> {
    storage: S,
    keep: u64,
}

/// Why an order was not made, changed or found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Something else than this component wrote to the store.
    #[error("key {key:?} of the key-value store does not hold {expected}: remove it, or the store")]
    Corrupt {
        /// The key.
        key: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// Others came between, again and again.
    #[error("key {key:?} of the key-value store was changed by others {MAX_TRIES} times in a row")]
    Contention {
        /// The key.
        key: String,
    },
}

/// Why an order's status did not change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// There is no such order, or not any more.
    #[error("there is no order {0}")]
    Unknown(u64),
    /// Its status cannot become that one.
    #[error("order {id} is {}: it cannot become {}", from.name(), to.name())]
    Impossible {
        /// The order.
        id: u64,
        /// The status it has.
        from: Status,
        /// The status it was to have.
        to: Status,
    },
    /// The history failed.
    #[error(transparent)]
    History(#[from] HistoryError),
}

impl From<StorageError> for UpdateError {
    fn from(error: StorageError) -> UpdateError {
        UpdateError::History(error.into())
    }
}

impl<S: Storage> History<S> {
    /// The history in `storage`.
    pub fn new(storage: S) -> History<S> {
        History {
            storage,
            keep: KEEP,
        }
    }

    /// The store.
    pub fn storage(&self) -> &S {
        &self.storage
    }

    /// Gives an order the next id and keeps it. When this returns, it is stored.
    pub async fn add(&self, mut order: Order) -> Result<Order, HistoryError> {
        let mut key = String::new();
        for _ in 0..MAX_TRIES {
            order.id = self.last().await? + 1;
            key = slot_key(order.id);
            let slot = Slot(self.storage.increment(&key, 1).await?);
            if slot.winner().is_some() {
                self.count_up_to(order.id).await?;
                continue;
            }
            // Only now is it sure that the slot is free, and not removed since as too
            // old: whatever happens to it from here on makes the swap fail.
            if self.last().await? >= order.id {
                continue;
            }
            let claim = slot.claims();
            let value = to_json(&order);
            self.storage.set(&order_key(order.id, claim), value).await?;
            if self.take(&key, slot, claim).await? {
                self.count_up_to(order.id).await?;
                return Ok(order);
            }
        }
        Err(HistoryError::Contention { key })
    }

    /// Changes the status of an order, if that is a possible step.
    pub async fn update(&self, id: u64, status: Status) -> Result<Order, UpdateError> {
        let unknown = UpdateError::Unknown(id);
        if !(self.oldest_and_last().await?).contains(&id) {
            return Err(unknown);
        }
        let key = slot_key(id);
        let winner = match self.get(&key).await? {
            Some(value) => Slot::decode(&key, &value)?.winner(),
            None => None,
        };
        let Some(claim) = winner else {
            return Err(unknown);
        };
        let key = order_key(id, claim);
        for _ in 0..MAX_TRIES {
            let Some(value) = self.get(&key).await? else {
                return Err(unknown);
            };
            let order: Order =
                serde_json::from_slice(&value).map_err(|_| HistoryError::Corrupt {
                    key: key.clone(),
                    expected: "an order",
                })?;
            if !order.status.can_become(status) {
                return Err(UpdateError::Impossible {
                    id,
                    from: order.status,
                    to: status,
                });
            }
            let changed = Order { status, ..order };
            if self.storage.swap(&key, &value, to_json(&changed)).await? {
                return Ok(changed);
            }
        }
        Err(HistoryError::Contention { key }.into())
    }

    /// One order, in JSON.
    pub async fn order(&self, id: u64) -> Result<Option<Vec<u8>>, HistoryError> {
        if !(self.oldest_and_last().await?).contains(&id) {
            return Ok(None);
        }
        Ok(self.read(id..=id).await?.pop())
    }

    /// The newest orders, oldest first, each in JSON.
    pub async fn latest(&self, limit: u64) -> Result<Vec<Vec<u8>>, HistoryError> {
        let (oldest, last) = self.oldest_and_last().await?.into_inner();
        let first = oldest.max((last + 1).saturating_sub(limit));
        self.read(first..=last).await
    }

    /// The first orders after an id, oldest first, each in JSON.
    pub async fn after(&self, id: u64, limit: u64) -> Result<Vec<Vec<u8>>, HistoryError> {
        let (oldest, last) = self.oldest_and_last().await?.into_inner();
        let first = oldest.max(id.saturating_add(1));
        let end = first.saturating_add(limit).min(last + 1);
        if first >= end {
            return Ok(Vec::new());
        }
        self.read(first..=end - 1).await
    }

    /// Removes what is too old now that `newest` is there.
    pub async fn prune(&self, newest: u64) -> Result<(), HistoryError> {
        let Some(too_old) = newest.checked_sub(self.keep).filter(|id| *id >= FIRST) else {
            return Ok(());
        };
        let ids = too_old.saturating_sub(PRUNE - 1).max(FIRST)..=too_old;
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
                // After its orders: as long as it is there, they are found again.
                keys.push(key);
            }
        }
        match keys.is_empty() {
            true => Ok(()),
            false => Ok(self.storage.delete(keys).await?),
        }
    }

    /// Swaps `claim` into a slot, unless another was first.
    async fn take(&self, key: &str, mut slot: Slot, claim: u32) -> Result<bool, HistoryError> {
        for _ in 0..MAX_TRIES {
            let (from, to) = (slot.encode(), slot.won_by(claim).encode());
            if self.storage.swap(key, &from, to.into()).await? {
                return Ok(true);
            }
            slot = match self.get(key).await? {
                Some(value) => Slot::decode(key, &value)?,
                None => return Ok(false),
            };
            if slot.winner().is_some() {
                return Ok(false);
            }
        }
        Err(HistoryError::Contention { key: key.into() })
    }

    /// The id of the last order; the one before [`FIRST`] when there is none.
    async fn last(&self) -> Result<u64, HistoryError> {
        let count = match self.get(COUNT).await? {
            None => 0,
            Some(value) => {
                let count = decode_number(COUNT, &value)?;
                u64::try_from(count).map_err(|_| not_a_number(COUNT))?
            }
        };
        count
            .checked_add(FIRST - 1)
            .ok_or_else(|| not_a_number(COUNT))
    }

    /// The ids of the orders that are there.
    async fn oldest_and_last(&self) -> Result<RangeInclusive<u64>, HistoryError> {
        let last = self.last().await?;
        Ok(FIRST.max((last + 1).saturating_sub(self.keep))..=last)
    }

    /// Counts the order with `id`, when all before it are counted.
    async fn count_up_to(&self, id: u64) -> Result<(), HistoryError> {
        let count = id - (FIRST - 1);
        if count == 1 {
            // A swap needs something to swap from.
            self.storage.increment(COUNT, 0).await?;
        }
        let (from, to) = ((count - 1).to_le_bytes(), count.to_le_bytes());
        // If it is something else, then another has counted this one.
        self.storage.swap(COUNT, &from, to.into()).await?;
        Ok(())
    }

    /// The orders with these ids, each in JSON, less those that were removed meanwhile.
    async fn read(&self, ids: RangeInclusive<u64>) -> Result<Vec<Vec<u8>>, HistoryError> {
        // Nearly always the first to claim an id gets it: one call fetches both.
        let keys = ids.clone().flat_map(|id| [slot_key(id), order_key(id, 1)]);
        let mut found = self.storage.get(keys.collect()).await?;
        let mut keys = Vec::new();
        for id in ids {
            let key = slot_key(id);
            if let Some(value) = found.get(&key)
                && let Some(claim) = Slot::decode(&key, value)?.winner()
            {
                keys.push(order_key(id, claim));
            }
        }
        let others: Vec<String> = keys
            .iter()
            .filter(|key| !found.contains_key(*key))
            .cloned()
            .collect();
        if !others.is_empty() {
            found.extend(self.storage.get(others).await?);
        }
        Ok(keys.iter().filter_map(|key| found.remove(key)).collect())
    }

    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, HistoryError> {
        Ok(self.storage.get(vec![key.into()]).await?.remove(key))
    }
}

/// Who claimed an id, and who got it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot(i64);

impl Slot {
    fn decode(key: &str, value: &[u8]) -> Result<Slot, HistoryError> {
        decode_number(key, value).map(Slot)
    }

    fn encode(self) -> [u8; 8] {
        self.0.to_le_bytes()
    }

    /// How many claims there are; right after claiming, one's own.
    fn claims(self) -> u32 {
        (self.0 as u32).min(MAX_CLAIMS)
    }

    fn winner(self) -> Option<u32> {
        match (self.0 >> 32) as u32 {
            0 => None,
            claim => Some(claim),
        }
    }

    fn won_by(self, claim: u32) -> Slot {
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
    let bytes = value.try_into().map_err(|_| not_a_number(key))?;
    Ok(i64::from_le_bytes(bytes))
}

fn not_a_number(key: &str) -> HistoryError {
    HistoryError::Corrupt {
        key: key.into(),
        expected: "a number of 8 bytes",
    }
}

fn to_json(order: &Order) -> Vec<u8> {
    serde_json::to_vec(order).expect("strings, numbers and lists have a form in JSON")
}

#[cfg(test)]
mod tests;
