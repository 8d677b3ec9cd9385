//! The measurements, one per file. Each takes a running server and returns figures.

pub mod fanout;
pub mod flat_out;
pub mod get;
pub mod growth;
pub mod hostile;
pub mod idle;
pub mod open;
pub mod ping;
pub mod recover;
pub mod start;
pub mod storm;

use std::time::Duration;

use anyhow::{Context, Result};

use crate::clock;
use crate::publisher::Publisher;
use crate::report::Figure;
use crate::sockets::{Sockets, Until};
use crate::target::Target;

/// The time within which all sockets of a measurement must open.
const OPEN_TIMEOUT: Duration = Duration::from_secs(180);
/// Sockets opened at the same time where opening is not measured.
const OPEN_CONCURRENCY: usize = 8;
/// The time within which a started server must be ready.
const WARM_UP_TIMEOUT: Duration = Duration::from_secs(30);
const WARM_UP_PAUSE: Duration = Duration::from_millis(20);
const WARM_UP_BYTES: usize = 400;
/// The time within which messages must arrive after the last publish.
const STRAGGLER_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens `count` more sockets, where opening is not measured.
fn open_all(sockets: &mut Sockets, count: usize) -> Result<()> {
    sockets.open(count, OPEN_CONCURRENCY, Until::Upgraded, OPEN_TIMEOUT)?;
    Ok(())
}

/// Waits until messages published to a server reach its sockets. A server may respond before
/// that: Pushpin's processes have to find each other first, and lose messages meanwhile.
pub fn warm_up(target: &Target) -> Result<()> {
    let deadline = clock::now() + clock::nanoseconds(WARM_UP_TIMEOUT);
    loop {
        match check_delivery(target) {
            Err(_) if clock::now() < deadline => std::thread::sleep(WARM_UP_PAUSE),
            result => return result.context("the server does not become ready"),
        }
    }
}

fn check_delivery(target: &Target) -> Result<()> {
    let mut sockets = target.sockets()?;
    open_all(&mut sockets, OPEN_CONCURRENCY)?;
    Publisher::new(target, 1, WARM_UP_BYTES, &mut sockets)?.wait_until_subscribed(&mut sockets)?;
    sockets.close()
}

/// The processor time that this program uses.
///
/// It is not available to the server. Near 100 % of a core, the program is the bottleneck.
struct CpuUsage {
    start: u64,
    cpu_time: u64,
}

impl CpuUsage {
    fn start() -> Self {
        Self {
            start: clock::now(),
            cpu_time: clock::cpu_time(),
        }
    }

    fn figure(&self, name: &'static str) -> Figure {
        let elapsed = (clock::now() - self.start).max(1);
        Figure::new(
            name,
            "% of a core",
            100.0 * (clock::cpu_time() - self.cpu_time) as f64 / elapsed as f64,
        )
    }
}
