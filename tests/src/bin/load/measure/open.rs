//! `open`: the rate at which sockets can be opened.

use anyhow::Result;
use clap::Args;

use super::{CpuUsage, OPEN_TIMEOUT};
use crate::report::Figure;
use crate::sockets::Until;
use crate::target::Target;

/// Options of `open`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Sockets
    #[arg(long, default_value_t = 2000, value_parser = crate::count)]
    pub sockets: usize,
    /// Sockets being opened at the same time
    #[arg(long, default_value_t = 1, value_parser = crate::connections)]
    pub concurrency: usize,
    /// When a socket counts as open
    #[arg(long, value_enum, default_value_t = Until::Upgraded)]
    pub until: Until,
}

/// Measures opens per second.
pub fn run(target: &Target, options: &Options) -> Result<Vec<Figure>> {
    let mut sockets = target.sockets()?;
    let cpu = CpuUsage::start();
    let duration = sockets.open(
        options.sockets,
        options.concurrency,
        options.until,
        OPEN_TIMEOUT,
    )?;
    let cpu = cpu.figure("open, own processor time");
    sockets.close()?;
    Ok(vec![
        Figure::new(
            "open",
            "/s",
            options.sockets as f64 / duration.as_secs_f64(),
        ),
        cpu,
    ])
}
