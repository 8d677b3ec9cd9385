//! Development support: `socket-host build` and `up --watch`.
//!
//! In reading order:
//! - [`build`] runs the build commands of components, each in a [`process`] group of its own.
//! - [`watch`] is the main loop of `--watch`: it rebuilds, reloads, and notifies pages.
//! - [`watch_set`] knows which files an application depends on, given as [`pattern`]s.
//! - [`fs_events`] debounces file system events; [`scanner`] then finds the files that changed, also
//!   behind symbolic [`links`].
//! - [`stale`] finds components that are older than what they are built from.
//! - [`reload`] sends events to open pages; [`inject`] adds its script to HTML responses.

pub(crate) mod build;
mod fs_events;
mod inject;
mod links;
mod pattern;
pub(crate) mod process;
pub(crate) mod reload;
mod scanner;
pub(crate) mod stale;
pub(crate) mod watch;
mod watch_set;
