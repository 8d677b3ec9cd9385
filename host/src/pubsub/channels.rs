//! The table of channels: subscriptions, and publishing by a channel's name.
//!
//! A channel is kept for a while after its last subscriber has left, or after an id was published
//! without subscribers. A client that subscribes shortly afterwards can then detect whether it has
//! missed something.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock, RwLockWriteGuard};
use serde::Serialize;
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use crate::{
    config::{ChannelRules, HistoryLimits, Limits},
    pubsub::{
        channel::{Channel, ChannelCounters, State},
        cursor::{Cursor, Position},
        filter::Filters,
        history::{Budget, History, HistorySize},
        publication::Publication,
        replica::Waiting,
        sequencer::{Id, MAX_ID_BYTES},
        shard::{HoldSubscriber, Kind, Shard, Socket, SocketSubscriber, Subscriber},
    },
};

/// The most channels that are kept without subscribers.
const MAX_IDLE_CHANNELS: usize = Limits::DEFAULT.max_idle_channels;

/// The memory that the histories of all channels may take, in bytes.
const MAX_HISTORY_BYTES: usize = Limits::DEFAULT.max_history_bytes;

/// How often expired channels and items are removed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The entries that the tables have room for at all times.
const SPARE_CAPACITY: usize = 1024;

/// All channels of a host.
#[derive(Clone)]
pub(crate) struct Channels(Arc<Inner>);

struct Inner {
    /// Which channels have a history.
    rules: ArcSwap<ChannelRules>,
    history_budget: Arc<Budget>,
    by_name: RwLock<HashMap<Arc<str>, Arc<Channel>>>,
    /// Channels that may have no subscribers, with the time of the next check. Locked after
    /// `by_name`.
    lingering: Mutex<VecDeque<(Instant, Arc<str>)>>,
    /// Channels whose history has items, by the time when the oldest expires.
    expiring: Mutex<BTreeMap<(Instant, u64), Weak<Channel>>>,
    next_expiring: AtomicU64,
    /// The number of channels with subscribers.
    subscribed: AtomicUsize,
    subscriptions: AtomicUsize,
    counters: ChannelCounters,
    /// The channels that were created or removed, for the bus. `None` without one.
    changed: Option<Changed>,
}

/// Names of channels, each once.
#[derive(Default)]
struct Changed {
    names: Mutex<HashSet<Arc<str>>>,
    notify: Notify,
}

/// From which item on a WebSocket receives a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// The next one that is published.
    Live,
    /// The one after the item with this id.
    After(Id),
    /// The oldest of this many, the newest that are known.
    Newest(u32),
}

/// A channel, as the control port lists it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct ChannelReport {
    pub(crate) channel: String,
    pub(crate) subscribers: usize,
    /// The size of its history, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) history: Option<HistorySize>,
    /// The id that was last published, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_id: Option<String>,
    /// The seconds since something was published, or the last subscriber left.
    pub(crate) idle: u64,
}

/// A subscription to a channel, which ends when this is dropped.
pub(crate) struct Subscription {
    channels: Channels,
    name: Arc<str>,
    channel: Arc<Channel>,
    shard: Arc<Shard>,
    slot: usize,
}

impl Default for Channels {
    fn default() -> Self {
        Self::new(ChannelRules::default(), ChannelCounters::default(), false)
    }
}

impl Channels {
    /// Creates an empty table. With `has_bus`, the items of all channels come from the bus.
    pub(crate) fn new(rules: ChannelRules, counters: ChannelCounters, has_bus: bool) -> Self {
        Self(Arc::new(Inner {
            changed: has_bus.then(Changed::default),
            rules: ArcSwap::from_pointee(rules),
            history_budget: Budget::new(MAX_HISTORY_BYTES),
            by_name: RwLock::default(),
            lingering: Mutex::default(),
            expiring: Mutex::default(),
            next_expiring: AtomicU64::new(0),
            subscribed: AtomicUsize::new(0),
            subscriptions: AtomicUsize::new(0),
            counters,
        }))
    }

