//! Opening sockets: how many a second.

use anyhow::Result;
use clap::Args;

use super::{OPEN_TIMEOUT, OwnShare};
use crate::report::Figure;
use crate::sockets::Until;
use crate::target::Target;

/// What to do.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Sockets
    #[arg(long, default_value_t = 2000, value_parser = crate::count)]
    pub sockets: usize,
    /// How many are being opened at a time
    #[arg(long, default_value_t = 1, value_parser = crate::connections)]
    pub concurrency: usize,
    /// When a socket counts as open
    #[arg(long, value_enum, default_value_t = Until::Upgraded)]
    pub until: Until,
}

/// Opens a second.
pub fn run(target: &Target, options: &Options) -> Result<Vec<Figure>> {
    let mut sockets = target.sockets()?;
    let own = OwnShare::start();
    let taken = sockets.open(
        options.sockets,
        options.concurrency,
        options.until,
        OPEN_TIMEOUT,
    )?;
    let own = own.figure("open, own processor time");
    sockets.close()?;
    Ok(vec![
        Figure::new("open", "/s", options.sockets as f64 / taken.as_secs_f64()),
        own,
    ])
}
