//! The items that a hold has yet to deliver.

use std::{collections::VecDeque, sync::Arc};

use grip::Item;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::channels::Subscriber;

/// A queue of items.
#[derive(Default)]
pub(super) struct Inbox {
    items: Mutex<VecDeque<Arc<Item>>>,
    received: Notify,
}

impl Inbox {
    /// Waits for the next item.
    pub(super) async fn receive(&self) -> Arc<Item> {
        loop {
            let received = self.received.notified();
            if let Some(item) = self.items.lock().pop_front() {
                return item;
            }
            received.await;
        }
    }

    /// Drops the items of a channel up to the one with an id, if that is among them.
    pub(super) fn drop_until(&self, channel: &str, id: &str) {
        let mut items = self.items.lock();
        let is_last = |item: &Arc<Item>| item.channel == channel && item.id.as_deref() == Some(id);
        if let Some(last) = items.iter().rposition(is_last) {
            let mut position = 0;
            items.retain(|item| {
                position += 1;
                item.channel != channel || position > last + 1
            });
        }
    }

    /// Returns whether there are items of a channel.
    pub(super) fn has_items(&self, channel: &str) -> bool {
        self.items.lock().iter().any(|item| item.channel == channel)
    }
}

impl Subscriber for Inbox {
    fn receive(&self, item: &Arc<Item>) {
        self.items.lock().push_back(item.clone());
        self.received.notify_one();
    }
}
