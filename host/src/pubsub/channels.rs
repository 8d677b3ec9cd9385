//! Channels: who listens to what, and how a publication reaches all of them.
//!
//! A [channel](crate::pubsub::channel) is known for a while after its last subscriber has left, or an id
//! was published to nobody, so that one who comes a little later can tell whether something was
//! missed.

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
    metrics::registry::Traffic,
    pubsub::{
        channel::Channel,
        filter::Filters,
        publication::Publication,
        sequencer::{Id, MAX_ID},
        shard::{HoldSubscriber, Occupant, Shard, Subscriber},
    },
};

/// How long a channel that nobody listens to is known.
const LINGER: Duration = Duration::from_secs(60);

/// The most channels that are known without a subscriber.
const MAX_LINGERING: usize = 100_000;

/// How often those are looked for whose time is over.
const SWEEP: Duration = Duration::from_secs(1);

/// All channels of a host.
#[derive(Clone, Default)]
pub(crate) struct Channels(Arc<Inner>);

#[derive(Default)]
struct Inner {
    by_name: RwLock<HashMap<Arc<str>, Arc<Channel>>>,
    /// Those that may have no subscribers, with the time of the next look at each. Locked
    /// after the names.
    lingering: Mutex<VecDeque<(Instant, Arc<str>)>>,
    listened: AtomicUsize,
    subscriptions: AtomicUsize,
    published: Traffic,
    duplicates: Counter,
}

/// Membership in a channel; dropping it ends it.
pub(crate) struct Subscription {
    channels: Channels,
    name: Arc<str>,
    channel: Arc<Channel>,
    shard: Arc<Shard>,
    slot: usize,
}

impl Channels {
    /// No channels yet. What is handed to subscribers is counted as `published`, and what was
    /// published before and is dropped for that as `duplicates`.
    pub(crate) fn new(published: Traffic, duplicates: Counter) -> Self {
        Self(Arc::new(Inner {
            published,
            duplicates,
            ..Inner::default()
        }))
    }

    /// Adds a WebSocket to the channel `name`, which begins to exist with its first
    /// subscriber. Everything published after this returns is delivered, as far as
    /// `filters` let it through.
    pub(crate) fn subscribe(
        &self,
        name: &str,
        subscriber: Arc<dyn Subscriber>,
        filters: Filters,
    ) -> Subscription {
        self.slot(name, Occupant::Socket(subscriber, filters))
    }

    /// Adds a held stream to the channel `name`, as [`Self::subscribe`] does.
    pub(crate) fn hold_stream(&self, name: &str, holder: Arc<dyn HoldSubscriber>) -> Subscription {
        self.slot(name, Occupant::Stream(holder))
    }

    /// Adds a held response to the channel `name`, as [`Self::subscribe`] does.
    pub(crate) fn hold_response(
        &self,
        name: &str,
        holder: Arc<dyn HoldSubscriber>,
    ) -> Subscription {
        self.slot(name, Occupant::Response(holder))
    }

    fn slot(&self, name: &str, slot: Occupant) -> Subscription {
        let mut by_name = self.names();
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
            self.0.listened.fetch_add(1, Relaxed);
        }
        let (shard, slot) = state.add(slot);
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

    /// Gives a publication to everyone on its channel, with those that waited for it, and
    /// says how many it reached so far. Waits while a shard's queue is full; a channel
    /// without subscribers costs a look-up.
    pub(crate) async fn publish(&self, publication: Publication) -> usize {
        let publication = Arc::new(publication);
        let (reached, shards) = loop {
            let Some(channel) = self.find_or_remember(&publication) else {
                return 0;
            };
            // Forgotten meanwhile, it would lose its ids.
            if let Some(published) = channel.publish(&publication) {
                break published;
            }
        };
        for shard in shards {
            shard.room().await;
        }
        reached
    }

    /// Waits until everything published to a channel so far is with its subscribers.
    pub(crate) async fn settled(&self, name: &str) {
        let Some(channel) = self.find(name) else {
            return;
        };
        let shards = channel.lock().shards.clone();
        for shard in shards {
            shard.handed_out().await;
        }
    }

