//! A number that several instances add to.

use super::{Storage, Store, StoreError, decode_number, get_value};

/// A number that starts at 0. No addition is lost.
///
/// ```
/// # use sockets::store::Counter;
/// # sockets::testing::block_on(async {
/// let visits = Counter::new("visits");
/// visits.add(2).await?;
/// assert_eq!(visits.add(1).await?, 3);
/// assert_eq!(visits.get().await?, 3);
/// # Ok::<(), sockets::store::StoreError>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Counter<S = Store> {
    storage: S,
    key: String,
}

impl Counter {
    /// Uses a key of the store `default`. Nothing else may write the key.
    pub fn new(key: impl Into<String>) -> Counter {
        Counter::in_store(Store::default(), key)
    }
}

impl<S: Storage> Counter<S> {
    /// Uses a key of another store.
    pub fn in_store(storage: S, key: impl Into<String>) -> Counter<S> {
        Counter {
            storage,
            key: key.into(),
        }
    }

    /// Adds to the number and returns the sum. No two callers that add 1 get the same sum.
    pub async fn add(&self, delta: i64) -> Result<i64, StoreError> {
        self.storage.increment(&self.key, delta).await
    }

    /// Returns the number.
    pub async fn get(&self) -> Result<i64, StoreError> {
        match get_value(&self.storage, &self.key).await? {
            Some(value) => decode_number(&self.key, &value),
            None => Ok(0),
        }
    }

    /// Replaces the number `current` by `new`. Returns false if it is another one.
    pub async fn compare_and_set(&self, current: i64, new: i64) -> Result<bool, StoreError> {
        if current == 0 {
            // Creates the key, as a swap needs an existing value.
            self.storage.increment(&self.key, 0).await?;
        }
        self.storage.swap_number(&self.key, current, new).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{store::Memory, testing::block_on};

    #[test]
    fn numbers_are_swapped_only_if_they_are_as_expected() {
        for decimal in [false, true] {
            let memory = Memory::default();
            memory.set_decimal(decimal);
            let counter = Counter::in_store(memory, "n");
            block_on(async {
                assert_eq!(counter.get().await, Ok(0));
                assert_eq!(counter.compare_and_set(1, 5).await, Ok(false));
                assert_eq!(counter.compare_and_set(0, 5).await, Ok(true));
                assert_eq!(counter.compare_and_set(0, 6).await, Ok(false));
                assert_eq!(counter.add(-7).await, Ok(-2));
                assert_eq!(counter.get().await, Ok(-2));
            });
        }
    }

    #[test]
    fn a_value_that_is_no_number_is_an_error() {
        let memory = Memory::default();
        let counter = Counter::in_store(&memory, "n");
        let error = block_on(async {
            memory.set("n", b"text".into()).await?;
            counter.get().await
        });
        assert_eq!(error, Err(StoreError::corrupt("n", "a number")));
    }
}
