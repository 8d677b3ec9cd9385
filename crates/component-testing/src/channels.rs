//! Channels: who is subscribed to them, and what they have published.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Weak},
};

use grip::Item;
use parking_lot::Mutex;

/// The channels of the GRIP host. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Channels(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    channels: BTreeMap<String, Channel>,
    /// The number of items that channels keep, by name.
    history_items: BTreeMap<String, usize>,
    next_subscription: u64,
}

#[derive(Default)]
struct Channel {
    /// The newest items.
    history: VecDeque<Arc<Item>>,
    /// The ids of all items.
    ids: BTreeSet<String>,
    last_id: Option<String>,
    /// By number, so that they receive an item in the order in which they have subscribed.
    subscribers: BTreeMap<u64, Arc<dyn Subscriber>>,
}

/// Receives what is published on a channel.
pub(crate) trait Subscriber: Send + Sync {
    fn receive(&self, item: &Arc<Item>);
}

/// A subscription, which ends when this is dropped.
pub(crate) struct Subscription {
    channels: Weak<Mutex<State>>,
    channel: String,
    number: u64,
}

/// What a new subscriber gets first.
pub(crate) enum Start<'a> {
    /// Nothing.
    Live,
    /// The items after the one with this id.
    After(&'a str),
    /// The newest items.
    Newest(usize),
}

impl Channels {
    /// Creates channels. `history_items` is the number of items that they keep, by name.
    pub(crate) fn new(history_items: BTreeMap<String, usize>) -> Self {
        let channels = Self::default();
        channels.0.lock().history_items = history_items;
        channels
    }

    /// Subscribes to a channel. Also returns the items to receive first, or `None` if the channel does
    /// not know all of them.
    pub(crate) fn subscribe(
        &self,
        channel: &str,
        start: Start<'_>,
        subscriber: Arc<dyn Subscriber>,
    ) -> (Subscription, Option<Vec<Arc<Item>>>) {
        let mut state = self.0.lock();
        let number = state.next_subscription;
        state.next_subscription += 1;
        let entry = state.channels.entry(channel.to_owned()).or_default();
        entry.subscribers.insert(number, subscriber);
        let subscription = Subscription {
            channels: Arc::downgrade(&self.0),
            channel: channel.to_owned(),
            number,
        };
        (subscription, entry.items(&start))
    }

    /// Returns the id of the item that was last published on a channel.
    pub(crate) fn last_id(&self, channel: &str) -> Option<String> {
        self.0.lock().channels.get(channel)?.last_id.clone()
    }

    /// Publishes an item, unless its channel had one with the same id.
    pub(crate) fn publish(&self, item: Item) {
        let mut state = self.0.lock();
        let kept = state.history_items.get(&item.channel).copied();
        let channel = state.channels.entry(item.channel.clone()).or_default();
        if let Some(id) = &item.id {
            if !channel.ids.insert(id.clone()) {
                return;
            }
            channel.last_id = Some(id.clone());
        }
        let item = Arc::new(item);
        channel.history.push_back(item.clone());
        while channel.history.len() > kept.unwrap_or(0) {
            channel.history.pop_front();
        }
        let subscribers: Vec<_> = channel.subscribers.values().cloned().collect();
        // Subscribers may unsubscribe.
        drop(state);
        for subscriber in subscribers {
            subscriber.receive(&item);
        }
    }
}

impl Channel {
    fn items(&self, start: &Start<'_>) -> Option<Vec<Arc<Item>>> {
        let first = match start {
            Start::Live => self.history.len(),
            Start::Newest(count) => self.history.len().saturating_sub(*count),
            Start::After(id) => {
                let is_known = |item: &Arc<Item>| item.id.as_deref() == Some(*id);
                self.history.iter().rposition(is_known)? + 1
            }
        };
        Some(self.history.range(first..).cloned().collect())
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(channels) = self.channels.upgrade()
            && let Some(channel) = channels.lock().channels.get_mut(&self.channel)
        {
            channel.subscribers.remove(&self.number);
        }
    }
}
