//! Channels: who listens to what, and how a publication reaches all of them.
//!
//! A channel keeps its subscribers in [blocks](crate::block), each of which hands
//! publications out by itself, in the [order](crate::sequence) of their ids. It is known
//! for a while after its last subscriber has left, or an id was published to nobody, so
//! that one who comes a little later can tell whether something was missed.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

use crate::{
    block::{Block, Holder, Seat, Subscriber},
    filter::Filters,
    metrics::Traffic,
    publication::Publication,
    sequence::{Id, MAX_ID, Sequence},
};

/// How long a channel that nobody listens to is known.
const LINGER: Duration = Duration::from_secs(60);

/// The most channels that are known without a subscriber.
const MAX_LINGERING: usize = 100_000;

/// How often those are looked for whose time is over.
const SWEEP: Duration = Duration::from_secs(1);

/// All channels of a host.
#[derive(Clone, Default)]
pub struct Channels(Arc<Inner>);

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

struct Channel {
    state: Mutex<State>,
    /// Held while publications are put into the queues, so that they are there in order.
    order: tokio::sync::Mutex<Order>,
    published: Traffic,
}

struct State {
    blocks: Vec<Arc<Block>>,
    /// It is among those that linger.
    lingers: bool,
    /// When it was last published to, or left.
    used: Instant,
}

#[derive(Default)]
struct Order {
    sequence: Sequence<Arc<Publication>>,
    /// A task waits for the deadline of what waits.
    watched: bool,
}

/// Membership in a channel; dropping it ends it.
pub struct Subscription {
    channels: Channels,
    name: Arc<str>,
    channel: Arc<Channel>,
    block: Arc<Block>,
    seat: usize,
}

impl Channels {
    /// No channels yet. What is handed to subscribers is counted as `published`, and what was
    /// published before and is dropped for that as `duplicates`.
    pub fn new(published: Traffic, duplicates: Counter) -> Self {
        Self(Arc::new(Inner {
            published,
            duplicates,
            ..Inner::default()
        }))
    }

    /// Adds a WebSocket to the channel `name`, which begins to exist with its first
    /// subscriber. Everything published after this returns is delivered, as far as
    /// `filters` let it through.
    pub fn subscribe(
        &self,
        name: &str,
        subscriber: Arc<dyn Subscriber>,
        filters: Filters,
    ) -> Subscription {
        self.seat(
            name,
            match filters.is_empty() {
                true => Seat::Socket(subscriber),
                false => Seat::Filtered(subscriber, filters),
            },
        )
    }

    /// Adds a held stream to the channel `name`, as [`Self::subscribe`] does.
    pub fn hold_stream(&self, name: &str, holder: Arc<dyn Holder>) -> Subscription {
        self.seat(name, Seat::Stream(holder))
    }

    /// Adds a held response to the channel `name`, as [`Self::subscribe`] does.
    pub fn hold_response(&self, name: &str, holder: Arc<dyn Holder>) -> Subscription {
        self.seat(name, Seat::Response(holder))
    }

    fn seat(&self, name: &str, seat: Seat) -> Subscription {
        let mut by_name = self.names();
        let (name, channel) = match by_name.get_key_value(name) {
            Some((name, channel)) => (name.clone(), channel.clone()),
            None => {
                let (name, channel) = (
                    Arc::from(name),
                    Arc::new(Channel::new(self.0.published.clone())),
                );
                by_name.insert(Arc::clone(&name), Arc::clone(&channel));
                (name, channel)
            }
        };
        let mut state = lock(&channel.state);
        if state.blocks.is_empty() {
            self.0.listened.fetch_add(1, Relaxed);
        }
        let (block, seat) = state.add(seat);
        drop(state);
        self.0.subscriptions.fetch_add(1, Relaxed);
        Subscription {
            channels: self.clone(),
            name,
            channel,
            block,
            seat,
        }
    }

    /// Gives a publication to everyone on its channel, with those that waited for it, and
    /// says how many it reached so far. Waits while a channel's queue is full; a channel
    /// without subscribers costs a look-up.
    pub async fn publish(&self, publication: Publication) -> usize {
        let Some(channel) = self.find_or_remember(&publication) else {
            return 0;
        };
        let publication = match lock(&channel.state).blocks.is_empty() {
            // What nobody waits for should not occupy memory while it waits.
            true => publication.without_content(),
            false => publication,
        };
        let publication = Arc::new(publication);
        let mut order = channel.order.lock().await;
        let repeated = order.sequence.repeated();
        let ready = order
            .sequence
            .offer(publication.place(), publication, Instant::now());
        self.0
            .duplicates
            .inc_by(order.sequence.repeated() - repeated);
        let reached = channel.hand_over(&ready).await;
        if !order.watched && order.sequence.deadline().is_some() {
            order.watched = true;
            tokio::spawn(channel.clone().watch());
        }
        reached
    }

    /// The id that was last published on a channel, where it is known.
    pub async fn last_id(&self, name: &str) -> Option<Id> {
        let channel = self.find(name)?;
        let order = channel.order.lock().await;
        order.sequence.last().cloned()
    }

    /// Forgets the id that was last published on a channel, as what is behind it knows better.
    pub async fn forget_last_id(&self, name: &str) {
        if let Some(channel) = self.find(name) {
            channel.order.lock().await.sequence.forget();
        }
    }

