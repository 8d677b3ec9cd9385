//! What the history needs of a key-value store: the part of `wasi:keyvalue` that all hosts agree on.

use std::collections::BTreeMap;

/// A key-value store that several instances may use at the same time.
///
/// Each call is atomic, and durable when it returns. There is no call that creates a
/// key only if it is absent: a `wasi:keyvalue` swap from an absent key overwrites what
/// came between in Spin's own store. [`increment`](Storage::increment) is what creates
/// a key once and tells who was first.
#[allow(async_fn_in_trait)] // Components have one thread: no future needs to be Send.
pub trait Storage {
    /// The values of those keys that exist.
    async fn get(&self, keys: Vec<String>) -> Result<BTreeMap<String, Vec<u8>>, StorageError>;

    /// Sets a key, whatever it was.
    async fn set(&self, key: &str, value: Vec<u8>) -> Result<(), StorageError>;

    /// Removes keys, if they exist.
    async fn delete(&self, keys: Vec<String>) -> Result<(), StorageError>;

    /// Adds to a number, which is 0 when absent and is kept as 8 bytes, little-endian,
    /// and returns the sum. On a key that holds anything else, a host may fail for good.
    async fn increment(&self, key: &str, delta: i64) -> Result<i64, StorageError>;

    /// Changes a key from one value to another, and says whether it had the first one.
    async fn swap(&self, key: &str, from: &[u8], to: Vec<u8>) -> Result<bool, StorageError>;
}

/// The store failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("key-value store \"default\": {0}")]
pub struct StorageError(pub String);
