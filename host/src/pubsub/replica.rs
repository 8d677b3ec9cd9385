//! Channels whose items come from the bus, which decides their order.

use std::sync::{Arc, Weak};

use http::HeaderValue;
use tokio::time::Instant;

use crate::{
    config::HistoryLimits,
    http::headers::grip_last,
    pubsub::{
        channel::{Channel, ChannelCounters, State},
        channels::{Channels, Start},
        cursor::Cursor,
        history::History,
        publication::{Delivery, Publication},
        shard::{Kind, Sequenced, Shard, SocketSubscriber},
    },
};

/// A WebSocket that has subscribed before its channel has joined the bus.
pub(super) struct Waiting {
    cursor: Weak<Cursor>,
    subscriber: Arc<dyn SocketSubscriber>,
    start: Start,
    /// The subscription was confirmed to the client, although it may miss items.
    is_confirmed: bool,
}

impl Waiting {
    pub(super) fn new(
        cursor: &Arc<Cursor>,
        subscriber: Arc<dyn SocketSubscriber>,
        start: Start,
    ) -> Self {
        Self {
            cursor: Arc::downgrade(cursor),
            subscriber,
            start,
            is_confirmed: false,
        }
    }

    /// Returns whether the subscription still exists.
    pub(super) fn exists(&self) -> bool {
        self.cursor.strong_count() > 0
    }
}

impl Channels {
    /// Returns the bounds of the items of a channel that the bus keeps, to fill gaps too.
    pub(crate) fn limits(&self, channel: &str) -> HistoryLimits {
        let short = HistoryLimits::SHORT;
        let limits = self.history_limits(channel).unwrap_or(short);
        HistoryLimits {
            items: limits.items.max(short.items),
            age: limits.age.max(short.age),
            ..limits
        }
    }

    /// Sets the last items of a channel. Subscribers that have waited for them start, and others are
    /// notified that they have missed items.
    pub(crate) fn restart(&self, name: &str, items: Vec<Publication>) {
        let Some(channel) = self.find(name) else {
            return;
        };
        let now = Instant::now();
        let mut state = channel.lock();
        let Some(history) = &mut state.history else {
            return;
        };
        // Offsets never decrease, so a batch in delivery is not mistaken for later items.
        history.forget_all();
        let uses_ids = state.sequencer.last_id().is_some();
        state.sequencer.forget_last_id();
        for item in items {
            state.sequencer.set_last_id(item.id.clone());
            state.record(Arc::new(item), now);
        }
        let waiting = state.waiting.take();
        let uses_ids = uses_ids || state.sequencer.last_id().is_some();
        state.notify_missed(name, waiting.is_some(), uses_ids);
        for waiting in waiting.into_iter().flatten() {
            state.start(name, &waiting, channel.counters());
        }
        let expiry = state.start_expiry();
        drop(state);
        channel.joined.notify_waiters();
        self.expire_at(expiry, &channel);
    }

    /// Delivers an item to the subscribers of a channel. Waits while the queue of a shard is full.
    pub(crate) async fn append(&self, name: &str, publication: Publication) {
        let Some(channel) = self.find(name) else {
            return;
        };
        let (full_shards, expiry) = channel.append(publication);
        self.expire_at(expiry, &channel);
        for shard in full_shards {
            shard.ready().await;
        }
    }
}

impl Channel {
    /// Queues an item in all shards. Returns those that are full, and when old items must be removed,
    /// as [`State::start_expiry`] does.
    fn append(&self, publication: Publication) -> (Vec<Arc<Shard>>, Option<Instant>) {
        let now = Instant::now();
        let mut state = self.lock();
        // Before the channel has joined, the item is part of what will be read.
        if state.waiting.is_some() {
            return (Vec::new(), None);
        }
        state.sequencer.set_last_id(publication.id.clone());
        self.publish_to_shards(&mut state, vec![Arc::new(publication)], now);
        (state.full_shards(), state.start_expiry())
    }

    /// Marks the waiting subscriptions as confirmed to their clients.
    pub(super) fn confirm_waiting(&self) {
        for waiting in self.lock().waiting.iter_mut().flatten() {
            waiting.is_confirmed = true;
        }
    }

    /// Returns whether this channel has joined the bus, or there is none.
    pub(super) fn is_joined(&self) -> bool {
        self.lock().waiting.is_none()
    }
}

impl State {
    /// Starts a subscriber, after the channel has joined the bus.
    fn start(&mut self, name: &str, waiting: &Waiting, counters: &ChannelCounters) {
        let Some(cursor) = waiting.cursor.upgrade() else {
            return;
        };
        *cursor.lock() = self.begin(name, &*waiting.subscriber, &waiting.start, counters);
        if waiting.is_confirmed && waiting.start == Start::Live {
            let missed = Delivery::Missed(self.grip_last(name));
            waiting.subscriber.deliver(&missed);
        }
        if let Some(history) = &self.history {
            for shard in &self.shards {
                shard.catch_up_at(&cursor, history);
            }
        }
    }

    /// Notifies subscribers that they may have missed items. If `is_new`, WebSockets are waiting.
    /// `uses_ids` is whether the items have ids.
    fn notify_missed(&mut self, name: &str, is_new: bool, uses_ids: bool) {
        let next = self.history.as_ref().map_or(0, History::next);
        let missed = Delivery::Missed(self.grip_last(name));
        for shard in &self.shards {
            match shard.kind() {
                Kind::Socket if is_new => {}
                // It observes what is published from now on.
                Kind::Observer => {}
                Kind::Socket => shard.restart(next, &missed),
                // Their requests are sent to the backend again, unless ids are not used at all.
                Kind::Stream | Kind::Response if !uses_ids => {}
                Kind::Stream | Kind::Response => {
                    shard.publish(&Sequenced::unrecorded(Arc::new(Publication::hint(name))));
                }
            }
        }
    }

    /// Returns the value of `Grip-Last` for this channel.
    pub(super) fn grip_last(&self, name: &str) -> Option<HeaderValue> {
        let last_id = self.sequencer.last_id();
        // An id may be invalid in a header.
        grip_last(name, last_id.map(|id| &**id)).or_else(|| grip_last(name, None))
    }
}
