//! What the tests put in place of Spin: a store in memory that can be made to fail or
//! to let others come between, and an announcer that remembers.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    future::Future,
    time::SystemTime,
};

use futures_util::FutureExt;
use grip::{Item, Message, publish::WsAction};
use rand::{SeedableRng, rngs::SmallRng};

use crate::{
    announce::{Announce, AnnounceError},
    generator,
    history::History,
    kitchen::Kitchen,
    order::Order,
    storage::{Storage, StorageError},
};

pub type TestKitchen = Kitchen<Memory, Notes>;

pub fn kitchen() -> TestKitchen {
    Kitchen {
        history: History::new(Memory::default()),
        announcer: Notes::default(),
    }
}

/// The result of something that does not wait.
pub fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("nothing here waits")
}

/// Makes an order.
pub fn make(kitchen: &TestKitchen) -> Order {
    let mut rng = SmallRng::seed_from_u64(1);
    now(kitchen.make(&mut rng, SystemTime::UNIX_EPOCH)).unwrap()
}

pub fn any_order() -> Order {
    generator::order(&mut SmallRng::seed_from_u64(1), "then".into())
}

/// A store in memory, as strict as any host's and as lax as the laxest.
#[derive(Debug, Default)]
pub struct Memory {
    pub values: RefCell<BTreeMap<String, Vec<u8>>>,
    /// Whether each call lets others come first.
    pub yields: Cell<bool>,
    fails: Cell<bool>,
}

impl Memory {
    pub fn fail_from_now_on(&self) {
        self.fails.set(true);
    }

    async fn begin(&self) -> Result<(), StorageError> {
        if self.yields.get() {
            let mut yielded = false;
            std::future::poll_fn(|_| match std::mem::replace(&mut yielded, true) {
                true => std::task::Poll::Ready(()),
                false => std::task::Poll::Pending,
            })
            .await;
        }
        match self.fails.get() {
            true => Err(StorageError("on fire".into())),
            false => Ok(()),
        }
    }
}

impl Storage for &Memory {
    async fn get(&self, keys: Vec<String>) -> Result<BTreeMap<String, Vec<u8>>, StorageError> {
        self.begin().await?;
        let values = self.values.borrow();
        let found = keys.into_iter().filter_map(|key| {
            let value = values.get(&key)?.clone();
            Some((key, value))
        });
        Ok(found.collect())
    }

    async fn set(&self, key: &str, value: Vec<u8>) -> Result<(), StorageError> {
        self.begin().await?;
        self.values.borrow_mut().insert(key.into(), value);
        Ok(())
    }

    async fn delete(&self, keys: Vec<String>) -> Result<(), StorageError> {
        self.begin().await?;
        let mut values = self.values.borrow_mut();
        keys.iter().for_each(|key| drop(values.remove(key)));
        Ok(())
    }

    async fn increment(&self, key: &str, delta: i64) -> Result<i64, StorageError> {
        self.begin().await?;
        let mut values = self.values.borrow_mut();
        let value = values.entry(key.into()).or_insert_with(|| vec![0; 8]);
        // Spin itself panics here: this must not happen, whatever the tests do.
        let bytes = value[..].try_into().expect("incremented what is no number");
        let sum = i64::from_le_bytes(bytes) + delta;
        *value = sum.to_le_bytes().into();
        Ok(sum)
    }

    async fn swap(&self, key: &str, from: &[u8], to: Vec<u8>) -> Result<bool, StorageError> {
        self.begin().await?;
        let mut values = self.values.borrow_mut();
        match values.get_mut(key) {
            Some(value) if value == from => {
                *value = to;
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

impl Storage for Memory {
    async fn get(&self, keys: Vec<String>) -> Result<BTreeMap<String, Vec<u8>>, StorageError> {
        (&self).get(keys).await
    }

    async fn set(&self, key: &str, value: Vec<u8>) -> Result<(), StorageError> {
        (&self).set(key, value).await
    }

    async fn delete(&self, keys: Vec<String>) -> Result<(), StorageError> {
        (&self).delete(keys).await
    }

    async fn increment(&self, key: &str, delta: i64) -> Result<i64, StorageError> {
        (&self).increment(key, delta).await
    }

    async fn swap(&self, key: &str, from: &[u8], to: Vec<u8>) -> Result<bool, StorageError> {
        (&self).swap(key, from, to).await
    }
}

/// Remembers what was announced.
#[derive(Debug, Default)]
pub struct Notes {
    items: RefCell<Vec<Item>>,
    fails: Cell<bool>,
}

impl Notes {
    pub fn fail_from_now_on(&self) {
        self.fails.set(true);
    }

    /// The text messages that were announced.
    pub fn texts(&self) -> Vec<String> {
        let items = self.items.borrow();
        let formats = items.iter().filter_map(|item| item.ws_message.as_ref());
        let texts = formats.map(|format| match &format.action {
            WsAction::Send(Message::Text(text)) => text.to_string(),
            other => panic!("announced {other:?}"),
        });
        texts.collect()
    }

    /// What was announced since this was last called.
    pub fn take(&self) -> Vec<Item> {
        self.items.take()
    }
}

impl Announce for Notes {
    async fn announce(&self, items: Vec<Item>) -> Result<(), AnnounceError> {
        if self.fails.get() {
            return Err(AnnounceError("nobody listens".into()));
        }
        self.items.borrow_mut().extend(items);
        Ok(())
    }
}
