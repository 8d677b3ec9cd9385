//! Publish and subscribe: channels, and the fan-out of publications to their subscribers.

mod channel;
pub(crate) mod channels;
pub(crate) mod filter;
pub(crate) mod publication;
pub(crate) mod sequencer;
pub(crate) mod shard;
