//! One channel: its subscribers, and the order of its publications.
//!
//! A channel keeps its subscribers in [shards](crate::pubsub::shard), each of which delivers
//! publications in a task of its own. The [sequencer](crate::pubsub::sequencer) orders publications
//! before they are queued in the shards.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

use crate::{
    metrics::registry::Traffic,
    pubsub::{
        publication::Publication,
        sequencer::Sequencer,
        shard::{Shard, Subscriber},
    },
};

/// A channel, which its subscriptions and the table of channels share.
pub(super) struct Channel {
    state: Mutex<State>,
    published: Traffic,
    duplicates: Counter,
}

/// The mutable state of a channel.
///
/// A publication is queued in all shards, or a subscription is added or changed, while this is
/// locked. A subscriber therefore receives all publications from some point on, in order, in
/// whichever shard it is.
pub(super) struct State {
    pub(super) shards: Vec<Arc<Shard>>,
    pub(super) sequencer: Sequencer<Arc<Publication>>,
    /// When something was last published, or the last subscriber left.
    pub(super) last_used: Instant,
    /// The channel is in the list of channels kept without subscribers.
    pub(super) lingers: bool,
    /// The channel has been removed; there may be another one with its name.
    removed: bool,
    /// A task is waiting for the sequencer's deadline.
    has_expiry_task: bool,
}

impl Channel {
    /// Creates a channel without subscribers, which counts what is queued for them as `published`
    /// and dropped duplicates as `duplicates`.
    pub(super) fn new(published: Traffic, duplicates: Counter) -> Self {
        Self {
            published,
            duplicates,
            state: Mutex::new(State {
                shards: Vec::new(),
                sequencer: Sequencer::default(),
                last_used: Instant::now(),
                lingers: false,
                removed: false,
                has_expiry_task: false,
            }),
        }
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
    ) -> Option<(usize, Vec<Arc<Shard>>)> {
        let mut state = self.lock();
        if state.removed {
            return None;
        }
        let now = Instant::now();
        state.last_used = now;
        let publication = if state.shards.is_empty() {
            // Content without a subscriber should not occupy memory while it waits.
            Arc::new(publication.without_content())
        } else {
            publication.clone()
        };
        let position = publication.position();
        let ready = match state.sequencer.publish(position, publication, now) {
            Some(ready) => ready,
            None => {
                self.duplicates.inc();
                Vec::new()
            }
        };
        let reached = self.publish_to_shards(&state, &ready);
        if !state.has_expiry_task && state.sequencer.deadline().is_some() {
            state.has_expiry_task = true;
            tokio::spawn(self.clone().publish_expired());
        }
        Some((reached, state.full_shards()))
    }

    /// Queues publications in all shards, and returns the number of subscribers reached.
    fn publish_to_shards(&self, state: &State, publications: &[Arc<Publication>]) -> usize {
        let (mut reached, mut bytes) = (0, 0);
        for publication in publications {
            for shard in &state.shards {
                let subscribers = shard.publish(publication);
                reached += subscribers;
                bytes += subscribers * shard.kind().bytes(publication);
            }
        }
        if reached > 0 {
            self.published.add(reached, bytes);
        }
        reached
    }

    /// Publishes what has waited for its predecessor until the deadline, while anything waits.
    async fn publish_expired(self: Arc<Self>) {
        loop {
            let (full, deadline) = {
                let mut state = self.lock();
                let ready = state.sequencer.expire(Instant::now());
                self.publish_to_shards(&state, &ready);
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
    /// Adds a subscriber, which receives later publications, and returns its shard and slot.
    pub(super) fn add(&mut self, mut subscriber: Subscriber) -> (Arc<Shard>, usize) {
        // Starts with the newest shards, which usually are the ones with free slots.
        for shard in self.shards.iter().rev() {
            match shard.add(subscriber) {
                Ok(index) => return (shard.clone(), index),
                Err(rejected) => subscriber = rejected,
            }
        }
        let (shard, index) = Shard::new(subscriber);
        self.shards.push(shard.clone());
        (shard, index)
    }

    /// Ends the lingering. Marks the channel as removed if it has no subscribers, and returns
    /// whether it has; the caller must then remove it from the locked table.
    pub(super) fn try_remove(&mut self) -> bool {
        self.lingers = false;
        self.removed = self.shards.is_empty();
        self.removed
    }

    fn full_shards(&self) -> Vec<Arc<Shard>> {
        let shards = self.shards.iter();
        shards.filter(|shard| shard.is_full()).cloned().collect()
    }
}
