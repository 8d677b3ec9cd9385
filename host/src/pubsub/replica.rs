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
        }
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
    /// Returns the bounds of a channel's history.
    pub(crate) fn limits(&self, channel: &str) -> HistoryLimits {
        self.history_limits(channel).unwrap_or(HistoryLimits::SHORT)
    }

    /// Sets the last items of a channel, whose next item has the offset `next`. `is_new` if nothing is
    /// known of it yet. Otherwise its subscribers have missed items.
    pub(crate) fn restart(&self, name: &str, items: Vec<Publication>, next: u64, is_new: bool) {
        let Some(channel) = self.find(name) else {
            return;
        };
        let now = Instant::now();
        let mut state = channel.lock();
        let Some(history) = &mut state.history else {
            return;
        };
        history.restart(next - items.len() as u64);
        for item in items {
            state.sequencer.set_last_id(item.id.clone());
            state.record(Arc::new(item), now);
        }
        let waiting = state.waiting.take();
        state.tell_missed(name, next, is_new);
        for waiting in waiting.into_iter().flatten() {
            state.start(name, &waiting, self);
        }
        drop(state);
        channel.joined.notify_waiters();
        self.expire_later(&channel);
    }

    /// Delivers an item to the subscribers of a channel. Waits while the queue of a shard is full.
    pub(crate) async fn append(&self, name: &str, publication: Publication, offset: u64) {
        let Some(channel) = self.find(name) else {
            return;
        };
        for shard in channel.append(publication, offset) {
            shard.ready().await;
        }
        self.expire_later(&channel);
    }
}

impl Channel {
    /// Queues an item in all shards, and returns those that are full.
    fn append(&self, publication: Publication, offset: u64) -> Vec<Arc<Shard>> {
        let now = Instant::now();
        let mut state = self.lock();
        // Until it is known what was published before, the item is among what will be read.
        if state.waiting.is_some() {
            return Vec::new();
        }
        if let Some(history) = &mut state.history
            && history.next() != offset
        {
            history.restart(offset);
        }
        state.last_used = now;
        state.sequencer.set_last_id(publication.id.clone());
        self.publish_to_shards(&mut state, vec![Arc::new(publication)], now);
        state.full_shards()
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
        if first.is_none() {
            let missed = Delivery::Missed(self.grip_last(name));
            waiting.subscriber.deliver(&missed);
        }
        if let Some(history) = &self.history {
            for shard in &self.shards {
                shard.catch_up_at(&cursor, history);
            }
        }
    }

    /// Tells subscribers that they may have missed items. The next item has the offset `next`.
    fn tell_missed(&mut self, name: &str, next: u64, is_new: bool) {
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
        grip_last(name, last_id.map(|id| &**id))
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
