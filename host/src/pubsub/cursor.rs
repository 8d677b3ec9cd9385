//! How far a WebSocket has received a channel with history.

use parking_lot::{Mutex, MutexGuard};

/// The position of a WebSocket, which its shard and its session move.
pub(super) struct Cursor(Mutex<Position>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) phase: Phase,
    /// The offset of the next item to deliver.
    pub(super) next: u64,
    /// The offset of the first item that was published after the socket has subscribed.
    pub(super) subscribed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The channel has not joined the bus yet.
    Waiting,
    /// The socket has no room for the next item, or has just subscribed. It receives items from the
    /// history until it has caught up.
    Behind,
    /// The socket receives what is published.
    Live,
}

impl Position {
    /// The position of a subscriber that first receives the items of the history from `next` on, if
    /// there are any. `subscribed` is the offset of the next item of the channel.
    pub(super) fn new(next: u64, subscribed: u64) -> Self {
        let phase = if next < subscribed {
            Phase::Behind
        } else {
            Phase::Live
        };
        Self {
            phase,
            next,
            subscribed,
        }
    }

    /// The position of a subscriber whose channel has not joined the bus yet.
    pub(super) const WAITING: Self = Self {
        phase: Phase::Waiting,
        next: 0,
        subscribed: 0,
    };
}

impl Cursor {
    pub(super) fn new(position: Position) -> Self {
        Self(Mutex::new(position))
    }

    /// Locks the position. Lock order: the state of the channel, this, then the outbox.
    pub(super) fn lock(&self) -> MutexGuard<'_, Position> {
        self.0.lock()
    }
}
