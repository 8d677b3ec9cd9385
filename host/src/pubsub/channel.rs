//! One channel: its subscribers, and the order of its publications.
//!
//! A channel keeps its subscribers in [shards](crate::pubsub::shard), each of which delivers
//! publications in a task of its own. The [sequencer](crate::pubsub::sequencer) orders publications
//! before they are queued in the shards.

use std::{sync::Arc, time::Duration};

use parking_lot::{Mutex, MutexGuard};
use prometheus_client::metrics::counter::Counter;
use tokio::{sync::Notify, time::Instant};

use crate::{
    config::Limits,
    metrics::registry::{DeliveryTimes, Traffic},
    pubsub::{
        channels::Start,
        cursor::Position,
        history::History,
        publication::{Delivery, Publication},
        replica::Waiting,
        sequencer::{MAX_ID_BYTES, Sequencer},
        shard::{Kind, Sequenced, Shard, SocketSubscriber, Subscriber},
    },
    telemetry::panics,
};

/// How long a channel without subscribers is kept.
pub(super) const IDLE_CHANNEL_LIFETIME: Duration = Limits::DEFAULT.idle_channel_lifetime;

/// A channel, which its subscriptions and the table of channels share.
pub(super) struct Channel {
    state: Mutex<State>,
    counters: ChannelCounters,
    /// Notified when [`State::waiting`] ends.
    pub(super) joined: Notify,
}

/// Counts what happens in all channels.
#[derive(Clone, Default)]
pub(crate) struct ChannelCounters {
    /// What is queued for subscribers.
    pub(crate) published: Traffic,
    /// How long that takes.
    pub(crate) delivery_times: DeliveryTimes,
    /// Publications that were dropped for their repeated ids.
    pub(crate) duplicates: Counter,
    /// Subscriptions that were to begin at an earlier item, and did.
    pub(crate) recovered: Counter,
    /// Those for which not all items were known.
    pub(crate) unrecovered: Counter,
}

impl ChannelCounters {
    /// Returns the counter of subscriptions that were to begin at an earlier item.
    pub(super) fn recovery(&self, is_complete: bool) -> &Counter {
        if is_complete {
            &self.recovered
        } else {
            &self.unrecovered
        }
    }
}

/// The mutable state of a channel.
///
/// A publication is queued in all shards, or a subscription is added or changed, while this is
/// locked. A subscriber therefore receives all publications from some point on, in order, in
/// whichever shard it is.
pub(super) struct State {
    pub(super) shards: Vec<Arc<Shard>>,
    pub(super) sequencer: Sequencer<Arc<Publication>>,
    /// The last publications, if the channel keeps them.
    pub(super) history: Option<History<Arc<Publication>>>,
    /// The WebSockets that wait for the channel to join the bus. `None` once it has, and without a
    /// bus.
    pub(super) waiting: Option<Vec<Waiting>>,
    /// When something was last published, or the last subscriber left.
    pub(super) last_used: Instant,
    /// The channel is in the list of channels kept without subscribers.
    pub(super) lingers: bool,
    /// The channel has been removed; there may be another one with its name.
    removed: bool,
    /// A task is waiting for the sequencer's deadline.
    has_expiry_task: bool,
    /// The channel is in the list of channels whose history expires.
    pub(super) expires: bool,
}

impl Channel {
    /// Creates a channel without subscribers. With `is_replica`, its items come from the bus.
    pub(super) fn new(
        history: Option<History<Arc<Publication>>>,
        counters: ChannelCounters,
        is_replica: bool,
    ) -> Self {
        Self {
            counters,
            joined: Notify::new(),
            state: Mutex::new(State {
                shards: Vec::new(),
                sequencer: Sequencer::default(),
                history,
                waiting: is_replica.then(Vec::new),
                last_used: Instant::now(),
                lingers: false,
                removed: false,
                has_expiry_task: false,
                expires: false,
            }),
        }
    }

    /// Returns the counters of all channels.
    pub(super) fn counters(&self) -> &ChannelCounters {
        &self.counters
    }

    /// Locks the state. Lock order: the table of channels, this, then locks within shards.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Publishes to all subscribers, together with publications that waited for this one.
    ///
    /// Returns the number of subscribers reached and the shards that are full, which the caller
    /// must wait for before the next publication. Returns `None` if the channel has been removed.
    pub(super) fn publish(
        self: &Arc<Self>,
        publication: &Arc<Publication>,
    ) -> Option<(usize, Vec<Arc<Shard>>, Option<Instant>)> {
        let mut state = self.lock();
        if state.removed {
            return None;
        }
        let now = Instant::now();
        state.last_used = now;
        let publication = if state.shards.is_empty() && state.history.is_none() {
            // Content without a subscriber should not occupy memory while it waits.
            Arc::new(publication.without_content())
        } else {
            publication.clone()
        };
        let position = publication.position();
        let ready = match state.sequencer.publish(position, publication, now) {
            Some(ready) => ready,
            None => {
                self.counters.duplicates.inc();
                Vec::new()
            }
        };
        let reached = self.publish_to_shards(&mut state, ready, now);
        if !state.has_expiry_task && state.sequencer.deadline().is_some() {
            state.has_expiry_task = true;
            panics::spawn_critical("channel", self.clone().publish_expired());
        }
        Some((reached, state.full_shards(), state.start_expiry()))
    }