    /// The id that was last published on a channel, where it is known.
    pub(crate) fn last_id(&self, name: &str) -> Option<Id> {
        let channel = self.find(name)?;
        let state = channel.lock();
        state.sequencer.last().cloned()
    }

    /// Forgets the id that was last published on a channel, as what is behind it knows better.
    pub(crate) fn forget_last_id(&self, name: &str) {
        if let Some(channel) = self.find(name) {
            channel.lock().sequencer.forget();
        }
    }

    /// Forgets channels that nobody listens to, in time. Runs until it is dropped.
    pub(crate) async fn sweep(self) {
        let mut ticks = tokio::time::interval(SWEEP);
        loop {
            ticks.tick().await;
            self.tick(Instant::now());
        }
    }

    fn tick(&self, now: Instant) {
        let mut by_name = self.names();
        let mut lingering = self.0.lingering.lock();
        while lingering.front().is_some_and(|(due, _)| *due <= now)
            && let Some((_, name)) = lingering.pop_front()
        {
            let Some(channel) = by_name.get(&name) else {
                continue;
            };
            let mut state = channel.lock();
            let due = state.used + LINGER;
            if state.shards.is_empty() && due > now {
                lingering.push_back((due, name));
                continue;
            }
            let forgotten = state.forget();
            drop(state);
            if forgotten {
                by_name.remove(&name);
            }
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

    fn find_or_remember(&self, publication: &Publication) -> Option<Arc<Channel>> {
        let name = &*publication.channel;
        let known = self.find(name);
        if known.is_some() {
            return known;
        }
        // Nobody listens: only its id is of use, to one who is about to.
        if publication.id.is_none() || name.len() > MAX_ID {
            return None;
        }
        let mut by_name = self.names();
        let channel = by_name
            .entry(name.into())
            .or_insert_with(|| self.new_channel())
            .clone();
        self.linger(&mut by_name, name.into(), &channel);
        Some(channel)
    }

    /// Keeps a channel known for a while.
    fn linger(
        &self,
        by_name: &mut HashMap<Arc<str>, Arc<Channel>>,
        name: Arc<str>,
        channel: &Channel,
    ) {
        let mut state = channel.lock();
        state.used = Instant::now();
        if std::mem::replace(&mut state.lingers, true) {
            return;
        }
        let due = state.used + LINGER;
        drop(state);
        let mut lingering = self.0.lingering.lock();
        lingering.push_back((due, name));
        if lingering.len() > MAX_LINGERING
            && let Some((_, oldest)) = lingering.pop_front()
            && let Some(channel) = by_name.get(&oldest)
        {
            let forgotten = channel.lock().forget();
            if forgotten {
                by_name.remove(&oldest);
            }
        }
    }

    fn names(&self) -> RwLockWriteGuard<'_, HashMap<Arc<str>, Arc<Channel>>> {
        self.0.by_name.write()
    }

    /// How many channels have subscribers.
    pub(crate) fn len(&self) -> usize {
        self.0.listened.load(Relaxed)
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many subscriptions there are, over all channels.
    pub(crate) fn subscriptions(&self) -> usize {
        self.0.subscriptions.load(Relaxed)
    }
}

impl Subscription {
    /// Gives a WebSocket other filters: what was published before this returns is delivered by
    /// the old ones, and what is published after it by the new.
    pub(crate) fn exchange_filters(&self, filters: Filters) {
        // No publication is in the queues of some shards and not yet in others.
        let _state = self.channel.lock();
        self.shard.exchange_filters(self.slot, filters);
    }

    /// The channel's name.
    pub(crate) fn channel(&self) -> &str {
        &self.name
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // The lock on the names is held to the end, so that nobody joins a channel
        // between the look that finds it empty and its removal.
        let mut by_name = self.channels.names();
        let mut state = self.channel.lock();
        if self.shard.remove(self.slot) {
            state
                .shards
                .retain(|shard| !Arc::ptr_eq(shard, &self.shard));
            if state.shards.is_empty() {
                self.channels.0.listened.fetch_sub(1, Relaxed);
                // Nothing is lost with it.
                let is_blank = state.sequencer.is_blank() && state.forget();
                drop(state);
                match is_blank {
                    true => drop(by_name.remove(&self.name)),
                    false => self
                        .channels
                        .linger(&mut by_name, self.name.clone(), &self.channel),
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
