//! One channel: its subscribers, and the order of what is published on it.
//!
//! A channel keeps its subscribers in [shards](crate::pubsub::shard), each of which hands
//! publications out by itself, in the [order](crate::pubsub::sequencer) of their ids.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

use crate::{
    metrics::registry::Traffic,
    pubsub::{
        publication::Publication,
        sequencer::Sequencer,
        shard::{Occupant, Shard},
    },
};

/// See the module's words.
pub(crate) struct Channel {
    state: Mutex<State>,
    published: Traffic,
    duplicates: Counter,
}

/// What changes of a channel. While it is locked, publications are put into the queues of all
/// shards, or a slot is taken or changed: so each is for a subscriber or is not, whichever shard
/// they meet in, and they come in order.
pub(crate) struct State {
    /// The subscribers.
    pub(crate) shards: Vec<Arc<Shard>>,
    /// What is published in its order.
    pub(crate) sequencer: Sequencer<Arc<Publication>>,
    /// When it was last published to, or left.
    pub(crate) used: Instant,
    /// It is among those that are kept known without subscribers.
    pub(crate) lingers: bool,
    /// It is forgotten: there may be another one of its name.
    forgotten: bool,
    /// A task waits for the deadline of what waits in the sequencer.
    watched: bool,
}

impl Channel {
    /// One without subscribers. What is handed to them is counted as `published`, and what is
    /// dropped as it was published before as `duplicates`.
    pub(crate) fn new(published: Traffic, duplicates: Counter) -> Self {
        Self {
            published,
            duplicates,
            state: Mutex::new(State {
                shards: Vec::new(),
                sequencer: Sequencer::default(),
                used: Instant::now(),
                lingers: false,
                forgotten: false,
                watched: false,
            }),
        }
    }

    /// Locks its state, after the names of channels and before what is within the shards.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Gives a publication to everyone, with those that waited for it, and says how many it
    /// reached and which shards are full: wait for these before the next. `None` when the channel
    /// is forgotten, and the publication not noted.
    pub(crate) fn publish(
        self: &Arc<Self>,
        publication: &Arc<Publication>,
    ) -> Option<(usize, Vec<Arc<Shard>>)> {
        let mut state = self.lock();
        if state.forgotten {
            return None;
        }
        let now = Instant::now();
        state.used = now;
        let publication = match state.shards.is_empty() {
            // What nobody waits for should not occupy memory while it waits.
            true => Arc::new(publication.without_content()),
            false => publication.clone(),
        };
        let ready = match state.sequencer.offer(publication.place(), publication, now) {
            Some(ready) => ready,
            None => {
                self.duplicates.inc();
                Vec::new()
            }
        };
        let reached = self.hand_over(&state, &ready);
        if !state.watched && state.sequencer.deadline().is_some() {
            state.watched = true;
            tokio::spawn(self.clone().watch());
        }
        Some((reached, state.full()))
    }

    /// Puts publications into the queues of all shards.
    fn hand_over(&self, state: &State, publications: &[Arc<Publication>]) -> usize {
        let (mut reached, mut bytes) = (0, 0);
        for publication in publications {
            for shard in &state.shards {
                let here = shard.push(publication);
                reached += here;
                bytes += here * shard.kind().bytes(publication);
            }
        }
        if reached > 0 {
            self.published.add(reached, bytes);
        }
        reached
    }

    /// Hands over what has waited long enough for the one before it, until nothing waits.
    async fn watch(self: Arc<Self>) {
        loop {
            let (full, deadline) = {
                let mut state = self.lock();
                let ready = state.sequencer.expire(Instant::now());
                self.hand_over(&state, &ready);
                let deadline = state.sequencer.deadline();
                state.watched = deadline.is_some();
                (state.full(), deadline)
            };
            for shard in full {
                shard.room().await;
            }
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => return,
            }
        }
    }
}

impl State {
    /// Gives a slot to a subscriber; what was published before is not for it.
    pub(crate) fn add(&mut self, mut slot: Occupant) -> (Arc<Shard>, usize) {
        // The last shards are the ones with room, but for those that others left.
        for shard in self.shards.iter().rev() {
            match shard.add(slot) {
                Ok(number) => return (shard.clone(), number),
                Err(back) => slot = back,
            }
        }
        let (shard, number) = Shard::with(slot);
        self.shards.push(shard.clone());
        (shard, number)
    }

    /// Lingers no longer; says whether nobody is on the channel, and that it is forgotten then.
    /// The caller has the names, and takes it out of them.
    pub(crate) fn forget(&mut self) -> bool {
        self.lingers = false;
        self.forgotten = self.shards.is_empty();
        self.forgotten
    }

    /// Blocks that publishers have to wait for.
    fn full(&self) -> Vec<Arc<Shard>> {
        let shards = self.shards.iter();
        shards.filter(|shard| shard.is_full()).cloned().collect()
    }
}