    /// Adds publications to the history, queues them in all shards, and returns the number of
    /// subscribers reached.
    pub(super) fn publish_to_shards(
        &self,
        state: &mut State,
        publications: Vec<Arc<Publication>>,
        now: Instant,
    ) -> usize {
        let (mut reached, mut bytes) = (0, 0);
        for publication in publications {
            let sequenced = state.record(publication, now);
            for shard in &state.shards {
                let subscribers = shard.publish(&sequenced);
                reached += subscribers;
                bytes += subscribers * shard.kind().bytes(&sequenced.publication);
            }
        }
        if reached > 0 {
            self.counters.published.add(reached, bytes);
        }
        reached
    }

    /// Publishes what has waited for its predecessor until the deadline, while anything waits.
    async fn publish_expired(self: Arc<Self>) {
        loop {
            let (full, deadline) = {
                let mut state = self.lock();
                let now = Instant::now();
                let ready = state.sequencer.expire(now);
                self.publish_to_shards(&mut state, ready, now);
                let deadline = state.sequencer.deadline();
                state.has_expiry_task = deadline.is_some();
                (state.full_shards(), deadline)
            };
            for shard in full {
                shard.ready().await;
            }
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => return,
            }
        }
    }
}

impl State {
    /// Returns the number of subscribers.
    pub(super) fn subscribers(&self) -> usize {
        self.shards.iter().map(|shard| shard.len()).sum()
    }

    /// Returns whether there are subscribers besides observers.
    pub(super) fn has_subscribers(&self) -> bool {
        self.shards
            .iter()
            .any(|shard| shard.kind() != Kind::Observer)
    }

    /// Adds a subscriber, which receives later publications, and returns its shard and slot.
    pub(super) fn add(
        &mut self,
        mut subscriber: Subscriber,
        delivery_times: &DeliveryTimes,
    ) -> (Arc<Shard>, usize) {
        // Starts with the newest shards, which usually are the ones with free slots.
        for shard in self.shards.iter().rev() {
            match shard.add(subscriber) {
                Ok(index) => return (shard.clone(), index),
                Err(rejected) => subscriber = rejected,
            }
        }
        let (shard, index) = Shard::new(subscriber, delivery_times);
        self.shards.push(shard.clone());
        (shard, index)
    }

    /// Returns the position at which a WebSocket begins. If it cannot begin at `start`, it is notified
    /// that it has missed items, and begins with the next one.
    pub(super) fn begin(
        &mut self,
        name: &str,
        subscriber: &dyn SocketSubscriber,
        start: &Start,
        counters: &ChannelCounters,
    ) -> Position {
        let (first, next) = self.resolve(start);
        if *start != Start::Live {
            counters.recovery(first.is_some()).inc();
        }
        if first.is_none() {
            subscriber.deliver(&Delivery::Missed(self.grip_last(name)));
        }
        Position::new(first.unwrap_or(next), next)
    }

    /// Returns the offset of the first item from `start` on, or `None` if it is not known, and the
    /// offset of the next item.
    fn resolve(&mut self, start: &Start) -> (Option<u64>, u64) {
        let Some(history) = &mut self.history else {
            let is_known = match start {
                Start::Live | Start::Newest(_) => true,
                Start::After(id) => self.sequencer.is_last(id),
            };
            return (is_known.then_some(0), 0);
        };
        history.trim(Instant::now());
        let next = history.next();
        let first = match start {
            Start::Live => Some(next),
            Start::After(id) => history.offset_after(id),
            Start::Newest(count) => Some(history.offset_of_newest((*count).into())),
        };
        (first, next)
    }

    /// Returns when old items of the history must be removed, unless that was returned before.
    pub(super) fn start_expiry(&mut self) -> Option<Instant> {
        if self.expires {
            return None;
        }
        let due = self.history.as_ref().and_then(History::next_expiry);
        self.expires = due.is_some();
        due
    }

    /// Adds a publication to the history, if there is one, and returns it with its offset.
    pub(super) fn record(&mut self, publication: Arc<Publication>, now: Instant) -> Sequenced {
        let Some(history) = &mut self.history else {
            return Sequenced::unrecorded(publication);
        };
        let id = publication.id.clone();
        let id = id.filter(|id| id.len() <= MAX_ID_BYTES);
        let size = publication.size();
        let offset = history.push(publication.clone(), id, size, now);
        Sequenced {
            publication,
            offset,
            first: history.first(),
        }
    }

    /// Returns when the channel can be removed, if it is not used before.
    pub(super) fn idle_until(&self) -> Instant {
        let history = self.history.as_ref();
        let lifetime = history.map_or(Duration::ZERO, History::age);
        self.last_used + lifetime.max(IDLE_CHANNEL_LIFETIME)
    }

    /// Returns whether there is nothing to remember without subscribers.
    pub(super) fn is_forgettable(&self) -> bool {
        let next_offset = self.history.as_ref().map_or(0, History::next);
        self.sequencer.is_empty() && next_offset == 0
    }

    /// Ends the lingering. Marks the channel as removed if it has no subscribers, and returns
    /// whether it has; the caller must then remove it from the locked table.
    pub(super) fn try_remove(&mut self) -> bool {
        self.lingers = false;
        self.removed = self.shards.is_empty();
        self.removed
    }

    pub(super) fn full_shards(&self) -> Vec<Arc<Shard>> {
        let shards = self.shards.iter();
        shards.filter(|shard| shard.is_full()).cloned().collect()
    }
}
