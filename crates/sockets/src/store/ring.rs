//! A list that keeps its newest entries, numbered without gaps.
//!
//! Several component instances may append at the same time. Each id has a *slot*, the key
//! `NAME/ID`, which holds a 64-bit number:
//!
//! - The low half counts the *claims* on the id. An instance increments it to get a claim of its
//!   own: 1, 2, …. It then writes its entry to `NAME/ID/CLAIM`.
//! - The high half holds the claim that won the id, or 0. An instance sets it to its claim by
//!   compare-and-swap, which makes its entry final.
//!
//! The key `NAME/count` holds the number of entries. It is advanced after a claim has won, by any
//! instance that finds it behind.
//!
//! So no two entries share an id, and ids have no gaps, even if an instance is killed. If that
//! happens before the compare-and-swap, it leaves only an unused claim. If it happens after, the
//! next instance advances the count.

use std::ops::RangeInclusive;

use serde::{Serialize, de::DeserializeOwned};

use super::{MAX_ATTEMPTS, Storage, Store, StoreError, decode_number, get_value, to_json};

/// The id of the first entry, unless [`Ring::starting_at`] sets another one.
const FIRST_ID: u64 = 1;

/// The number of entries that are kept, unless [`Ring::keep`] sets another one.
const CAPACITY: u64 = 100;

/// An upper bound for the claims on one id, above any possible number of concurrent instances.
const MAX_CLAIMS: u32 = 1_000_000;

/// The number of ids that [`Ring::prune`] checks. There is more than one, as an instance that was
/// killed before it pruned leaves its work to later ones.
const PRUNE_IDS: u64 = 16;

/// A list that keeps its newest entries. Ids rise by 1 and have no gaps.
///
/// ```
/// # use sockets::store::Ring;
/// # sockets::testing::block_on(async {
/// let ring = Ring::new("scores").keep(10);
/// assert_eq!(ring.push(&"3:2").await?, 1);
/// assert_eq!(ring.push(&"4:2").await?, 2);
///
/// let latest = &ring.latest(10).await?[1];
/// assert_eq!((latest.id, latest.json::<String>()?), (2, "4:2".to_owned()));
/// # Ok::<(), sockets::store::StoreError>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Ring<S = Store> {
    storage: S,
    name: String,
    capacity: u64,
    first_id: u64,
}

/// An entry of a [`Ring`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The number of the entry.
    pub id: u64,
    /// The stored value.
    pub value: Vec<u8>,
    key: String,
}

impl Entry {
    /// Parses a value that was stored as JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, StoreError> {
        let expected = || format!("JSON for {}", std::any::type_name::<T>());
        serde_json::from_slice(&self.value).map_err(|_| StoreError::corrupt(&self.key, expected()))
    }
}

impl Ring {
    /// Uses the keys of the store `default` that start with `NAME/`. Nothing else may write these.
    pub fn new(name: impl Into<String>) -> Ring {
        Ring::in_store(Store::default(), name)
    }
}

impl<S: Storage> Ring<S> {
    /// Uses another store.
    pub fn in_store(storage: S, name: impl Into<String>) -> Ring<S> {
        Ring {
            storage,
            name: name.into(),
            capacity: CAPACITY,
            first_id: FIRST_ID,
        }
    }

    /// Keeps this number of entries, at least 1. The default is 100.
    pub fn keep(self, entries: u64) -> Ring<S> {
        Ring {
            capacity: entries.max(1),
            ..self
        }
    }

    /// Gives the first entry this id, at least 1, which is the default. Ids of existing entries do
    /// not change, so it must stay the same.
    pub fn starting_at(self, id: u64) -> Ring<S> {
        Ring {
            first_id: id.max(1),
            ..self
        }
    }

    /// Returns the store.
    pub fn storage(&self) -> &S {
        &self.storage
    }

    /// Appends a value as JSON, and removes what exceeds the capacity. Returns the id.
    pub async fn push<T: Serialize>(&self, value: &T) -> Result<u64, StoreError> {
        let json = to_json(&self.name, value)?;
        let entry = self.append(|_| json.clone()).await?;
        self.prune(entry.id).await?;
        Ok(entry.id)
    }

