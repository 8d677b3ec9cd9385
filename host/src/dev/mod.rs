//! `--watch` and `build`: building components, watching files, and reloading.

pub(crate) mod build;
mod fs_events;
mod inject;
mod pattern;
pub(crate) mod process;
pub(crate) mod reload;
mod scanner;
pub(crate) mod watch;
mod watch_set;
