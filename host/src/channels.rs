//! Channels: who listens to what, and how a publication reaches all of them.
//!
//! A channel keeps its subscribers in blocks of [`BLOCK`]. Publishing appends
//! one shared message to each block's queue; one task a block hands it out.
//! A large channel is so spread over the cores and never holds a thread long,
//! and while a block is busy its next messages gather into one delivery, so
//! that a client gets many messages in one write when they come fast.

use std::{
    collections::HashMap,
    fmt, mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

/// Subscribers a block. Small enough that handing a message to all of them,
/// a system call each, does not keep other tasks waiting for a millisecond.
const BLOCK: usize = 128;

/// Bytes that may wait in a block; a publisher waits while there are more.
const BLOCK_QUEUE_BYTES: usize = 1024 * 1024;

/// What a publication does to each subscriber.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// WebSocket frames, complete and unmasked: the same bytes for everyone.
    Frames {
        /// The bytes that go on the wire.
        bytes: Bytes,
        /// How many messages they are.
        messages: usize,
    },
    /// The socket is closed with this close frame.
    Close(Bytes),
    /// The backend is asked to look after the connection now.
    Refresh,
}

/// Takes deliveries. Called from the fan-out, so it must not block.
pub trait Subscriber: Send + Sync + 'static {
    /// Takes one delivery; they come in the order of their publication.
    fn deliver(&self, delivery: &Delivery);
}

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

#[derive(Default)]
struct Block {
    /// Copied only when it changes during a fan-out.
    subscribers: Mutex<Arc<Slots>>,
    queue: Mutex<Queue>,
    /// Told when the queue was taken.
    taken: Notify,
}

#[derive(Clone, Default)]
struct Slots {
    slots: Vec<Option<Arc<dyn Subscriber>>>,
    used: usize,
}

#[derive(Default)]
struct Queue {
    deliveries: Vec<Delivery>,
    bytes: usize,
    /// A task is handing deliveries out and will look again.
    busy: bool,
}

/// Membership in a channel; dropping it ends it.
pub struct Subscription {
    channels: Channels,
    name: Arc<str>,
    channel: Arc<Channel>,
    block: Arc<Block>,
    slot: usize,
}

impl Channels {
    /// Adds `subscriber` to the channel `name`, which begins to exist with its
    /// first subscriber. Everything published after this returns is delivered.
    pub fn subscribe(&self, name: &str, subscriber: Arc<dyn Subscriber>) -> Subscription {
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
        let (block, slot) = channel.add(subscriber);
        self.0.subscriptions.fetch_add(1, Relaxed);
        Subscription {
            channels: self.clone(),
            name,
            channel,
            block,
            slot,
        }
    }

