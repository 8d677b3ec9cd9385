//! Publish and subscribe: channels, and the fan-out of publications to their subscribers.
//!
//! In reading order, following an item from its publisher to a subscriber:
//!
//! - `publication` is an item, encoded once for all subscribers; `frames` is its form for WebSockets.
//! - `channels` finds the item's channel by name, and manages subscriptions.
//! - `channel` puts the item in order and queues it in each of the channel's shards.
//! - `sequencer` orders items by their ids, and drops duplicates.
//! - `shard` delivers the queued items to a part of the subscribers, in its own task.
//! - `filter` decides which items a subscriber receives, and rewrites their content.

mod channel;
pub(crate) mod channels;
pub(crate) mod filter;
pub(crate) mod frames;
pub(crate) mod publication;
pub(crate) mod sequencer;
pub(crate) mod shard;
