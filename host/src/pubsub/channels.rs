//! The table of channels: subscriptions, and publishing by a channel's name.
//!
//! A channel is kept for a while after its last subscriber has left, or after an id was published
//! without subscribers. A client that subscribes shortly afterwards can then detect whether it has
//! missed something.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::{Mutex, RwLock, RwLockWriteGuard};
use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

use crate::{
    config::Limits,
    metrics::registry::Traffic,
    pubsub::{
        channel::Channel,
        filter::Filters,
        publication::Publication,
        sequencer::{Id, MAX_ID_BYTES},
        shard::{HoldSubscriber, Shard, SocketSubscriber, Subscriber},
    },
};

/// How long a channel without subscribers is kept.
const IDLE_CHANNEL_LIFETIME: Duration = Limits::DEFAULT.idle_channel_lifetime;

/// The most channels that are kept without subscribers.
const MAX_IDLE_CHANNELS: usize = Limits::DEFAULT.max_idle_channels;

/// How often expired channels are removed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The entries that the tables have room for at all times.
const SPARE_CAPACITY: usize = 1024;

/// All channels of a host.
#[derive(Clone, Default)]
pub(crate) struct Channels(Arc<Inner>);

#[derive(Default)]
struct Inner {
    by_name: RwLock<HashMap<Arc<str>, Arc<Channel>>>,
    /// Channels that may have no subscribers, with the time of the next check. Locked after
    /// `by_name`.
    lingering: Mutex<VecDeque<(Instant, Arc<str>)>>,
    /// The number of channels with subscribers.
    subscribed: AtomicUsize,
    subscriptions: AtomicUsize,
    published: Traffic,
    duplicates: Counter,
}

/// A subscription to a channel, which ends when this is dropped.
pub(crate) struct Subscription {
    channels: Channels,
    name: Arc<str>,
    channel: Arc<Channel>,
    shard: Arc<Shard>,
    slot: usize,
}

impl Channels {
    /// Creates an empty table, which counts what is queued for subscribers as `published` and
    /// publications dropped for their repeated ids as `duplicates`.
    pub(crate) fn new(published: Traffic, duplicates: Counter) -> Self {
        Self(Arc::new(Inner {
            published,
            duplicates,
            ..Inner::default()
        }))
    }

    /// Subscribes a WebSocket to the channel `name`. It receives everything published after this
    /// returns that its filters accept.
    pub(crate) fn subscribe(
        &self,
        name: &str,
        socket: Arc<dyn SocketSubscriber>,
        filters: Filters,
    ) -> Subscription {
        self.add(name, Subscriber::Socket(socket, filters))
    }

    /// Subscribes a held stream, as [`Self::subscribe`] does.
    pub(crate) fn subscribe_stream(
        &self,
        name: &str,
        hold: Arc<dyn HoldSubscriber>,
    ) -> Subscription {
        self.add(name, Subscriber::Stream(hold))
    }

    /// Subscribes a held response, as [`Self::subscribe`] does.
    pub(crate) fn subscribe_response(
        &self,
        name: &str,
        hold: Arc<dyn HoldSubscriber>,
    ) -> Subscription {
        self.add(name, Subscriber::Response(hold))
    }

    fn add(&self, name: &str, subscriber: Subscriber) -> Subscription {
        let mut by_name = self.lock();
        let (name, channel) = match by_name.get_key_value(name) {
            Some((name, channel)) => (name.clone(), channel.clone()),
            None => {
                let (name, channel) = (Arc::from(name), self.new_channel());
                by_name.insert(Arc::clone(&name), Arc::clone(&channel));
                (name, channel)
            }
        };
        let mut state = channel.lock();
        if state.shards.is_empty() {
            self.0.subscribed.fetch_add(1, Relaxed);
        }
        let (shard, slot) = state.add(subscriber);
        drop(state);
        self.0.subscriptions.fetch_add(1, Relaxed);
        Subscription {
            channels: self.clone(),
            name,
            channel,
            shard,
            slot,
        }
    }

    /// Publishes to all subscribers of a channel, together with publications that waited for this
    /// one, and returns how many were reached.
    ///
    /// Waits while the queue of a shard is full. A channel without subscribers costs one lookup.
    pub(crate) async fn publish(&self, publication: Publication) -> usize {
        let publication = Arc::new(publication);
        let (reached, full_shards) = loop {
            let Some(channel) = self.find_or_linger(&publication) else {
                return 0;
            };
            // Tried again if the channel was removed meanwhile, which would lose the id.
            if let Some(published) = channel.publish(&publication) {
                break published;
            }
        };
        for shard in full_shards {
            shard.ready().await;
        }
        reached
    }

    /// Waits until everything published to a channel so far has been delivered.
    pub(crate) async fn wait_delivered(&self, name: &str) {
        let Some(channel) = self.find(name) else {
            return;
        };
        let shards = channel.lock().shards.clone();
        for shard in shards {
            shard.delivered().await;
        }
    }

