//! The key-value store interface: the part of `wasi:keyvalue` on which all hosts agree.

use std::collections::BTreeMap;

/// A key-value store that several component instances may use at the same time.
///
/// Each call is atomic, and durable when it returns.
///
/// No call creates a key only if it is absent: in Spin's own store, a `wasi:keyvalue` swap
/// on an absent key overwrites a value that was written in the meantime. Use
/// [`increment`](Storage::increment) to create a key and learn which caller was first.
pub(crate) trait Storage {
    /// Returns the values of the keys that exist.
    async fn get(&self, keys: Vec<String>) -> Result<BTreeMap<String, Vec<u8>>, StorageError>;

    /// Sets a key, replacing any value.
    async fn set(&self, key: &str, value: Vec<u8>) -> Result<(), StorageError>;

    /// Removes the keys that exist.
    async fn delete(&self, keys: Vec<String>) -> Result<(), StorageError>;

    /// Adds `delta` to a number and returns the sum.
    ///
    /// A number is stored in the format of the host, see [`StoredNumber`]. An absent key counts as
    /// 0. Never call this for a key that holds anything else: the host may panic.
    ///
    /// [`StoredNumber`]: crate::number::StoredNumber
    async fn increment(&self, key: &str, delta: i64) -> Result<i64, StorageError>;

    /// Replaces the number `current` by `new`, in the same format. Returns false if the key has
    /// another value.
    async fn swap_number(&self, key: &str, current: i64, new: i64) -> Result<bool, StorageError>;

    /// Replaces the value `current` by `new`. Returns false if the key has another value.
    async fn compare_and_swap(
        &self,
        key: &str,
        current: &[u8],
        new: Vec<u8>,
    ) -> Result<bool, StorageError>;
}

/// An error from the key-value store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("key-value store \"default\": {0}")]
pub(crate) struct StorageError(pub(crate) String);
