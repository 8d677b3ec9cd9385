//! The surroundings of native tests. Each thread has its own, see [`testing`](crate::testing).

use std::{collections::BTreeMap, future, task::Poll, time::SystemTime};

use grip::Item;
use http::HeaderMap;

use crate::{
    PublishError,
    configuration::{Settings, Unauthorized},
    store::{DEFAULT, Memory, Storage, StoreError},
    testing,
};

/// A store of the thread's tests.
#[derive(Clone, Debug)]
pub struct Store(Memory);

impl Store {
    /// Opens the store with this label.
    pub fn open(label: &str) -> Store {
        Store(testing::store(label))
    }
}

impl Default for Store {
    fn default() -> Store {
        Store::open(DEFAULT)
    }
}

impl Storage for Store {
    async fn get(&self, keys: Vec<String>) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
        self.0.get(keys).await
    }

    async fn set(&self, key: &str, value: Vec<u8>) -> Result<(), StoreError> {
        self.0.set(key, value).await
    }

    async fn delete(&self, keys: Vec<String>) -> Result<(), StoreError> {
        self.0.delete(keys).await
    }

    async fn increment(&self, key: &str, delta: i64) -> Result<i64, StoreError> {
        self.0.increment(key, delta).await
    }

    async fn replace(
        &self,
        key: &str,
        replacement: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
    ) -> Result<bool, StoreError> {
        self.0.replace(key, replacement).await
    }
}

/// Lets other tasks run.
pub(crate) async fn pause() {
    let mut has_yielded = false;
    future::poll_fn(|context| {
        if has_yielded {
            return Poll::Ready(());
        }
        has_yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

pub(crate) async fn publish(items: Vec<Item>) -> Result<(), PublishError> {
    testing::publish(items)
}

pub(crate) async fn authenticate(headers: &HeaderMap) -> Result<(), Unauthorized> {
    let (url, key) = (testing::URL.to_owned(), testing::KEY.to_owned());
    Settings::new(Ok(url), Ok(key)).authenticate(headers, SystemTime::now())
}

/// The simulated host runs once.
pub(crate) async fn run() -> String {
    String::new()
}
