//! State in Spin's key-value stores, with atomic updates.
//!
//! Several instances of a component run at the same time, and share only their stores. Reading a
//! value, changing it and writing it back loses updates of others. These types do not:
//!
//! - [`Counter`]: a number that is added to.
//! - [`Value`]: any serializable value, changed by a function.
//! - [`Ring`]: a list that keeps its newest entries, numbered without gaps.
//!
//! They use the store `default`, which the manifest must grant:
//!
//! ```toml
//! [component.chat]
//! key_value_stores = ["default"]
//! ```
//!
//! ```
//! use sockets::store::{Counter, Value};
//!
//! # sockets::testing::block_on(async {
//! let visits = Counter::new("visits");
//! assert_eq!(visits.add(1).await?, 1);
//!
//! let topic = Value::<String>::new("topic");
//! topic.update(|topic| topic.push_str("tea")).await?;
//! assert_eq!(topic.get().await?, "tea");
//! # Ok::<(), sockets::store::StoreError>(())
//! # }).unwrap();
//! ```

mod counter;
mod memory;
mod number;
mod ring;
mod value;

#[cfg(test)]
mod schedule;

use std::collections::BTreeMap;

pub(crate) use self::number::StoredNumber;
pub use self::{
    counter::Counter,
    memory::Memory,
    ring::{Entry, Ring},
    value::Value,
};
pub use crate::platform::Store;

/// The label of the store that every application has.
pub const DEFAULT: &str = "default";

/// The number of attempts when other instances interfere. Each failed attempt means that another
/// instance made progress, so more failures than this point to a fault of the store.
const MAX_ATTEMPTS: usize = 1000;

/// A key-value store that several component instances may use at the same time.
///
/// Each call is atomic, and durable when it returns. [`Store`] implements it with a store of Spin,
/// and [`Memory`] in memory.
///
/// No call creates a key only if it is absent: in Spin's own store, a `wasi:keyvalue` swap
/// on an absent key overwrites a value that was written in the meantime. Use
/// [`increment`](Storage::increment) to create a key and learn which caller was first.
#[allow(async_fn_in_trait, reason = "components have one thread")]
pub trait Storage {
    /// Returns the values of the keys that exist.
    async fn get(&self, keys: Vec<String>) -> Result<BTreeMap<String, Vec<u8>>, StoreError>;

    /// Sets a key, replacing any value.
    async fn set(&self, key: &str, value: Vec<u8>) -> Result<(), StoreError>;

    /// Removes the keys that exist.
    async fn delete(&self, keys: Vec<String>) -> Result<(), StoreError>;

    /// Adds `delta` to a number and returns the sum.
    ///
    /// The store chooses the format of numbers. An absent key counts as 0. Never call this for a
    /// key that holds anything else: the host may panic.
    async fn increment(&self, key: &str, delta: i64) -> Result<i64, StoreError>;

    /// Replaces the value of a key by what `replacement` returns for it. Returns false if the key is
    /// absent, if that is `None`, or if the value has changed in the meantime.
    async fn replace(
        &self,
        key: &str,
        replacement: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
    ) -> Result<bool, StoreError>;

    /// Replaces the number `current` by `new`. Returns false if the key has another value.
    async fn swap_number(&self, key: &str, current: i64, new: i64) -> Result<bool, StoreError> {
        let replacement = |value: &[u8]| {
            let stored = StoredNumber::decode(value)?;
            (stored.value == current).then(|| stored.encode(new))
        };
        self.replace(key, replacement).await
    }

    /// Replaces the value `current` by `new`. Returns false if the key has another value.
    async fn compare_and_swap(
        &self,
        key: &str,
        current: &[u8],
        new: Vec<u8>,
    ) -> Result<bool, StoreError> {
        let replacement = |value: &[u8]| (value == current).then_some(new);
        self.replace(key, replacement).await
    }
}

/// Returns the value of one key.
async fn get_value(storage: &impl Storage, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
    Ok(storage.get(vec![key.into()]).await?.remove(key))
}

/// An error while reading or writing a store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store cannot be used.
    #[error("key-value store {label:?}: {problem}")]
    Unavailable {
        /// The label of the store.
        label: String,
        /// What is wrong, and what to do about it.
        problem: String,
    },
    /// A value was written by another program, or by another version of this one.
    #[error(
        "key {key:?} of the key-value store does not hold {expected}: remove the key or the store"
    )]
    Corrupt {
        /// The key.
        key: String,
        /// What its value should be.
        expected: String,
    },
    /// Others changed a value each time that this caller tried to.
    #[error(
        "key {key:?} of the key-value store changed concurrently {MAX_ATTEMPTS} times in a row"
    )]
    Contention {
        /// The key.
        key: String,
    },
    /// A value cannot be written as JSON.
    #[error("value for key {key:?} of the key-value store: {problem}")]
    Unserializable {
        /// The key.
        key: String,
        /// The reason.
        problem: String,
    },
}

impl StoreError {
    fn corrupt(key: impl Into<String>, expected: impl Into<String>) -> StoreError {
        StoreError::Corrupt {
            key: key.into(),
            expected: expected.into(),
        }
    }
}

fn decode_number(key: &str, value: &[u8]) -> Result<i64, StoreError> {
    let number = StoredNumber::decode(value);
    let number = number.ok_or_else(|| StoreError::corrupt(key, "a number"))?;
    Ok(number.value)
}

fn to_json<T: serde::Serialize>(key: &str, value: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|error| StoreError::Unserializable {
        key: key.into(),
        problem: error.to_string(),
    })
}
