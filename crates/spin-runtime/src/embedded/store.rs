//! Key-value stores, independent of where their data is kept.

use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc};

/// The result of a pending operation.
pub type Pending<T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send>>;

/// A failed operation, with a message for the guest and the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub(crate) String);

/// The result of [`Store::swap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap {
    /// The value was the expected one and has been replaced.
    Done,
    /// The value was not the expected one and has not been replaced.
    Changed,
}

/// A key-value store. Operations are atomic, and durable once they have completed.
pub trait Store: Send + Sync + 'static {
    /// Returns the value of `key`.
    fn get(&self, key: String) -> Pending<Option<Vec<u8>>>;
    /// Returns whether `key` has a value.
    fn exists(&self, key: String) -> Pending<bool>;
    /// Sets all pairs, or none of them on an error.
    fn set(&self, pairs: Vec<(String, Vec<u8>)>) -> Pending<()>;
    /// Deletes all keys. Keys without a value are ignored.
    fn delete(&self, keys: Vec<String>) -> Pending<()>;
    /// Returns the values of `keys`, in the same order.
    fn get_many(&self, keys: Vec<String>) -> Pending<Vec<(String, Option<Vec<u8>>)>>;
    /// Returns up to `limit` keys in order, starting after `after`.
    fn keys(&self, after: Option<String>, limit: usize) -> Pending<Vec<String>>;
    /// Adds `delta` to a number of 8 little-endian bytes and returns the sum. A missing value is 0.
    fn increment(&self, key: String, delta: i64) -> Pending<i64>;
    /// Sets `key` to `value` if its value is `expected`, or if it has no value for `None`.
    fn swap(&self, key: String, expected: Option<Vec<u8>>, value: Vec<u8>) -> Pending<Swap>;
}

/// The stores that a component may open, by label. `None` if there is no store with this label.
pub(crate) type Stores = BTreeMap<String, Option<Arc<dyn Store>>>;

/// A store that a guest has opened, through any of the interfaces.
pub struct OpenStore(pub(crate) Arc<dyn Store>);

/// A compare-and-swap operation of `wasi:keyvalue` in progress.
pub struct CompareAndSwap {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) key: String,
    /// The value that the guest has read.
    pub(crate) expected: Option<Vec<u8>>,
}
