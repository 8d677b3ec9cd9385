//! Key-value stores in memory.

use std::{collections::BTreeMap, fmt, sync::Arc};

use parking_lot::Mutex;
use spin_runtime::simulation::{self, Cursor, KeyPage, Pending, StoreError, Swap};

use crate::shuffle::Shuffle;

/// The text of a failure.
const FAILURE: &str = "simulated failure of the store";

/// A key-value store of the application. Clones are the same store.
///
/// Each call of a component has a number, which rises by 1 from 1. Calls of a test itself have none,
/// and never fail.
#[derive(Clone)]
pub struct Store {
    state: Arc<Mutex<State>>,
    /// Decides when calls take effect.
    shuffle: Shuffle,
}

#[derive(Default)]
struct State {
    values: BTreeMap<String, Vec<u8>>,
    calls: Vec<StoreCall>,
    /// The calls that will fail, by number.
    planned: BTreeMap<usize, Failure>,
    all: Option<Failure>,
}

/// An operation of a component on a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreCall {
    /// The operation, such as `get` or `swap`.
    pub operation: &'static str,
    /// The keys that it names.
    pub keys: Vec<String>,
}

#[derive(Clone, Copy)]
enum Failure {
    /// The operation has no effect.
    Refused,
    /// The operation takes effect, and its result is lost.
    Lost,
}

type Values = BTreeMap<String, Vec<u8>>;

impl Store {
    pub(crate) fn new(shuffle: Shuffle) -> Self {
        Self {
            state: Arc::default(),
            shuffle,
        }
    }

    /// Returns the value of a key.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.state.lock().values.get(key).cloned()
    }

    /// Returns the value of a key as text. Invalid UTF-8 is replaced.
    pub fn text(&self, key: &str) -> Option<String> {
        let value = self.get(key)?;
        Some(String::from_utf8_lossy(&value).into_owned())
    }

    /// Sets a key.
    pub fn set(&self, key: impl Into<String>, value: impl Into<Vec<u8>>) {
        self.state.lock().values.insert(key.into(), value.into());
    }

    /// Removes a key.
    pub fn remove(&self, key: &str) {
        self.state.lock().values.remove(key);
    }

    /// Returns all keys, in order.
    pub fn keys(&self) -> Vec<String> {
        self.state.lock().values.keys().cloned().collect()
    }

    /// Returns all keys with their values.
    pub fn entries(&self) -> BTreeMap<String, Vec<u8>> {
        self.state.lock().values.clone()
    }

    /// Returns the calls of components so far, in the order in which they began.
    pub fn calls(&self) -> Vec<StoreCall> {
        self.state.lock().calls.clone()
    }

    /// Returns the number of calls so far.
    pub fn call_count(&self) -> usize {
        self.state.lock().calls.len()
    }

    /// Makes the call with this number fail, without effect.
    pub fn fail_call(&self, number: usize) {
        self.state.lock().planned.insert(number, Failure::Refused);
    }

    /// Makes the call with this number take effect and then fail, as if a connection had been lost
    /// before its result arrived.
    pub fn lose_result(&self, number: usize) {
        self.state.lock().planned.insert(number, Failure::Lost);
    }

    /// Makes all later calls fail, until [`Self::recover`].
    pub fn fail_all(&self) {
        self.state.lock().all = Some(Failure::Refused);
    }

    /// Ends all failures, including planned ones.
    pub fn recover(&self) {
        let mut state = self.state.lock();
        state.all = None;
        state.planned.clear();
    }

    /// Performs an operation of a component.
    fn call<T: Send + 'static>(
        &self,
        operation: &'static str,
        keys: Vec<String>,
        apply: impl FnOnce(&mut Values) -> Result<T, StoreError> + Send + 'static,
    ) -> Pending<T> {
        let store = self.clone();
        Box::pin(async move {
            // An operation that has begun takes effect even if its caller is gone.
            let task = tokio::spawn(store.perform(StoreCall { operation, keys }, apply));
            let result = task.await;
            result.unwrap_or_else(|error| Err(StoreError::new(error.to_string())))
        })
    }

    async fn perform<T>(
        self,
        call: StoreCall,
        apply: impl FnOnce(&mut Values) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let failure = self.state.lock().begin(call);
        self.shuffle.delay().await;
        let failed = || StoreError::new(FAILURE);
        match failure {
            None => apply(&mut self.state.lock().values),
            Some(Failure::Refused) => Err(failed()),
            Some(Failure::Lost) => {
                apply(&mut self.state.lock().values)?;
                Err(failed())
            }
        }
    }
}

impl State {
    /// Counts a call. Returns how it will fail, if it will.
    fn begin(&mut self, call: StoreCall) -> Option<Failure> {
        self.calls.push(call);
        let planned = self.planned.remove(&self.calls.len());
        planned.or(self.all)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("Store")
            .field("keys", &state.values.len())
            .field("calls", &state.calls.len())
            .finish()
    }
}

impl simulation::Store for Store {
    fn get(&self, key: String) -> Pending<Option<Vec<u8>>> {
        self.call("get", vec![key.clone()], move |values| {
            Ok(values.get(&key).cloned())
        })
    }

    fn exists(&self, key: String) -> Pending<bool> {
        self.call("exists", vec![key.clone()], move |values| {
            Ok(values.contains_key(&key))
        })
    }

    fn set(&self, pairs: Vec<(String, Vec<u8>)>) -> Pending<()> {
        let keys = pairs.iter().map(|(key, _)| key.clone()).collect();
        self.call("set", keys, move |values| {
            values.extend(pairs);
            Ok(())
        })
    }

    fn delete(&self, keys: Vec<String>) -> Pending<()> {
        self.call("delete", keys.clone(), move |values| {
            for key in &keys {
                values.remove(key);
            }
            Ok(())
        })
    }

    fn get_many(&self, keys: Vec<String>) -> Pending<Vec<(String, Option<Vec<u8>>)>> {
        self.call("get-many", keys.clone(), move |values| {
            let pair = |key: String| {
                let value = values.get(&key).cloned();
                (key, value)
            };
            Ok(keys.into_iter().map(pair).collect())
        })
    }

    fn keys(&self, _: Option<Cursor>) -> Pending<KeyPage> {
        self.call("keys", Vec::new(), |values| {
            Ok(KeyPage::only(values.keys().cloned().collect()))
        })
    }

    fn increment(&self, key: String, delta: i64) -> Pending<i64> {
        self.call("increment", vec![key.clone()], move |values| {
            let sum = number(&key, values.get(&key))?
                .checked_add(delta)
                .ok_or_else(|| {
                    StoreError::new(format!("the value of {key:?} would be out of range"))
                })?;
            values.insert(key, sum.to_le_bytes().into());
            Ok(sum)
        })
    }

    fn swap(&self, key: String, expected: Option<Vec<u8>>, value: Vec<u8>) -> Pending<Swap> {
        self.call("swap", vec![key.clone()], move |values| {
            if values.get(&key) != expected.as_ref() {
                return Ok(Swap::Changed);
            }
            values.insert(key, value);
            Ok(Swap::Done)
        })
    }
}

/// Decodes a number of 8 bytes in little-endian order, as in Spin's default store.
fn number(key: &str, value: Option<&Vec<u8>>) -> Result<i64, StoreError> {
    let Some(bytes) = value else { return Ok(0) };
    let bytes = <[u8; 8]>::try_from(bytes.as_slice()).map_err(|_| {
        StoreError::new(format!(
            "the value of {key:?} is not a number: expected 8 bytes, found {}",
            bytes.len()
        ))
    })?;
    Ok(i64::from_le_bytes(bytes))
}
