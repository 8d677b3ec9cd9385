//! Publish and subscribe: channels, and the fan-out of publications to their subscribers.
//!
//! In reading order, following an item from its publisher to a subscriber:
//!
//! - `publication` is an item, encoded once for all subscribers; `frames` is its form for WebSockets.
//! - `channels` finds the item's channel by name, and manages subscriptions.
//! - `channel` puts the item in order and queues it in each of the channel's shards.
//! - `sequencer` orders items by their ids, and drops duplicates.
//! - `history` keeps the last items of a channel; `cursor` is a subscriber's position in it.
//! - `replica` is what differs if the items come from other hosts.
//! - `shard` delivers the queued items to a part of the subscribers, in its own task.
//! - `filter` decides which items a subscriber receives, and rewrites their content.

pub(crate) mod channel;
pub(crate) mod channels;
mod cursor;
pub(crate) mod filter;
pub(crate) mod frames;
mod history;
pub(crate) mod publication;
mod replica;
pub(crate) mod sequencer;
pub(crate) mod shard;