    /// Appends a value that may depend on its id. It is durable when this returns.
    ///
    /// `value` is called again with another id if another instance wins the first one. Call
    /// [`prune`](Self::prune) afterwards.
    pub async fn append(&self, mut value: impl FnMut(u64) -> Vec<u8>) -> Result<Entry, StoreError> {
        let mut key = String::new();
        for _ in 0..MAX_ATTEMPTS {
            let id = self.last_id().await? + 1;
            key = self.slot_key(id);
            let slot = Slot(self.storage.increment(&key, 1).await?);
            if slot.winner().is_some() {
                self.advance_count(id).await?;
                continue;
            }
            // The slot may look unused because the entry was stored and already pruned. After
            // this check, any change to the slot makes the swap fail.
            if self.last_id().await? >= id {
                continue;
            }
            let claim = slot.claims();
            let entry = Entry {
                id,
                value: value(id),
                key: self.entry_key(id, claim),
            };
            self.storage.set(&entry.key, entry.value.clone()).await?;
            if self.win_slot(&key, slot, claim).await? {
                self.advance_count(id).await?;
                return Ok(entry);
            }
        }
        Err(StoreError::Contention { key })
    }

    /// Replaces an entry by the result of `change`, unless that is an error. Returns the new
    /// entry, or `None` if there is no entry with this id.
    ///
    /// `change` is called again if another instance changes the entry at the same time.
    pub async fn update<E: From<StoreError>>(
        &self,
        id: u64,
        mut change: impl FnMut(&Entry) -> Result<Vec<u8>, E>,
    ) -> Result<Option<Entry>, E> {
        if !self.ids().await?.contains(&id) {
            return Ok(None);
        }
        let key = self.slot_key(id);
        let winner = match get_value(&self.storage, &key).await? {
            Some(value) => Slot::decode(&key, &value)?.winner(),
            None => None,
        };
        let Some(claim) = winner else {
            return Ok(None);
        };
        let key = self.entry_key(id, claim);
        for _ in 0..MAX_ATTEMPTS {
            let Some(value) = get_value(&self.storage, &key).await? else {
                return Ok(None);
            };
            let key = key.clone();
            let mut entry = Entry { id, value, key };
            let new = change(&entry)?;
            let swapped = self
                .storage
                .compare_and_swap(&entry.key, &entry.value, new.clone())
                .await?;
            if swapped {
                entry.value = new;
                return Ok(Some(entry));
            }
        }
        Err(StoreError::Contention { key }.into())
    }

    /// Returns an entry.
    pub async fn get(&self, id: u64) -> Result<Option<Entry>, StoreError> {
        if !self.ids().await?.contains(&id) {
            return Ok(None);
        }
        Ok(self.read(id..=id).await?.pop())
    }

    /// Returns the newest entries, oldest first.
    pub async fn latest(&self, limit: u64) -> Result<Vec<Entry>, StoreError> {
        let (oldest, last) = self.ids().await?.into_inner();
        let first = oldest.max((last + 1).saturating_sub(limit));
        self.read(first..=last).await
    }

    /// Returns the first entries after `id`, oldest first.
    pub async fn after(&self, id: u64, limit: u64) -> Result<Vec<Entry>, StoreError> {
        let (oldest, last) = self.ids().await?.into_inner();
        let first = oldest.max(id.saturating_add(1));
        let end = first.saturating_add(limit).min(last + 1);
        if first >= end {
            return Ok(Vec::new());
        }
        self.read(first..=end - 1).await
    }

    /// Returns the ids of the entries that are kept. The range ends before the first id if there
    /// are none.
    pub async fn ids(&self) -> Result<RangeInclusive<u64>, StoreError> {
        let last = self.last_id().await?;
        let oldest = (last + 1).saturating_sub(self.capacity);
        Ok(self.first_id.max(oldest)..=last)
    }

