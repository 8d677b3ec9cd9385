//! Channels whose items come from the bus: it decides their order and their offsets.

use std::sync::{Arc, Weak};

use grip::{
    Item,
    publish::{ResponseAction, StreamAction},
};
use http::HeaderValue;
use tokio::time::Instant;

use crate::{
    config::HistoryLimits,
    http::headers::grip_last,
    pubsub::{
        channel::{Channel, State},
        channels::{Channels, Start},
        cursor::{Cursor, Position},
        history::History,
        publication::{Delivery, Publication},
        sequencer::Id,
        shard::{Kind, Sequenced, Shard, SocketSubscriber},
    },
};

/// A WebSocket that has subscribed before it was known what was published so far.
pub(super) struct Waiting {
    cursor: Weak<Cursor>,
    subscriber: Arc<dyn SocketSubscriber>,
    after: Option<Id>,
    newest: u32,
    /// The client was told that it is subscribed, without knowing what it may miss.
    was_accepted: bool,
}

impl Waiting {
    pub(super) fn new(
        cursor: &Arc<Cursor>,
        subscriber: Arc<dyn SocketSubscriber>,
        start: Start<'_>,
    ) -> Self {
        let (after, newest) = match start {
            Start::Live => (None, 0),
            Start::After(id) => (Some(id.into()), 0),
            Start::Newest(count) => (None, count),
        };
        Self {
            cursor: Arc::downgrade(cursor),
            subscriber,
            after,
            newest,
            was_accepted: false,
        }
    }

    /// Returns whether the subscription still exists.
    pub(super) fn exists(&self) -> bool {
        self.cursor.strong_count() > 0
    }

    fn start(&self) -> Start<'_> {
        match &self.after {
            Some(id) => Start::After(id),
            None if self.newest > 0 => Start::Newest(self.newest),
            None => Start::Live,
        }
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

    /// Sets the last items of a channel. Subscribers that were waiting for them start, and others are
    /// told that they have missed items.
    pub(crate) fn restart(&self, name: &str, items: Vec<Publication>) {
        let Some(channel) = self.find(name) else {
            return;
        };
        let now = Instant::now();
        let mut state = channel.lock();
        let Some(history) = &mut state.history else {
            return;
        };
        // Offsets never go down, so that what is being delivered cannot be mistaken for later items.
        history.forget_all();
        for item in items {
            state.sequencer.set_last_id(item.id.clone());
            state.record(Arc::new(item), now);
        }
        let waiting = state.waiting.take();
        state.tell_missed(name, waiting.is_some());
        for waiting in waiting.into_iter().flatten() {
            state.start(name, &waiting, self);
        }
        drop(state);
        channel.joined.notify_waiters();
        self.expire_later(&channel);
    }

    /// Delivers an item to the subscribers of a channel. Waits while the queue of a shard is full.
    pub(crate) async fn append(&self, name: &str, publication: Publication) {
        let Some(channel) = self.find(name) else {
            return;
        };
        for shard in channel.append(publication) {
            shard.ready().await;
        }
        self.expire_later(&channel);
    }
}

impl Channel {
    /// Queues an item in all shards, and returns those that are full.
    fn append(&self, publication: Publication) -> Vec<Arc<Shard>> {
        let now = Instant::now();
        let mut state = self.lock();
        // Until it is known what was published before, the item is among what will be read.
        if state.waiting.is_some() {
            return Vec::new();
        }
        state.sequencer.set_last_id(publication.id.clone());
        self.publish_to_shards(&mut state, vec![Arc::new(publication)], now);
        state.full_shards()
    }

    /// Records that those who wait were told that they are subscribed.
    pub(super) fn accept_waiting(&self) {
        for waiting in self.lock().waiting.iter_mut().flatten() {
            waiting.was_accepted = true;
        }
    }

    /// Returns whether it is known what was published to this channel so far.
    pub(super) fn is_joined(&self) -> bool {
        self.lock().waiting.is_none()
    }
}

impl State {
    /// Starts a subscriber, now that the history is known.
    fn start(&mut self, name: &str, waiting: &Waiting, channels: &Channels) {
        let Some(cursor) = waiting.cursor.upgrade() else {
            return;
        };
        let start = waiting.start();
        let (first, next) = self.resolve(start);
        *cursor.lock() = Position::new(first.unwrap_or(next), next);
        channels.count_start(start, first.is_some());
        if first.is_none() || waiting.was_accepted && start == Start::Live {
            let missed = Delivery::Missed(self.grip_last(name));
            waiting.subscriber.deliver(&missed);
        }
        if let Some(history) = &self.history {
            for shard in &self.shards {
                shard.catch_up_at(&cursor, history);
            }
        }
    }

    /// Tells subscribers that they may have missed items. If `is_new`, WebSockets are waiting.
    fn tell_missed(&mut self, name: &str, is_new: bool) {
        let next = self.history.as_ref().map_or(0, History::next);
        let missed = Delivery::Missed(self.grip_last(name));
        for shard in &self.shards {
            match shard.kind() {
                Kind::Socket if is_new => {}
                Kind::Socket => shard.restart(next, &missed),
                // Their requests are sent to the backend again, unless ids are not used at all.
                Kind::Stream | Kind::Response if self.sequencer.last_id().is_none() => {}
                Kind::Stream | Kind::Response => {
                    shard.publish(&Sequenced::unrecorded(Arc::new(hint(name))));
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

/// Returns a publication that lets held requests be sent to the backend again.
fn hint(channel: &str) -> Publication {
    let item = Item {
        http_stream: Some(StreamAction::Hint.into()),
        http_response: Some(ResponseAction::Hint.into()),
        ..Item::new(channel)
    };
    Publication::new(item).unwrap_or_else(|_| Publication::empty(channel))
}
