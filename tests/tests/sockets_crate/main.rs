//! The crate `sockets`, by its example: a chat with rooms, a history and a count.
//!
//! `suite` runs the chat in all places where a component can be. `races` is about what happens at
//! the same time, `settings` about manifests that lack something, and `template` about the template
//! whose component is the same chat.

mod member;
mod place;
mod races;
mod settings;
mod suite;
mod template;
