//! The measurements, one a file; each takes a running server and returns figures.

pub mod fanout;
pub mod flat_out;
pub mod get;
pub mod idle;
pub mod open;
pub mod ping;
pub mod start;

use std::time::Duration;

/// All sockets of a measurement are open within this time, or it fails.
const OPEN_TIMEOUT: Duration = Duration::from_secs(180);
/// Where opening is not what is measured, this many are opened at a time.
const OPEN_CONCURRENCY: usize = 64;
/// After the last publish, stragglers have this long to come.
const STRAGGLER_TIMEOUT: Duration = Duration::from_secs(10);
