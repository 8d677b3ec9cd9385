//! One channel: its subscribers, and the order of what is published on it.
//!
//! A channel keeps its subscribers in [blocks](crate::block), each of which hands
//! publications out by itself, in the [order](crate::sequence) of their ids.

use std::sync::{Arc, Mutex, MutexGuard};

use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

use crate::{
    block::{Block, Seat},
    channels::lock,
    metrics::Traffic,
    publication::Publication,
    sequence::Sequence,
};

/// See the module's words.
pub struct Channel {
    state: Mutex<State>,
    published: Traffic,
    duplicates: Counter,
}

/// What changes of a channel. While it is locked, publications are put into the queues of all
/// blocks, or a seat is taken or changed: so each is for a subscriber or is not, whichever block
/// they meet in, and they come in order.
pub struct State {
    /// The subscribers.
    pub blocks: Vec<Arc<Block>>,
    /// What is published in its order.
    pub sequence: Sequence<Arc<Publication>>,
    /// When it was last published to, or left.
    pub used: Instant,
    /// It is among those that are kept known without subscribers.
    pub lingers: bool,
    /// It is forgotten: there may be another one of its name.
    forgotten: bool,
    /// A task waits for the deadline of what waits in the sequence.
    watched: bool,
}

impl Channel {
    /// One without subscribers. What is handed to them is counted as `published`, and what is
    /// dropped as it was published before as `duplicates`.
    pub fn new(published: Traffic, duplicates: Counter) -> Self {
        Self {
            published,
            duplicates,
            state: Mutex::new(State {
                blocks: Vec::new(),
                sequence: Sequence::default(),
                used: Instant::now(),
                lingers: false,
                forgotten: false,
                watched: false,
            }),
        }
    }

    /// Locks its state, after the names of channels and before what is within the blocks.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Gives a publication to everyone, with those that waited for it, and says how many it
    /// reached and which blocks are full: wait for these before the next. `None` when the channel
    /// is forgotten, and the publication not noted.
    pub fn publish(
        self: &Arc<Self>,
        publication: &Arc<Publication>,
    ) -> Option<(usize, Vec<Arc<Block>>)> {
        let mut state = self.lock();
        if state.forgotten {
            return None;
        }
        let now = Instant::now();
        state.used = now;
        let publication = match state.blocks.is_empty() {
            // What nobody waits for should not occupy memory while it waits.
            true => Arc::new(publication.without_content()),
            false => publication.clone(),
        };
        let ready = match state.sequence.offer(publication.place(), publication, now) {
            Some(ready) => ready,
            None => {
                self.duplicates.inc();
                Vec::new()
            }
        };
        let reached = self.hand_over(&state, &ready);
        if !state.watched && state.sequence.deadline().is_some() {
            state.watched = true;
            tokio::spawn(self.clone().watch());
        }
        Some((reached, state.full()))
    }

    /// Puts publications into the queues of all blocks.
    fn hand_over(&self, state: &State, publications: &[Arc<Publication>]) -> usize {
        let (mut reached, mut bytes) = (0, 0);
        for publication in publications {
            for block in &state.blocks {
                let here = block.push(publication);
                reached += here;
                bytes += here * block.kind().bytes(publication);
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
                let ready = state.sequence.expire(Instant::now());
                self.hand_over(&state, &ready);
                let deadline = state.sequence.deadline();
                state.watched = deadline.is_some();
                (state.full(), deadline)
            };
            for block in full {
                block.room().await;
            }
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => return,
            }
        }
    }
}

impl State {
    /// Gives a seat to a subscriber; what was published before is not for it.
    pub fn add(&mut self, mut seat: Seat) -> (Arc<Block>, usize) {
        // The last blocks are the ones with room, but for those that others left.
        for block in self.blocks.iter().rev() {
            match block.add(seat) {
                Ok(number) => return (block.clone(), number),
                Err(back) => seat = back,
            }
        }
        let (block, number) = Block::with(seat);
        self.blocks.push(block.clone());
        (block, number)
    }

    /// Lingers no longer; says whether nobody is on the channel, and that it is forgotten then.
    /// The caller has the names, and takes it out of them.
    pub fn forget(&mut self) -> bool {
        self.lingers = false;
        self.forgotten = self.blocks.is_empty();
        self.forgotten
    }

    /// Blocks that publishers have to wait for.
    fn full(&self) -> Vec<Arc<Block>> {
        let blocks = self.blocks.iter();
        blocks.filter(|block| block.is_full()).cloned().collect()
    }
}
