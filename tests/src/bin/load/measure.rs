//! The measurements, one a file; each takes a running server and returns figures.

pub mod fanout;
pub mod flat_out;
pub mod get;
pub mod idle;
pub mod open;
pub mod ping;
pub mod start;

use std::time::Duration;

use anyhow::{Context, Result};

use crate::clock;
use crate::publisher::Publisher;
use crate::report::Figure;
use crate::sockets::{Sockets, Until};
use crate::target::Target;

/// All sockets of a measurement are open within this time, or it fails.
const OPEN_TIMEOUT: Duration = Duration::from_secs(180);
/// Where opening is not what is measured, this many are opened at a time.
const OPEN_CONCURRENCY: usize = 8;
/// A server that was started must be ready within this time.
const WARM_UP_TIMEOUT: Duration = Duration::from_secs(30);
const WARM_UP_PAUSE: Duration = Duration::from_millis(20);
const WARM_UP_BYTES: usize = 400;
/// After the last publish, stragglers have this long to come.
const STRAGGLER_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens `more` sockets where opening is not what is measured.
fn open_all(sockets: &mut Sockets, more: usize) -> Result<()> {
    sockets.open(more, OPEN_CONCURRENCY, Until::Upgraded, OPEN_TIMEOUT)?;
    Ok(())
}

/// Waits until a server holds connections and what is published reaches them. It may have begun
/// to answer before that: Pushpin's processes look for each other, and meanwhile lose some.
pub fn warm_up(target: &Target) -> Result<()> {
    let deadline = clock::now() + clock::nanoseconds(WARM_UP_TIMEOUT);
    loop {
        match reach(target) {
            Err(_) if clock::now() < deadline => std::thread::sleep(WARM_UP_PAUSE),
            reached => return reached.context("the server does not become ready"),
        }
    }
}

fn reach(target: &Target) -> Result<()> {
    let mut sockets = target.sockets()?;
    open_all(&mut sockets, OPEN_CONCURRENCY)?;
    Publisher::new(target, 1, WARM_UP_BYTES, &mut sockets)?.settle(&mut sockets)?;
    sockets.close()
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
