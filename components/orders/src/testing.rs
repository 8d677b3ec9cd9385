//! Test helpers, and implementations of [`Storage`] and [`Publisher`] in memory.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    future::Future,
    time::SystemTime,
};

use futures_util::{FutureExt, pending};
use grip::{Item, Message, publish::WsAction};
use rand::{SeedableRng, rngs::SmallRng};

use crate::{
    generator,
    history::History,
    number::StoredNumber,
    order::Order,
    orders::Orders,
    publisher::{PublishError, Publisher},
    storage::{Storage, StorageError},
};

pub(crate) type TestOrders = Orders<MemoryStorage, RecordingPublisher>;

pub(crate) fn empty_orders() -> TestOrders {
    Orders {
        history: History::new(MemoryStorage::default()),
        publisher: RecordingPublisher::default(),
    }
}

/// Returns the output of a future that is ready on its first poll.
pub(crate) fn ready<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the future is pending")
}

/// Creates an order.
pub(crate) fn create(orders: &TestOrders) -> Order {
    let mut rng = SmallRng::seed_from_u64(1);
    ready(orders.create(&mut rng, SystemTime::UNIX_EPOCH)).unwrap()
}

/// Returns an order that is not stored.
pub(crate) fn sample_order() -> Order {
    generator::random_order(&mut SmallRng::seed_from_u64(1), "then".into())
}

/// A store in memory. It rejects what any host rejects, and promises no more than every host.
#[derive(Debug, Default)]
pub(crate) struct MemoryStorage {
    pub(crate) values: RefCell<BTreeMap<String, Vec<u8>>>,
    /// Whether each call yields once, so that calls of concurrent tasks can come first.
    pub(crate) yields: Cell<bool>,
    /// Whether numbers are decimal, as in Redis.
    pub(crate) is_decimal: Cell<bool>,
    fails: Cell<bool>,
}

impl MemoryStorage {
    /// Makes all later calls fail.
    pub(crate) fn fail(&self) {
        self.fails.set(true);
    }

    async fn start_call(&self) -> Result<(), StorageError> {
        if self.yields.get() {
            pending!();
        }
        if self.fails.get() {
            Err(StorageError("disk failure".into()))
        } else {
            Ok(())
        }
    }
}

impl Storage for MemoryStorage {
    async fn get(&self, keys: Vec<String>) -> Result<BTreeMap<String, Vec<u8>>, StorageError> {
        self.start_call().await?;
        let values = self.values.borrow();
        let found = keys.into_iter().filter_map(|key| {
            let value = values.get(&key)?.clone();
            Some((key, value))
        });
        Ok(found.collect())
    }

    async fn set(&self, key: &str, value: Vec<u8>) -> Result<(), StorageError> {
        self.start_call().await?;
        self.values.borrow_mut().insert(key.into(), value);
        Ok(())
    }

    async fn delete(&self, keys: Vec<String>) -> Result<(), StorageError> {
        self.start_call().await?;
        let mut values = self.values.borrow_mut();
        for key in &keys {
            values.remove(key);
        }
        Ok(())
    }

    async fn increment(&self, key: &str, delta: i64) -> Result<i64, StorageError> {
        self.start_call().await?;
        let mut values = self.values.borrow_mut();
        let value = values.entry(key.into()).or_insert_with(|| {
            if self.is_decimal.get() {
                b"0".into()
            } else {
                vec![0; 8]
            }
        });
        // Spin panics as well, so no test may get here with another value.
        let number = StoredNumber::decode(value).expect("the value is a number");
        let sum = number.value + delta;
        *value = number.encode(sum);
        Ok(sum)
    }

    async fn swap_number(&self, key: &str, current: i64, new: i64) -> Result<bool, StorageError> {
        self.start_call().await?;
        let mut values = self.values.borrow_mut();
        let Some(value) = values.get_mut(key) else {
            return Ok(false);
        };
        match StoredNumber::decode(value) {
            Some(number) if number.value == current => {
                *value = number.encode(new);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    async fn compare_and_swap(
        &self,
        key: &str,
        current: &[u8],
        new: Vec<u8>,
    ) -> Result<bool, StorageError> {
        self.start_call().await?;
        let mut values = self.values.borrow_mut();
        match values.get_mut(key) {
            Some(value) if value == current => {
                *value = new;
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

/// A publisher that records the items it publishes.
#[derive(Debug, Default)]
pub(crate) struct RecordingPublisher {
    items: RefCell<Vec<Item>>,
    fails: Cell<bool>,
}

impl RecordingPublisher {
    /// Makes all later calls fail.
    pub(crate) fn fail(&self) {
        self.fails.set(true);
    }

    /// Returns the published WebSocket messages.
    pub(crate) fn messages(&self) -> Vec<String> {
        let items = self.items.borrow();
        let formats = items.iter().filter_map(|item| item.ws_message.as_ref());
        let texts = formats.map(|format| match &format.action {
            WsAction::Send(Message::Text(text)) => text.to_string(),
            other => panic!("unexpected action: {other:?}"),
        });
        texts.collect()
    }

    /// Takes the items published since the last call.
    pub(crate) fn take(&self) -> Vec<Item> {
        self.items.take()
    }
}

impl Publisher for RecordingPublisher {
    async fn publish(&self, items: Vec<Item>) -> Result<(), PublishError> {
        if self.fails.get() {
            return Err(PublishError("connection refused".into()));
        }
        self.items.borrow_mut().extend(items);
        Ok(())
    }
}