    /// Gives `delivery` to everyone who is subscribed to `name`, and says how many
    /// that are. Waits while a channel's queue is full; a channel without
    /// subscribers costs a look-up.
    pub async fn publish(&self, name: &str, delivery: Delivery) -> usize {
        let channel = {
            let by_name = self
                .0
                .by_name
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            match by_name.get(name) {
                Some(channel) => channel.clone(),
                None => return 0,
            }
        };
        let blocks = lock(&channel.blocks).clone();
        let mut reached = 0;
        for block in blocks {
            reached += lock(&block.subscribers).used;
            block.push(delivery.clone()).await;
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
    fn add(&self, subscriber: Arc<dyn Subscriber>) -> (Arc<Block>, usize) {
        let mut blocks = lock(&self.blocks);
        // The last blocks are the ones with room, but for those that others left.
        for block in blocks.iter().rev() {
            let mut slots = lock(&block.subscribers);
            if slots.used < BLOCK {
                let slot = Arc::make_mut(&mut slots).add(subscriber);
                drop(slots);
                return (block.clone(), slot);
            }
        }
        let block = Arc::new(Block::default());
        let slot = Arc::make_mut(&mut lock(&block.subscribers)).add(subscriber);
        blocks.push(block.clone());
        (block, slot)
    }
}

impl Slots {
    fn add(&mut self, subscriber: Arc<dyn Subscriber>) -> usize {
        self.used += 1;
        match self.slots.iter().position(Option::is_none) {
            Some(free) => {
                self.slots[free] = Some(subscriber);
                free
            }
            None => {
                self.slots.push(Some(subscriber));
                self.slots.len() - 1
            }
        }
    }
}

impl Block {
    async fn push(self: &Arc<Self>, delivery: Delivery) {
        let size = delivery.size();
        loop {
            // Registered before the look, so that no wake is missed between them.
            let taken = self.taken.notified();
            {
                let mut queue = lock(&self.queue);
                // An empty queue takes anything: a single large message must get through.
                if queue.bytes == 0 || queue.bytes + size <= BLOCK_QUEUE_BYTES {
                    queue.bytes += size;
                    queue.deliveries.push(delivery);
                    if !mem::replace(&mut queue.busy, true) {
                        tokio::spawn(Arc::clone(self).hand_out());
                    }
                    return;
                }
            }
            taken.await;
        }
    }

    async fn hand_out(self: Arc<Self>) {
        loop {
            let deliveries = {
                let mut queue = lock(&self.queue);
                if queue.deliveries.is_empty() {
                    queue.busy = false;
                    return;
                }
                queue.bytes = 0;
                mem::take(&mut queue.deliveries)
            };
            self.taken.notify_waiters();
            let subscribers = lock(&self.subscribers).clone();
            for delivery in gather(deliveries) {
                for subscriber in subscribers.slots.iter().flatten() {
                    subscriber.deliver(&delivery);
                }
            }
            drop(subscribers);
            tokio::task::yield_now().await;
        }
    }
}

/// Joins frames that follow each other, so that each client gets them in one write.
fn gather(deliveries: Vec<Delivery>) -> Vec<Delivery> {
    fn close_run(run: &mut Vec<(Bytes, usize)>, gathered: &mut Vec<Delivery>) {
        let messages = run.iter().map(|(_, messages)| messages).sum();
        match run.len() {
            0 => {}
            1 => gathered.extend(
                run.pop()
                    .map(|(bytes, messages)| Delivery::Frames { bytes, messages }),
            ),
            _ => {
                let mut joined =
                    BytesMut::with_capacity(run.iter().map(|(bytes, _)| bytes.len()).sum());
                run.drain(..)
                    .for_each(|(bytes, _)| joined.extend_from_slice(&bytes));
                gathered.push(Delivery::Frames {
                    bytes: joined.freeze(),
                    messages,
                });
            }
        }
    }
    let mut gathered = Vec::with_capacity(1);
    let mut run = Vec::new();
    for delivery in deliveries {
        match delivery {
            Delivery::Frames { bytes, messages } => run.push((bytes, messages)),
            other => {
                close_run(&mut run, &mut gathered);
                gathered.push(other);
            }
        }
    }
    close_run(&mut run, &mut gathered);
    gathered
}

impl Delivery {
    /// Bytes it counts for in a queue; never 0.
    fn size(&self) -> usize {
        match self {
            Self::Frames { bytes, .. } | Self::Close(bytes) => bytes.len() + 1,
            Self::Refresh => 1,
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
        let block_is_empty = {
            let mut slots = lock(&self.block.subscribers);
            let slots = Arc::make_mut(&mut slots);
            slots.slots[self.slot] = None;
            slots.used -= 1;
            slots.used == 0
        };
        if block_is_empty {
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
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Inbox(Mutex<Vec<u8>>, Notify);

    impl Subscriber for Inbox {
        fn deliver(&self, delivery: &Delivery) {
            if let Delivery::Frames { bytes, .. } = delivery {
                lock(&self.0).extend_from_slice(bytes);
            }
            self.1.notify_one();
        }
    }

    impl Inbox {
        async fn holds(&self, wanted: &[u8]) {
            while *lock(&self.0) != wanted {
                self.1.notified().await;
            }
        }
    }

    fn frames(text: &str) -> Delivery {
        Delivery::Frames {
            bytes: Bytes::copy_from_slice(text.as_bytes()),
            messages: 1,
        }
    }

    #[tokio::test]
    async fn everyone_gets_everything_in_order() {
        let channels = Channels::default();
        let inboxes: Vec<_> = (0..3 * BLOCK + 1)
            .map(|_| Arc::new(Inbox::default()))
            .collect();
        let subscriptions: Vec<_> = inboxes
            .iter()
            .map(|inbox| channels.subscribe("orders", inbox.clone()))
            .collect();
        assert_eq!(
            (channels.len(), channels.subscriptions()),
            (1, 3 * BLOCK + 1)
        );
        let mut wanted = String::new();
        for n in 0..50 {
            assert_eq!(
                channels.publish("orders", frames(&format!("{n};"))).await,
                inboxes.len()
            );
            wanted += &format!("{n};");
        }
        for inbox in &inboxes {
            inbox.holds(wanted.as_bytes()).await;
        }
        drop(subscriptions);
        assert_eq!((channels.len(), channels.subscriptions()), (0, 0));
        assert_eq!(channels.publish("orders", frames("nobody")).await, 0);
    }

    #[tokio::test]
    async fn a_slot_is_used_again_and_the_left_hear_nothing() {
        let channels = Channels::default();
        let (left, stays, joins) = <(Arc<Inbox>, Arc<Inbox>, Arc<Inbox>)>::default();
        let leaving = channels.subscribe("c", left.clone());
        let _stays = channels.subscribe("c", stays.clone());
        drop(leaving);
        let _joins = channels.subscribe("c", joins.clone());
        channels.publish("c", frames("x")).await;
        stays.holds(b"x").await;
        joins.holds(b"x").await;
        left.holds(b"").await;
    }

    #[tokio::test]
    async fn a_full_queue_makes_the_publisher_wait_and_loses_nothing() {
        let channels = Channels::default();
        let inbox = Arc::new(Inbox::default());
        let _subscription = channels.subscribe("c", inbox.clone());
        let large = "x".repeat(BLOCK_QUEUE_BYTES / 2);
        for _ in 0..8 {
            channels.publish("c", frames(&large)).await;
        }
        inbox.holds(large.repeat(8).as_bytes()).await;
    }

    #[test]
    fn a_close_keeps_its_place_between_frames() {
        let close = Delivery::Close(Bytes::from_static(b"bye"));
        let gathered = gather(vec![frames("a"), frames("b"), close.clone(), frames("c")]);
        let joined = Delivery::Frames {
            bytes: Bytes::from_static(b"ab"),
            messages: 2,
        };
        assert_eq!(gathered, [joined, close, frames("c")]);
    }
}