    /// Removes the entries that exceed the capacity, given the newest id.
    pub async fn prune(&self, newest: u64) -> Result<(), StoreError> {
        let Some(last) = newest
            .checked_sub(self.capacity)
            .filter(|id| *id >= self.first_id)
        else {
            return Ok(());
        };
        let ids = last.saturating_sub(PRUNE_IDS - 1).max(self.first_id)..=last;
        let slots = ids.clone().map(|id| self.slot_key(id)).collect();
        let slots = self.storage.get(slots).await?;
        let mut keys = Vec::new();
        for id in ids {
            let key = self.slot_key(id);
            if let Some(value) = slots.get(&key) {
                let claims = Slot::decode(&key, value)?.claims();
                keys.extend((1..=claims).map(|claim| self.entry_key(id, claim)));
                // The slot is removed last: without it, remaining entries would not be found.
                keys.push(key);
            }
        }
        if !keys.is_empty() {
            self.storage.delete(keys).await?;
        }
        Ok(())
    }

    /// Makes `claim` the winner of a slot. Returns false if the slot has another winner.
    async fn win_slot(&self, key: &str, mut slot: Slot, claim: u32) -> Result<bool, StoreError> {
        for _ in 0..MAX_ATTEMPTS {
            let new = slot.with_winner(claim);
            if self.storage.swap_number(key, slot.0, new.0).await? {
                return Ok(true);
            }
            slot = match get_value(&self.storage, key).await? {
                Some(value) => Slot::decode(key, &value)?,
                None => return Ok(false),
            };
            if slot.winner().is_some() {
                return Ok(false);
            }
        }
        Err(StoreError::Contention { key: key.into() })
    }

    /// Returns the id of the newest entry, or the one before the first id if there are none.
    async fn last_id(&self) -> Result<u64, StoreError> {
        let key = self.count_key();
        let count = match get_value(&self.storage, &key).await? {
            None => 0,
            Some(value) => decode_number(&key, &value)?,
        };
        let count = u64::try_from(count).ok();
        count
            .and_then(|count| count.checked_add(self.first_id - 1))
            .ok_or_else(|| StoreError::corrupt(key, "a number"))
    }

    /// Includes the entry `id` in the count, which must include all entries before it.
    async fn advance_count(&self, id: u64) -> Result<(), StoreError> {
        let key = self.count_key();
        let count = (id - (self.first_id - 1)).cast_signed();
        if count == 1 {
            // Creates the key, as a swap needs an existing value.
            self.storage.increment(&key, 0).await?;
        }
        // The swap fails if another instance has advanced the count already.
        self.storage.swap_number(&key, count - 1, count).await?;
        Ok(())
    }

    /// Returns entries. Skips those that were removed in the meantime.
    async fn read(&self, ids: RangeInclusive<u64>) -> Result<Vec<Entry>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        // The first claim nearly always wins, so fetch its entry along with the slot.
        let keys = ids
            .clone()
            .flat_map(|id| [self.slot_key(id), self.entry_key(id, 1)]);
        let mut values = self.storage.get(keys.collect()).await?;
        let mut keys = Vec::new();
        for id in ids {
            let key = self.slot_key(id);
            if let Some(value) = values.get(&key)
                && let Some(claim) = Slot::decode(&key, value)?.winner()
            {
                keys.push((id, self.entry_key(id, claim)));
            }
        }
        let missing = keys.iter().map(|(_, key)| key);
        let missing: Vec<String> = missing
            .filter(|key| !values.contains_key(*key))
            .cloned()
            .collect();
        if !missing.is_empty() {
            values.extend(self.storage.get(missing).await?);
        }
        let entries = keys.into_iter().filter_map(|(id, key)| {
            let value = values.remove(&key)?;
            Some(Entry { id, value, key })
        });
        Ok(entries.collect())
    }

    fn count_key(&self) -> String {
        format!("{}/count", self.name)
    }

    fn slot_key(&self, id: u64) -> String {
        format!("{}/{id}", self.name)
    }

    fn entry_key(&self, id: u64, claim: u32) -> String {
        format!("{}/{id}/{claim}", self.name)
    }
}

/// The value of a slot: the number of claims on an id, and the winner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot(i64);

impl Slot {
    fn decode(key: &str, value: &[u8]) -> Result<Slot, StoreError> {
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

#[cfg(test)]
mod tests;