    /// Changes which channels have a history. A channel without one gets it when it is created anew.
    pub(crate) fn set_rules(&self, rules: ChannelRules) {
        self.0.rules.store(Arc::new(rules));
        let rules = self.0.rules.load();
        for (name, channel) in &*self.0.by_name.read() {
            if let Some(limits) = rules.history(name)
                && let Some(history) = &mut channel.lock().history
            {
                history.set_limits(limits, Instant::now());
            }
        }
    }

    /// Subscribes a WebSocket to the channel `name`. It receives everything from `start` on that its
    /// filters accept, in order: what is known before this returns, as far as there is room, and then
    /// what is published.
    ///
    /// If not everything from `start` on is known, it receives [`Delivery::Missed`] instead, and then
    /// what is published.
    pub(crate) fn subscribe_from(
        &self,
        name: &str,
        subscriber: Arc<dyn SocketSubscriber>,
        filters: Filters,
        start: Start,
    ) -> Subscription {
        self.add(name, |state| {
            let position = match &state.waiting {
                Some(_) => Position::WAITING,
                None => state.begin(name, &*subscriber, &start, &self.0.counters),
            };
            let has_history = state.history.is_some();
            let cursor = has_history.then(|| Arc::new(Cursor::new(position)));
            if let (Some(waiting), Some(cursor)) = (&mut state.waiting, &cursor) {
                // Bounds those whose clients have left.
                if waiting.len() == waiting.capacity() {
                    waiting.retain(Waiting::exists);
                }
                waiting.push(Waiting::new(cursor, subscriber.clone(), start));
            }
            Subscriber::Socket(Socket {
                subscriber,
                filters,
                cursor,
            })
        })
    }

    /// Subscribes a WebSocket to what is published from now on.
    #[cfg(test)]
    pub(crate) fn subscribe(
        &self,
        name: &str,
        subscriber: Arc<dyn SocketSubscriber>,
        filters: Filters,
    ) -> Subscription {
        self.subscribe_from(name, subscriber, filters, Start::Live)
    }

    /// Subscribes a held stream to what is published from now on. If the history knows what has
    /// followed the item `after`, it receives that first.
    pub(crate) fn subscribe_stream(
        &self,
        name: &str,
        hold: Arc<dyn HoldSubscriber>,
        after: Option<&str>,
    ) -> Subscription {
        self.add(name, |state| {
            if let Some(history) = &mut state.history {
                history.trim(Instant::now());
                let offset = after.and_then(|id| history.offset_after(id));
                let missed = offset.and_then(|offset| history.since(offset));
                let missed = missed.into_iter().flatten();
                missed
                    .filter(|publication| publication.stream.is_some())
                    .for_each(|publication| hold.deliver(publication));
            }
            Subscriber::Stream(hold)
        })
    }

    /// Subscribes a held response, as [`Self::subscribe_stream`] does.
    pub(crate) fn subscribe_response(
        &self,
        name: &str,
        hold: Arc<dyn HoldSubscriber>,
    ) -> Subscription {
        self.add(name, |_| Subscriber::Response(hold))
    }

    /// Observes a channel: `observer` receives the newest `recent` items of its history, and then all
    /// forms of what is published. It is not counted as a subscriber.
    pub(crate) fn observe(
        &self,
        name: &str,
        observer: Arc<dyn HoldSubscriber>,
        recent: u64,
    ) -> Subscription {
        self.add(name, |state| {
            if let Some(history) = &mut state.history {
                history.trim(Instant::now());
                let items = history.since(history.offset_of_newest(recent));
                let items = items.into_iter().flatten();
                items.for_each(|publication| observer.deliver(publication));
            }
            Subscriber::Observer(observer)
        })
    }

