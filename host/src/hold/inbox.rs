//! A bounded queue of publications for one hold.

use std::{
    collections::{HashSet, VecDeque},
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;

use crate::{
    net::connection::ConnectionHandle,
    pubsub::{publication::Publication, shard::HoldSubscriber},
};

/// The queue between the channels that a hold is subscribed to and the hold.
pub(crate) struct Inbox {
    state: Mutex<State>,
    /// Wakes the task of the hold.
    receiver: AtomicWaker,
    max_bytes: usize,
    overflows: Counter,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Arc<Publication>>,
    bytes: usize,
    overflowed: bool,
    /// Closed on overflow.
    connection: Option<ConnectionHandle>,
}

/// What [`Inbox::recv`] returns.
pub(crate) enum Received {
    /// Publications, in order.
    Publications(VecDeque<Arc<Publication>>),
    /// The queue was full, and everything in it was dropped.
    Overflow,
}

impl Inbox {
    /// Creates an inbox for `max_bytes` of publications that counts its overflows.
    pub(crate) fn new(max_bytes: usize, overflows: Counter) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            receiver: AtomicWaker::new(),
            max_bytes,
            overflows,
        })
    }

    /// Waits for publications. Only one task may wait.
    pub(crate) fn recv(self: &Arc<Self>) -> Recv {
        Recv(self.clone())
    }

    /// Sets the connection to close on overflow.
    ///
    /// The body of a client that does not read is never polled, so the hold itself would not
    /// notice the overflow.
    pub(crate) fn close_on_overflow(&self, connection: Option<ConnectionHandle>) {
        self.state.lock().connection = connection;
    }

    /// Returns the channels of the queued publications.
    pub(crate) fn channels(&self) -> HashSet<String> {
        let state = self.state.lock();
        let channels = state.queue.iter().map(|it| it.channel.clone());
        channels.collect()
    }

    /// Drops all queued publications and resets an overflow.
    pub(crate) fn clear(&self) {
        self.state.lock().clear();
    }

    /// Drops the queued publications of each channel before the first that matches the predicate.
    pub(crate) fn drop_until(&self, predicate: impl Fn(&Publication) -> bool) {
        let mut state = self.state.lock();
        let State { queue, bytes, .. } = &mut *state;
        let mut matched = HashSet::new();
        queue.retain(|publication| {
            let retained = matched.contains(&publication.channel) || predicate(publication);
            if retained {
                matched.insert(publication.channel.clone());
            } else {
                *bytes -= publication.size();
            }
            retained
        });
    }
}

/// The future of [`Inbox::recv`].
pub(crate) struct Recv(Arc<Inbox>);

impl Future for Recv {
    type Output = Received;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Received> {
        self.0.receiver.register(cx.waker());
        let mut state = self.0.state.lock();
        if mem::take(&mut state.overflowed) {
            return Poll::Ready(Received::Overflow);
        }
        if state.queue.is_empty() {
            return Poll::Pending;
        }
        state.bytes = 0;
        Poll::Ready(Received::Publications(mem::take(&mut state.queue)))
    }
}

impl HoldSubscriber for Inbox {
    fn deliver(&self, publication: &Arc<Publication>) {
        let mut state = self.state.lock();
        // After an overflow the hold asks the backend for everything that is dropped here.
        if state.overflowed {
            return;
        }
        state.bytes += publication.size();
        state.queue.push_back(publication.clone());
        // A single publication always fits.
        if state.bytes > self.max_bytes && state.queue.len() > 1 {
            state.clear();
            state.overflowed = true;
            self.overflows.inc();
            if let Some(connection) = &state.connection {
                connection.close();
            }
        }
        drop(state);
        self.receiver.wake();
    }
}

impl State {
    fn clear(&mut self) {
        self.queue = VecDeque::new();
        self.bytes = 0;
        self.overflowed = false;
    }
}
