//! The measurements, one a file; each takes a running server and returns figures.

pub mod fanout;
pub mod flat_out;
pub mod get;
pub mod idle;
pub mod open;
pub mod ping;
pub mod start;

use std::time::Duration;

use anyhow::Result;

use crate::clock;
use crate::report::Figure;
use crate::sockets::{Sockets, Until};

/// All sockets of a measurement are open within this time, or it fails.
const OPEN_TIMEOUT: Duration = Duration::from_secs(180);
/// Where opening is not what is measured, this many are opened at a time.
const OPEN_CONCURRENCY: usize = 64;
/// After the last publish, stragglers have this long to come.
const STRAGGLER_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens `more` sockets where opening is not what is measured.
fn open_all(sockets: &mut Sockets, more: usize) -> Result<()> {
    sockets.open(more, OPEN_CONCURRENCY, Until::Upgraded, OPEN_TIMEOUT)?;
    Ok(())
}

/// How much of one core this program takes for itself: what it takes from the
/// server, and near 100 % a sign that it, not the server, is being measured.
struct OwnShare {
    at: u64,
    used: u64,
}

impl OwnShare {
    fn start() -> Self {
        Self {
            at: clock::now(),
            used: clock::processor(),
        }
    }

    fn figure(&self, name: &'static str) -> Figure {
        let passed = (clock::now() - self.at).max(1);
        Figure::new(
            name,
            "% of a core",
            100.0 * (clock::processor() - self.used) as f64 / passed as f64,
        )
    }
}