    /// Adds a subscriber, which `subscriber` creates while the channel is locked.
    fn add(&self, name: &str, subscriber: impl FnOnce(&mut State) -> Subscriber) -> Subscription {
        let mut by_name = self.lock();
        let (name, channel) = match by_name.get_key_value(name) {
            Some((name, channel)) => (name.clone(), channel.clone()),
            None => {
                let (name, channel) = (Arc::from(name), self.new_channel(name));
                by_name.insert(Arc::clone(&name), Arc::clone(&channel));
                (name, channel)
            }
        };
        let mut state = channel.lock();
        // The history may be long, and other channels need not wait for it.
        drop(by_name);
        let had_subscribers = state.has_subscribers();
        let subscriber = subscriber(&mut state);
        let (shard, slot) = state.add(subscriber, &self.0.counters.delivery_times);
        if !had_subscribers && state.has_subscribers() {
            self.0.subscribed.fetch_add(1, Relaxed);
        }
        if let Some(history) = &state.history {
            // Nothing can be published before this is delivered. It is known at this point.
            shard.catch_up(slot, history);
        }
        drop(state);
        if shard.kind() != Kind::Observer {
            self.0.subscriptions.fetch_add(1, Relaxed);
        }
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
            if let Some((reached, full_shards, expiry)) = channel.publish(&publication) {
                self.expire_at(expiry, &channel);
                break (reached, full_shards);
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
        self.expire(now);
        let mut by_name = self.lock();
        let mut lingering = self.0.lingering.lock();
        while lingering.front().is_some_and(|(due, _)| *due <= now)
            && let Some((_, name)) = lingering.pop_front()
        {
            let Some(channel) = by_name.get(&name) else {
                continue;
            };
            let mut state = channel.lock();
            let due = state.idle_until();
            if state.shards.is_empty() && due > now {
                lingering.push_back((due, name));
                continue;
            }
            let removed = state.try_remove();
            drop(state);
            if removed {
                by_name.remove(&name);
                self.record_change(&name);
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

    /// Removes old items of a channel later, if [`State::start_expiry`] has returned when.
    pub(super) fn expire_at(&self, expiry: Option<Instant>, channel: &Arc<Channel>) {
        if let Some(due) = expiry {
            let number = self.0.next_expiring.fetch_add(1, Relaxed);
            let mut expiring = self.0.expiring.lock();
            expiring.insert((due, number), Arc::downgrade(channel));
        }
    }

    /// Removes the items of all histories that are too old.
    fn expire(&self, now: Instant) {
        loop {
            let due = {
                let mut expiring = self.0.expiring.lock();
                match expiring.first_entry() {
                    Some(first) if first.key().0 <= now => first.remove(),
                    _ => return,
                }
            };
            let Some(channel) = due.upgrade() else {
                continue;
            };
            let mut state = channel.lock();
            state.expires = false;
            if let Some(history) = &mut state.history {
                history.trim(now);
            }
            let expiry = state.start_expiry();
            drop(state);
            self.expire_at(expiry, &channel);
        }
    }

    /// Returns the bounds of a channel's history, if it is to have one.
    pub(super) fn history_limits(&self, name: &str) -> Option<HistoryLimits> {
        self.0.rules.load().history(name)
    }

    fn new_channel(&self, name: &str) -> Arc<Channel> {
        let has_bus = self.0.changed.is_some();
        let limits = match self.history_limits(name) {
            // The bus may have to fill gaps.
            None if has_bus => Some(HistoryLimits::SHORT),
            limits => limits,
        };
        self.record_change(name);
        let history = limits.map(|limits| History::new(limits, self.0.history_budget.clone()));
        Arc::new(Channel::new(history, self.0.counters.clone(), has_bus))
    }

    /// Returns the names of channels that were created or removed since the last call. Waits until
    /// there is one. Never completes without a bus.
    pub(crate) async fn changed(&self) -> Vec<Arc<str>> {
        let Some(changed) = &self.0.changed else {
            return std::future::pending().await;
        };
        loop {
            let names = std::mem::take(&mut *changed.names.lock());
            if !names.is_empty() {
                return names.into_iter().collect();
            }
            changed.notify.notified().await;
        }
    }

    /// Returns whether there is a channel with this name.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.0.by_name.read().contains_key(name)
    }

    fn record_change(&self, name: &str) {
        if let Some(changed) = &self.0.changed {
            changed.names.lock().insert(name.into());
            changed.notify.notify_one();
        }
    }

    pub(super) fn find(&self, name: &str) -> Option<Arc<Channel>> {
        self.0.by_name.read().get(name).cloned()
    }

    fn find_or_linger(&self, publication: &Publication) -> Option<Arc<Channel>> {
        let name = &*publication.channel;
        let channel = self.find(name);
        if channel.is_some() {
            return channel;
        }
        // Without subscribers and without a history, only the id is of use, to those that subscribe
        // soon. Names that are longer than an id may be are not worth the memory.
        let has_history = self.0.rules.load().history(name).is_some();
        if publication.id.is_none() && !has_history || name.len() > MAX_ID_BYTES {
            return None;
        }
        let mut by_name = self.lock();
        let channel = by_name
            .entry(name.into())
            .or_insert_with(|| self.new_channel(name))
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
        let due = state.idle_until();
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
                self.record_change(&oldest);
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

    /// Returns the number of subscribers of a channel.
    pub(crate) fn subscribers(&self, name: &str) -> usize {
        self.find(name)
            .map_or(0, |channel| channel.lock().subscribers())
    }

    /// Returns the names of the channels.
    pub(crate) fn names(&self) -> Vec<Arc<str>> {
        self.0.by_name.read().keys().cloned().collect()
    }

    /// Returns the channels whose names start with `prefix`, up to `limit`, those with the most
    /// subscribers first, and the number of all of them.
    pub(crate) fn list(&self, prefix: &str, limit: usize) -> (Vec<ChannelReport>, usize) {
        let channels: Vec<_> = {
            let by_name = self.0.by_name.read();
            let selected = by_name.iter().filter(|(name, _)| name.starts_with(prefix));
            let cloned = selected.map(|(name, channel)| (name.clone(), channel.clone()));
            cloned.collect()
        };
        // Channels are locked one at a time, so that none waits for the list.
        let counted = channels.into_iter().map(|(name, channel)| {
            let subscribers = channel.lock().subscribers();
            (Reverse(subscribers), name, channel)
        });
        let mut counted: Vec<_> = counted.collect();
        let total = counted.len();
        counted.sort_unstable_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        counted.truncate(limit);
        let reports = counted
            .into_iter()
            .map(|(Reverse(subscribers), name, channel)| {
                let state = channel.lock();
                ChannelReport {
                    channel: name.to_string(),
                    subscribers,
                    history: state.history.as_ref().map(History::size),
                    last_id: state.sequencer.last_id().map(|id| id.to_string()),
                    idle: state.last_used.elapsed().as_secs(),
                }
            });
        (reports.collect(), total)
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

    /// Delivers what the WebSocket had no room for, as far as it has now.
    pub(crate) fn catch_up(&self) {
        let state = self.channel.lock();
        if let Some(history) = &state.history {
            self.shard.catch_up(self.slot, history);
        }
    }

    /// Returns whether the channel has joined the bus, or there is none.
    pub(crate) fn is_joined(&self) -> bool {
        self.channel.is_joined()
    }

    /// Waits until the channel has joined the bus, at most for `time`. The subscription is then
    /// confirmed to the client.
    pub(crate) fn confirmed(&self, time: Duration) -> impl Future<Output = ()> + Send + use<> {
        let channel = self.channel.clone();
        async move {
            let joined = async {
                loop {
                    // Registered before the check, so that a notification in between is not missed.
                    let joined = channel.joined.notified();
                    if channel.is_joined() {
                        return;
                    }
                    joined.await;
                }
            };
            if timeout(time, joined).await.is_err() {
                channel.confirm_waiting();
            }
        }
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
            let had_subscribers = state.has_subscribers();
            state
                .shards
                .retain(|shard| !Arc::ptr_eq(shard, &self.shard));
            if had_subscribers && !state.has_subscribers() {
                self.channels.0.subscribed.fetch_sub(1, Relaxed);
            }
            if state.shards.is_empty() {
                // A channel with an empty sequencer has nothing worth keeping.
                let removed = state.is_forgettable() && state.try_remove();
                drop(state);
                if removed {
                    by_name.remove(&self.name);
                    self.channels.record_change(&self.name);
                } else {
                    self.channels
                        .linger(&mut by_name, self.name.clone(), &self.channel);
                }
            }
        }
        if self.shard.kind() != Kind::Observer {
            self.channels.0.subscriptions.fetch_sub(1, Relaxed);
        }
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Subscription({})", self.name)
    }
}

#[cfg(test)]
mod recovery_tests;
#[cfg(test)]
mod tests;
