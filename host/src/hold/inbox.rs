//! What was published and waits for one hold.

use std::{
    collections::{HashSet, VecDeque},
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use parking_lot::Mutex;

use futures_util::task::AtomicWaker;
use prometheus_client::metrics::counter::Counter;

use crate::{
    net::connection::ConnectionHandle,
    pubsub::{publication::Publication, shard::HoldSubscriber},
};

/// See the module's words. Shared between the hold and the channels that it is on.
pub(crate) struct Inbox {
    state: Mutex<State>,
    /// The hold's task.
    holder: AtomicWaker,
    limit: usize,
    /// How often there was more than that.
    overflows: Counter,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Arc<Publication>>,
    bytes: usize,
    overflowed: bool,
    /// Cuts the client off when the limit is passed.
    cut: Option<ConnectionHandle>,
}

/// What the hold finds.
pub(crate) enum Found {
    /// Publications, in their order.
    Published(VecDeque<Arc<Publication>>),
    /// More was published than may wait; what waited is dropped.
    Overflow,
}

impl Inbox {
    /// An inbox for `limit` bytes; `overflows` counts how often there is more.
    pub(crate) fn new(limit: usize, overflows: Counter) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            holder: AtomicWaker::new(),
            limit,
            overflows,
        })
    }

    /// Waits until there is something. For one task only.
    pub(crate) fn find(self: &Arc<Self>) -> Find {
        Find(self.clone())
    }

    /// Cuts the client off at once when more is published than may wait: one that does not
    /// read is not found in any other way.
    pub(crate) fn on_overflow(&self, cut: Option<ConnectionHandle>) {
        self.state.lock().cut = cut;
    }

    /// The channels of what waits.
    pub(crate) fn channels(&self) -> HashSet<String> {
        let state = self.state.lock();
        let channels = state.waiting.iter().map(|it| it.channel.clone());
        channels.collect()
    }

    /// Drops what is there.
    pub(crate) fn clear(&self) {
        self.state.lock().clear();
    }

    /// Drops of each channel what is there before the first that `fits`.
    pub(crate) fn drop_until(&self, fits: impl Fn(&Publication) -> bool) {
        let mut state = self.state.lock();
        let State { waiting, bytes, .. } = &mut *state;
        let mut begun = HashSet::new();
        waiting.retain(|publication| {
            let stays = begun.contains(&publication.channel) || fits(publication);
            match stays {
                true => drop(begun.insert(publication.channel.clone())),
                false => *bytes -= publication.size(),
            }
            stays
        });
    }
}

/// See [`Inbox::find`].
pub(crate) struct Find(Arc<Inbox>);

impl Future for Find {
    type Output = Found;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Found> {
        self.0.holder.register(cx.waker());
        let mut state = self.0.state.lock();
        if mem::take(&mut state.overflowed) {
            return Poll::Ready(Found::Overflow);
        }
        if state.waiting.is_empty() {
            return Poll::Pending;
        }
        state.bytes = 0;
        Poll::Ready(Found::Published(mem::take(&mut state.waiting)))
    }
}

impl HoldSubscriber for Inbox {
    fn deliver(&self, publication: &Arc<Publication>) {
        let mut state = self.state.lock();
        // Whoever was told to look elsewhere misses nothing more here.
        if state.overflowed {
            return;
        }
        state.bytes += publication.size();
        state.waiting.push_back(publication.clone());
        if state.bytes > self.limit && state.waiting.len() > 1 {
            state.clear();
            state.overflowed = true;
            self.overflows.inc();
            if let Some(cut) = &state.cut {
                cut.cut();
            }
        }
        drop(state);
        self.holder.wake();
    }
}

impl State {
    fn clear(&mut self) {
        self.waiting = VecDeque::new();
        self.bytes = 0;
        self.overflowed = false;
    }
}
