//! A store in memory, for tests.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

use super::{DEFAULT, Storage, StoreError, StoredNumber};
use crate::platform::pause;

/// A store in memory. Clones share it.
///
/// It rejects what any host rejects, and promises no more than every host.
#[derive(Clone, Debug, Default)]
pub struct Memory(Rc<State>);

#[derive(Debug, Default)]
struct State {
    values: RefCell<BTreeMap<String, Vec<u8>>>,
    yields: Cell<bool>,
    is_decimal: Cell<bool>,
    fails: Cell<bool>,
}

impl Memory {
    /// Makes all later calls fail, or none.
    pub fn set_failing(&self, fails: bool) {
        self.0.fails.set(fails);
    }

    /// Makes each call yield once, so that calls of concurrent tasks can come first.
    pub fn set_yielding(&self, yields: bool) {
        self.0.yields.set(yields);
    }

    /// Makes new numbers decimal text, as in Redis.
    pub fn set_decimal(&self, is_decimal: bool) {
        self.0.is_decimal.set(is_decimal);
    }

    /// Returns the keys, in alphabetical order.
    pub fn keys(&self) -> Vec<String> {
        self.0.values.borrow().keys().cloned().collect()
    }

    /// Returns the value of a key.
    pub fn value(&self, key: &str) -> Option<Vec<u8>> {
        self.0.values.borrow().get(key).cloned()
    }

    async fn start_call(&self) -> Result<(), StoreError> {
        if self.0.yields.get() {
            pause().await;
        }
        if self.0.fails.get() {
            return Err(StoreError::Unavailable {
                label: DEFAULT.into(),
                problem: "disk failure".into(),
            });
        }
        Ok(())
    }
}

impl Storage for Memory {
    async fn get(&self, keys: Vec<String>) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
        self.start_call().await?;
        let values = self.0.values.borrow();
        let found = keys.into_iter().filter_map(|key| {
            let value = values.get(&key)?.clone();
            Some((key, value))
        });
        Ok(found.collect())
    }

    async fn set(&self, key: &str, value: Vec<u8>) -> Result<(), StoreError> {
        self.start_call().await?;
        self.0.values.borrow_mut().insert(key.into(), value);
        Ok(())
    }

    async fn delete(&self, keys: Vec<String>) -> Result<(), StoreError> {
        self.start_call().await?;
        let mut values = self.0.values.borrow_mut();
        for key in &keys {
            values.remove(key);
        }
        Ok(())
    }

    /// # Panics
    /// Panics if the value is not a number. Spin does, too.
    async fn increment(&self, key: &str, delta: i64) -> Result<i64, StoreError> {
        self.start_call().await?;
        let mut values = self.0.values.borrow_mut();
        let value = values.entry(key.into()).or_insert_with(|| {
            if self.0.is_decimal.get() {
                b"0".into()
            } else {
                vec![0; 8]
            }
        });
        let Some(number) = StoredNumber::decode(value) else {
            panic!("the value of the key {key:?} is not a number");
        };
        let sum = number.value + delta;
        *value = number.encode(sum);
        Ok(sum)
    }

    async fn replace(
        &self,
        key: &str,
        replacement: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
    ) -> Result<bool, StoreError> {
        self.start_call().await?;
        let mut values = self.0.values.borrow_mut();
        let Some(value) = values.get_mut(key) else {
            return Ok(false);
        };
        let Some(new) = replacement(value) else {
            return Ok(false);
        };
        *value = new;
        Ok(true)
    }
}

impl<S: Storage> Storage for &S {
    async fn get(&self, keys: Vec<String>) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
        (**self).get(keys).await
    }

    async fn set(&self, key: &str, value: Vec<u8>) -> Result<(), StoreError> {
        (**self).set(key, value).await
    }

    async fn delete(&self, keys: Vec<String>) -> Result<(), StoreError> {
        (**self).delete(keys).await
    }

    async fn increment(&self, key: &str, delta: i64) -> Result<i64, StoreError> {
        (**self).increment(key, delta).await
    }

    async fn replace(
        &self,
        key: &str,
        replacement: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
    ) -> Result<bool, StoreError> {
        (**self).replace(key, replacement).await
    }
}
