//! A serializable value that several instances change.

use std::marker::PhantomData;

use serde::{Serialize, de::DeserializeOwned};

use super::{MAX_ATTEMPTS, Storage, Store, StoreError, get_value, to_json};
use crate::platform::pause;

/// The number of pauses for another instance to create the key, before this one takes its place.
const CREATION_PAUSES: usize = 100;

/// A value, stored as JSON. It is `T::default()` until it is set. No update is lost.
///
/// ```
/// # use sockets::store::Value;
/// #[derive(Default, serde::Serialize, serde::Deserialize)]
/// struct Poll {
///     yes: u32,
///     no: u32,
/// }
///
/// # sockets::testing::block_on(async {
/// let poll = Value::<Poll>::new("poll");
/// let votes = poll
///     .update(|poll| {
///         poll.yes += 1;
///         poll.yes + poll.no
///     })
///     .await?;
/// assert_eq!(votes, 1);
/// # Ok::<(), sockets::store::StoreError>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Value<T, S = Store> {
    storage: S,
    key: String,
    value: PhantomData<fn(T) -> T>,
}

impl<T> Value<T> {
    /// Uses a key of the store `default`, and the key `KEY/created`. Nothing else may write these.
    pub fn new(key: impl Into<String>) -> Value<T> {
        Value::in_store(Store::default(), key)
    }
}

impl<T, S> Value<T, S> {
    /// Uses keys of another store.
    pub fn in_store(storage: S, key: impl Into<String>) -> Value<T, S> {
        Value {
            storage,
            key: key.into(),
            value: PhantomData,
        }
    }
}

impl<T: Default + DeserializeOwned + Serialize, S: Storage> Value<T, S> {
    /// Returns the value.
    pub async fn get(&self) -> Result<T, StoreError> {
        self.parse(get_value(&self.storage, &self.key).await?.as_deref())
    }

    /// Replaces the value, whatever it is. To base the new value on the old one, use
    /// [`update`](Self::update).
    pub async fn set(&self, value: &T) -> Result<(), StoreError> {
        let json = to_json(&self.key, value)?;
        self.storage.set(&self.key, json).await
    }

    /// Changes the value, and returns the result of `change`.
    ///
    /// `change` is called again, with the new value, if another instance changes the value at the
    /// same time.
    pub async fn update<R>(&self, mut change: impl FnMut(&mut T) -> R) -> Result<R, StoreError> {
        for _ in 0..MAX_ATTEMPTS {
            let current = get_value(&self.storage, &self.key).await?;
            let mut value = self.parse(current.as_deref())?;
            let result = change(&mut value);
            let new = to_json(&self.key, &value)?;
            let is_changed = match current {
                Some(current) => {
                    let swap = self.storage.compare_and_swap(&self.key, &current, new);
                    swap.await?
                }
                None => self.create(new).await?,
            };
            if is_changed {
                return Ok(result);
            }
        }
        Err(StoreError::Contention {
            key: self.key.clone(),
        })
    }

    /// Sets the key if it is absent. Returns false if another instance has created it.
    ///
    /// The first one to increment a number creates the key. The others wait for it. If it was
    /// killed, they start over.
    async fn create(&self, value: Vec<u8>) -> Result<bool, StoreError> {
        let claims = format!("{}/created", self.key);
        let claim = self.storage.increment(&claims, 1).await?;
        if claim == 1 {
            self.storage.set(&self.key, value).await?;
            return Ok(true);
        }
        for _ in 0..CREATION_PAUSES {
            if get_value(&self.storage, &self.key).await?.is_some() {
                return Ok(false);
            }
            pause().await;
        }
        // Fails if another instance does the same.
        self.storage.swap_number(&claims, claim, 0).await?;
        Ok(false)
    }

    fn parse(&self, json: Option<&[u8]>) -> Result<T, StoreError> {
        let Some(json) = json else {
            return Ok(T::default());
        };
        let expected = || format!("JSON for {}", std::any::type_name::<T>());
        serde_json::from_slice(json).map_err(|_| StoreError::corrupt(&self.key, expected()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        store::{Memory, schedule::Schedule},
        testing::block_on,
    };

    proptest! {
        #[test]
        fn no_update_is_lost(schedule in Schedule::any(3)) {
            let memory = Memory::default();
            memory.set_yielding(true);
            let value = Value::<u32, _>::in_store(memory.clone(), "n");
            let update = || value.update(|n| { *n += 1; *n });
            let results = schedule.run(&[&update, &update, &update]).into_iter();
            let results: Result<std::collections::BTreeSet<u32>, StoreError> = results.collect();
            prop_assert_eq!(results, Ok([1, 2, 3].into()));
            memory.set_yielding(false);
            prop_assert_eq!(block_on(value.get()), Ok(3));
        }
    }

    #[test]
    fn a_creator_that_was_killed_is_replaced() {
        let memory = Memory::default();
        let value = Value::<u32, _>::in_store(&memory, "n");
        block_on(async {
            // The killed instance has claimed the creation.
            memory.increment("n/created", 1).await?;
            assert_eq!(value.update(|n| std::mem::replace(n, 7)).await?, 0);
            assert_eq!(value.get().await?, 7);
            value.set(&8).await?;
            assert_eq!(value.get().await?, 8);
            Ok::<(), StoreError>(())
        })
        .unwrap();
    }

    #[test]
    fn values_of_another_type_are_errors() {
        let memory = Memory::default();
        let error = block_on(async {
            memory.set("n", b"\"text\"".into()).await?;
            Value::<u32, _>::in_store(&memory, "n").update(|n| *n).await
        });
        assert_eq!(error, Err(StoreError::corrupt("n", "JSON for u32")));
    }
}
