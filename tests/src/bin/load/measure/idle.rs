//! `idle`: the server's memory per idle socket.

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::open_all;
use crate::clock;
use crate::process::resident;
use crate::report::Figure;
use crate::sockets::Sockets;
use crate::target::Target;

/// Options of `idle`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Sockets
    #[arg(long, default_value_t = 10_000, value_parser = crate::count)]
    pub sockets: usize,
    /// Sockets to open before the first memory reading, to exclude one-time costs
    #[arg(long, default_value_t = 100, value_parser = crate::count)]
    pub before: usize,
    /// Seconds to wait before each memory reading
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(0..=600))]
    pub settle: u64,
}

/// Measures the resident memory of process `pid` and its children per socket.
pub fn run(target: &Target, pid: u32, options: &Options) -> Result<Vec<Figure>> {
    let mut sockets = target.sockets()?;
    let settle = Duration::from_secs(options.settle);
    open_all(&mut sockets, options.before)?;
    wait(&mut sockets, settle)?;
    let before = resident(pid)?;
    open_all(&mut sockets, options.sockets)?;
    wait(&mut sockets, settle)?;
    let after = resident(pid)?;
    sockets.close()?;

    let mebibytes = |bytes: u64| bytes as f64 / (1 << 20) as f64;
    let each = (after as f64 - before as f64) / options.sockets as f64;
    Ok(vec![
        Figure::new("idle, memory a socket", "KiB", each / 1024.0),
        Figure::new("idle, resident before", "MiB", mebibytes(before)),
        Figure::new("idle, resident after", "MiB", mebibytes(after)),
    ])
}

/// Waits, while reading what the application sends.
fn wait(sockets: &mut Sockets, duration: Duration) -> Result<()> {
    let end = clock::now() + clock::nanoseconds(duration);
    while clock::now() < end {
        sockets.poll(clock::until(end), |_, _| None)?;
    }
    Ok(())
}
