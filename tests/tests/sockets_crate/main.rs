//! The crate `sockets`, by its example: a chat with rooms, a history and a count.
//!
//! `suite` runs the chat in all places where a component can be. `races` is about what happens at
//! the same time, and `settings` about manifests that lack something.

mod member;
mod place;
mod races;
mod settings;
mod suite;
