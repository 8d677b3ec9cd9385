//! What a key-value store is to the runtime, whatever keeps it.

use std::{future::Future, pin::Pin};

/// The result of an operation, when it comes.
pub type Pending<T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send>>;

/// Why an operation on a store failed: text for the guest and the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub String);

/// What [`Store::swap`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap {
    /// The value was still the expected one and has been replaced.
    Done,
    /// The value was another one and is left as it was.
    Changed,
}

/// A key-value store, by key. Every operation is atomic and durable once its result is there.
pub trait Store: Send + Sync + 'static {
    /// The value of `key`.
    fn get(&self, key: String) -> Pending<Option<Vec<u8>>>;
    /// Whether `key` has a value.
    fn exists(&self, key: String) -> Pending<bool>;
    /// Sets all of these, or on an error none of them.
    fn set(&self, pairs: Vec<(String, Vec<u8>)>) -> Pending<()>;
    /// Removes all of these keys; those without a value are no error.
    fn delete(&self, keys: Vec<String>) -> Pending<()>;
    /// The values of `keys`, in their order.
    fn get_many(&self, keys: Vec<String>) -> Pending<Vec<(String, Option<Vec<u8>>)>>;
    /// Up to `limit` keys that sort after `after`, in their order.
    fn keys(&self, after: Option<String>, limit: usize) -> Pending<Vec<String>>;
    /// Adds `delta` to a number kept as 8 bytes, little-endian; a missing one is 0. Returns the sum.
    fn increment(&self, key: String, delta: i64) -> Pending<i64>;
    /// Sets `key` to `value` if it still is `expected` (`None`: has no value).
    fn swap(&self, key: String, expected: Option<Vec<u8>>, value: Vec<u8>) -> Pending<Swap>;
}
