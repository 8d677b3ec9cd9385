//! `storm`: the time until sockets that were cut at once are back.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use tests::storm::{Outcome, Storm};

use crate::clock;
use crate::report::Figure;
use crate::stats::Samples;
use crate::target::Target;

const SOCKETS: usize = 2000;
const ROUNDS: usize = 10;
const JITTER_MILLISECONDS: u64 = 2000;

/// Options of `storm`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Sockets
    #[arg(long, default_value_t = SOCKETS, value_parser = crate::count)]
    pub sockets: usize,
    /// Times that all of them are cut, with and without jitter
    #[arg(long, default_value_t = ROUNDS)]
    pub rounds: usize,
    /// Milliseconds over which they spread out when they connect again with jitter
    #[arg(long, default_value_t = JITTER_MILLISECONDS)]
    pub jitter: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sockets: SOCKETS,
            rounds: ROUNDS,
            jitter: JITTER_MILLISECONDS,
        }
    }
}

/// The names of the figures.
struct Names {
    p50: &'static str,
    max: &'static str,
    complete: &'static str,
    refused: &'static str,
    lost: &'static str,
}

const AT_ONCE: Names = Names {
    p50: "storm, until open, p50",
    max: "storm, until open, maximum",
    complete: "storm, until all have everything",
    refused: "storm, refused handshakes",
    lost: "storm, lost or out of order",
};
const JITTER: Names = Names {
    p50: "storm with jitter, until open, p50",
    max: "storm with jitter, until open, maximum",
    complete: "storm with jitter, until all have everything",
    refused: "storm with jitter, refused handshakes",
    lost: "storm with jitter, lost or out of order",
};

/// Cuts all sockets of a host again and again, without and with jitter.
pub fn run(target: &Target, options: &Options) -> Result<Vec<Figure>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the clients")?;
    runtime.block_on(async {
        let (address, control) = (target.address, target.control);
        let mut storm = Storm::start(address, control, options.sockets).await?;
        let mut figures = Vec::new();
        let jitter = Duration::from_millis(options.jitter);
        for (jitter, names) in [(Duration::ZERO, AT_ONCE), (jitter, JITTER)] {
            let mut outcome = Outcome::default();
            for _ in 0..options.rounds {
                outcome.add(storm.round(jitter).await?);
            }
            figures.extend(names.figures(outcome));
        }
        Ok(figures)
    })
}

impl Names {
    fn figures(&self, outcome: Outcome) -> Vec<Figure> {
        let mut connected = Samples::default();
        for time in outcome.connected {
            connected.push(clock::nanoseconds(time));
        }
        let [p50, max] = connected.percentiles([0.5, 1.0]);
        vec![
            Figure::milliseconds(self.p50, p50),
            Figure::milliseconds(self.max, max),
            Figure::milliseconds(self.complete, clock::nanoseconds(outcome.complete)),
            Figure::new(self.refused, "handshakes", outcome.refused as f64),
            Figure::new(self.lost, "messages", outcome.lost as f64),
        ]
    }
}