    /// Returns the id last published to a channel, if known.
    pub(crate) fn last_id(&self, name: &str) -> Option<Id> {
        let channel = self.find(name)?;
        let state = channel.lock();
        state.sequencer.last_id().cloned()
    }

    /// Forgets the id last published to a channel, after the backend has contradicted it.
    pub(crate) fn forget_last_id(&self, name: &str) {
        if let Some(channel) = self.find(name) {
            channel.lock().sequencer.forget_last_id();
        }
    }

    /// Removes channels whose time without subscribers is over. Runs until it is dropped.
    pub(crate) async fn sweep(self) {
        let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
        loop {
            ticks.tick().await;
            self.tick(Instant::now());
        }
    }

    fn tick(&self, now: Instant) {
        let mut by_name = self.lock();
        let mut lingering = self.0.lingering.lock();
        while lingering.front().is_some_and(|(due, _)| *due <= now)
            && let Some((_, name)) = lingering.pop_front()
        {
            let Some(channel) = by_name.get(&name) else {
                continue;
            };
            let mut state = channel.lock();
            let due = state.last_used + IDLE_CHANNEL_LIFETIME;
            if state.shards.is_empty() && due > now {
                lingering.push_back((due, name));
                continue;
            }
            let removed = state.try_remove();
            drop(state);
            if removed {
                by_name.remove(&name);
            }
        }
        // Gives back the memory of a burst.
        if by_name.capacity() > SPARE_CAPACITY + 4 * by_name.len() {
            by_name.shrink_to(SPARE_CAPACITY);
        }
        if lingering.capacity() > SPARE_CAPACITY + 4 * lingering.len() {
            lingering.shrink_to(SPARE_CAPACITY);
        }
    }

    fn new_channel(&self) -> Arc<Channel> {
        Arc::new(Channel::new(
            self.0.published.clone(),
            self.0.duplicates.clone(),
        ))
    }

    fn find(&self, name: &str) -> Option<Arc<Channel>> {
        self.0.by_name.read().get(name).cloned()
    }

    fn find_or_linger(&self, publication: &Publication) -> Option<Arc<Channel>> {
        let name = &*publication.channel;
        let channel = self.find(name);
        if channel.is_some() {
            return channel;
        }
        // Without subscribers only the id is of use, to those that subscribe soon. Names that are
        // longer than an id may be are not worth the memory.
        if publication.id.is_none() || name.len() > MAX_ID_BYTES {
            return None;
        }
        let mut by_name = self.lock();
        let channel = by_name
            .entry(name.into())
            .or_insert_with(|| self.new_channel())
            .clone();
        self.linger(&mut by_name, name.into(), &channel);
        Some(channel)
    }

    /// Keeps a channel without subscribers for a while.
    fn linger(
        &self,
        by_name: &mut HashMap<Arc<str>, Arc<Channel>>,
        name: Arc<str>,
        channel: &Channel,
    ) {
        let mut state = channel.lock();
        state.last_used = Instant::now();
        if std::mem::replace(&mut state.lingers, true) {
            return;
        }
        let due = state.last_used + IDLE_CHANNEL_LIFETIME;
        drop(state);
        let mut lingering = self.0.lingering.lock();
        lingering.push_back((due, name));
        if lingering.len() > MAX_IDLE_CHANNELS
            && let Some((_, oldest)) = lingering.pop_front()
            && let Some(channel) = by_name.get(&oldest)
        {
            let removed = channel.lock().try_remove();
            if removed {
                by_name.remove(&oldest);
            }
        }
    }

    fn lock(&self) -> RwLockWriteGuard<'_, HashMap<Arc<str>, Arc<Channel>>> {
        self.0.by_name.write()
    }

    /// Returns the number of channels with subscribers.
    pub(crate) fn len(&self) -> usize {
        self.0.subscribed.load(Relaxed)
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of subscriptions to all channels.
    pub(crate) fn subscriptions(&self) -> usize {
        self.0.subscriptions.load(Relaxed)
    }
}

impl Subscription {
    /// Replaces the filters of a WebSocket. They apply to what is published after this returns.
    pub(crate) fn replace_filters(&self, filters: Filters) {
        // Locked so that no publication is queued in only some of the shards.
        let _state = self.channel.lock();
        self.shard.replace_filters(self.slot, filters);
    }

    /// Returns the channel's name.
    pub(crate) fn channel(&self) -> &str {
        &self.name
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // The table stays locked until the end, so that no subscriber is added between finding
        // the channel empty and removing it.
        let mut by_name = self.channels.lock();
        let mut state = self.channel.lock();
        if self.shard.remove(self.slot) {
            state
                .shards
                .retain(|shard| !Arc::ptr_eq(shard, &self.shard));
            if state.shards.is_empty() {
                self.channels.0.subscribed.fetch_sub(1, Relaxed);
                // A channel with an empty sequencer has nothing worth keeping.
                let removed = state.sequencer.is_empty() && state.try_remove();
                drop(state);
                if removed {
                    by_name.remove(&self.name);
                } else {
                    self.channels
                        .linger(&mut by_name, self.name.clone(), &self.channel);
                }
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

#[cfg(test)]
mod tests;
