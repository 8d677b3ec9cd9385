//! The commands that use the control port of a running host.

mod client;
mod close;
mod events;
mod publish;
mod sessions;
mod tail;

pub(super) use close::Close;
pub(super) use publish::Publish;
pub(super) use sessions::ListSessions;
pub(super) use tail::Tail;