    /// Forgets channels that nobody listens to, in time. Runs until it is dropped.
    pub async fn sweep(self) {
        let mut ticks = tokio::time::interval(SWEEP);
        loop {
            ticks.tick().await;
            self.tick(Instant::now());
        }
    }

    fn tick(&self, now: Instant) {
        let mut by_name = self.names();
        let mut lingering = lock(&self.0.lingering);
        while lingering.front().is_some_and(|(due, _)| *due <= now)
            && let Some((_, name)) = lingering.pop_front()
        {
            let Some(channel) = by_name.get(&name) else {
                continue;
            };
            let mut state = lock(&channel.state);
            let due = state.used + LINGER;
            if state.blocks.is_empty() && due > now {
                lingering.push_back((due, name));
                continue;
            }
            state.lingers = false;
            let forgotten = state.blocks.is_empty();
            drop(state);
            if forgotten {
                by_name.remove(&name);
            }
        }
    }

    fn find(&self, name: &str) -> Option<Arc<Channel>> {
        let by_name = self.0.by_name.read();
        let by_name = by_name.unwrap_or_else(PoisonError::into_inner);
        by_name.get(name).cloned()
    }

    fn find_or_remember(&self, publication: &Publication) -> Option<Arc<Channel>> {
        let name = &*publication.channel;
        if let Some(channel) = self.find(name) {
            lock(&channel.state).used = Instant::now();
            return Some(channel);
        }
        // Nobody listens: only its id is of use, to one who is about to.
        if publication.id.is_none() || name.len() > MAX_ID {
            return None;
        }
        let mut by_name = self.names();
        let channel = by_name
            .entry(name.into())
            .or_insert_with(|| Arc::new(Channel::new(self.0.published.clone())))
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
        let mut state = lock(&channel.state);
        state.used = Instant::now();
        if std::mem::replace(&mut state.lingers, true) {
            return;
        }
        let due = state.used + LINGER;
        drop(state);
        let mut lingering = lock(&self.0.lingering);
        lingering.push_back((due, name));
        if lingering.len() > MAX_LINGERING
            && let Some((_, oldest)) = lingering.pop_front()
            && let Some(channel) = by_name.get(&oldest)
        {
            let mut state = lock(&channel.state);
            state.lingers = false;
            let forgotten = state.blocks.is_empty();
            drop(state);
            if forgotten {
                by_name.remove(&oldest);
            }
        }
    }

    fn names(&self) -> RwLockWriteGuard<'_, HashMap<Arc<str>, Arc<Channel>>> {
        let by_name = self.0.by_name.write();
        by_name.unwrap_or_else(PoisonError::into_inner)
    }

    /// How many channels have subscribers.
    pub fn len(&self) -> usize {
        self.0.listened.load(Relaxed)
    }

    /// Whether nobody is subscribed to anything.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many subscriptions there are, over all channels.
    pub fn subscriptions(&self) -> usize {
        self.0.subscriptions.load(Relaxed)
    }
}

impl Channel {
    fn new(published: Traffic) -> Self {
        Self {
            published,
            state: Mutex::new(State {
                blocks: Vec::new(),
                lingers: false,
                used: Instant::now(),
            }),
            order: tokio::sync::Mutex::default(),
        }
    }

    /// Puts publications into the queues of all blocks. The caller holds the order.
    async fn hand_over(&self, publications: &[Arc<Publication>]) -> usize {
        let mut reached = 0;
        for publication in publications {
            let blocks = lock(&self.state).blocks.clone();
            for block in blocks {
                let here = block.push(publication).await;
                self.published
                    .add(here, here * block.kind().bytes(publication));
                reached += here;
            }
        }
        reached
    }

    /// Hands over what has waited long enough for the one before it, until nothing waits.
    async fn watch(self: Arc<Self>) {
        loop {
            let mut order = self.order.lock().await;
            let ready = order.sequence.expire(Instant::now());
            self.hand_over(&ready).await;
            let Some(deadline) = order.sequence.deadline() else {
                order.watched = false;
                return;
            };
            drop(order);
            tokio::time::sleep_until(deadline).await;
        }
    }

    /// Whether nothing is lost with it but subscribers.
    fn is_blank(&self) -> bool {
        let order = self.order.try_lock();
        order.is_ok_and(|order| order.sequence.is_blank())
    }
}

impl State {
    fn add(&mut self, mut seat: Seat) -> (Arc<Block>, usize) {
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
}

impl Subscription {
    /// The channel's name.
    pub fn channel(&self) -> &str {
        &self.name
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // The lock on the names is held to the end, so that nobody joins a channel
        // between the look that finds it empty and its removal.
        let mut by_name = self.channels.names();
        if self.block.remove(self.seat) {
            let mut state = lock(&self.channel.state);
            state
                .blocks
                .retain(|block| !Arc::ptr_eq(block, &self.block));
            let is_left = state.blocks.is_empty();
            drop(state);
            if is_left {
                self.channels.0.listened.fetch_sub(1, Relaxed);
                match self.channel.is_blank() {
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

/// A panic elsewhere leaves nothing half-done under these locks.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
