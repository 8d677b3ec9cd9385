//! Channels: who listens to what, and how a publication reaches all of them.
//!
//! A channel keeps its subscribers in [blocks](crate::block), each of which hands
//! publications out by itself.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use crate::{
    block::{Block, Seat},
    filter::Filters,
};
pub use crate::{
    block::{Holder, Subscriber},
    publication::{Delivery, Publication},
};

/// All channels of a host.
#[derive(Clone, Default)]
pub struct Channels(Arc<Inner>);

#[derive(Default)]
struct Inner {
    by_name: RwLock<HashMap<Arc<str>, Arc<Channel>>>,
    subscriptions: AtomicUsize,
}

#[derive(Default)]
struct Channel {
    blocks: Mutex<Vec<Arc<Block>>>,
}

/// Membership in a channel; dropping it ends it.
pub struct Subscription {
    channels: Channels,
    name: Arc<str>,
    channel: Arc<Channel>,
    block: Arc<Block>,
    seat: usize,
}

impl Channels {
    /// Adds a WebSocket to the channel `name`, which begins to exist with its first
    /// subscriber. Everything published after this returns is delivered, as far as
    /// `filters` let it through.
    pub fn subscribe(
        &self,
        name: &str,
        subscriber: Arc<dyn Subscriber>,
        filters: Filters,
    ) -> Subscription {
        self.seat(
            name,
            match filters.is_empty() {
                true => Seat::Socket(subscriber),
                false => Seat::Filtered(subscriber, filters),
            },
        )
    }

    /// Adds a held stream to the channel `name`, as [`Self::subscribe`] does.
    pub fn hold_stream(&self, name: &str, holder: Arc<dyn Holder>) -> Subscription {
        self.seat(name, Seat::Stream(holder))
    }

    /// Adds a held response to the channel `name`, as [`Self::subscribe`] does.
    pub fn hold_response(&self, name: &str, holder: Arc<dyn Holder>) -> Subscription {
        self.seat(name, Seat::Response(holder))
    }

    fn seat(&self, name: &str, seat: Seat) -> Subscription {
        let mut by_name = self
            .0
            .by_name
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let (name, channel) = match by_name.get_key_value(name) {
            Some((name, channel)) => (name.clone(), channel.clone()),
            None => {
                let (name, channel) = (Arc::from(name), Arc::new(Channel::default()));
                by_name.insert(Arc::clone(&name), Arc::clone(&channel));
                (name, channel)
            }
        };
        let (block, seat) = channel.add(seat);
        self.0.subscriptions.fetch_add(1, Relaxed);
        Subscription {
            channels: self.clone(),
            name,
            channel,
            block,
            seat,
        }
    }

    /// Gives a publication to everyone on its channel, and says how many that are. Waits
    /// while a channel's queue is full; a channel without subscribers costs a look-up.
    pub async fn publish(&self, publication: Publication) -> usize {
        let channel = {
            let by_name = self
                .0
                .by_name
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            match by_name.get(&*publication.channel) {
                Some(channel) => channel.clone(),
                None => return 0,
            }
        };
        let publication = Arc::new(publication);
        let blocks = lock(&channel.blocks).clone();
        let mut reached = 0;
        for block in blocks {
            reached += block.push(&publication).await;
        }
        reached
    }

    /// How many channels have subscribers.
    pub fn len(&self) -> usize {
        self.0
            .by_name
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Whether nobody is subscribed to anything.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many subscriptions there are, over all channels.
    pub fn subscriptions(&self) -> usize {
        self.0.subscriptions.load(Relaxed)
    }
}

impl Channel {
    fn add(&self, mut seat: Seat) -> (Arc<Block>, usize) {
        let mut blocks = lock(&self.blocks);
        // The last blocks are the ones with room, but for those that others left.
        for block in blocks.iter().rev() {
            match block.add(seat) {
                Ok(number) => return (block.clone(), number),
                Err(back) => seat = back,
            }
        }
        let block = Block::new(seat.kind());
        blocks.push(block.clone());
        match block.add(seat) {
            Ok(number) => (block, number),
            Err(_) => unreachable!("an empty block of the seat's own kind has room"),
        }
    }
}

impl Subscription {
    /// The channel's name.
    pub fn channel(&self) -> &str {
        &self.name
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // The lock on the names is held to the end, so that nobody joins a channel
        // between the look that finds it empty and its removal.
        let mut by_name = self
            .channels
            .0
            .by_name
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if self.block.remove(self.seat) {
            let mut blocks = lock(&self.channel.blocks);
            blocks.retain(|block| !Arc::ptr_eq(block, &self.block));
            if blocks.is_empty() {
                by_name.remove(&self.name);
            }
        }
        self.channels.0.subscriptions.fetch_sub(1, Relaxed);
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Subscription({})", self.name)
    }
}

/// A panic elsewhere leaves nothing half-done under these locks.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
