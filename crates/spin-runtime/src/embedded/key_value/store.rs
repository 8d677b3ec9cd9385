//! Key-value stores, independent of where their data is kept.

use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc};

use crate::embedded::result_size::ResultTooLarge;

/// The result of a pending operation.
pub type Pending<T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send>>;

/// A failed operation, with a message for the guest and the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub(crate) String);

impl StoreError {
    /// Creates an error.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl From<ResultTooLarge> for StoreError {
    fn from(error: ResultTooLarge) -> Self {
        Self(error.to_string())
    }
}

/// The result of [`Store::swap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap {
    /// The value was the expected one and has been replaced.
    Done,
    /// The value was not the expected one and has not been replaced.
    Changed,
}

/// A key-value store. Operations are atomic, and as durable as the place of the data once they have
/// completed.
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
    /// Returns the first keys, or those at the cursor of the previous page.
    fn keys(&self, cursor: Option<Cursor>) -> Pending<KeyPage>;
    /// Adds `delta` to a number and returns the sum. A missing value is 0. The format of the number
    /// is that of Spin for this kind of store.
    fn increment(&self, key: String, delta: i64) -> Pending<i64>;
    /// Sets `key` to `value` if its value is `expected`, or if it has no value for `None`.
    fn swap(&self, key: String, expected: Option<Vec<u8>>, value: Vec<u8>) -> Pending<Swap>;
}

/// A part of the keys of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyPage {
    /// Not empty, except on the last page.
    pub(crate) keys: Vec<String>,
    /// The position of the next page. `None` on the last one.
    pub(crate) next: Option<Cursor>,
}

impl KeyPage {
    /// Creates the only page of a listing.
    pub fn only(keys: Vec<String>) -> Self {
        Self { keys, next: None }
    }
}

/// Returns the memory that a key and its value take in a result.
pub(super) fn pair_size(key: &str, value: Option<&Vec<u8>>) -> usize {
    size_of::<(String, Option<Vec<u8>>)>() + key.len() + value.map_or(0, Vec::len)
}

/// A position in the keys of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(pub(crate) String);

/// The stores that a component may open, by label.
pub(crate) type Stores = BTreeMap<String, Arc<dyn Store>>;

/// A store that a guest has opened, through any of the interfaces.
pub struct OpenStore(pub(crate) Arc<dyn Store>);

/// A compare-and-swap operation of `wasi:keyvalue` in progress.
pub struct CompareAndSwap {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) key: String,
    /// The value that the guest has read.
    pub(crate) expected: Option<Vec<u8>>,
}
