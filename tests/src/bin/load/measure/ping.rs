//! `ping`: round trips through the application, or to the host. Each socket sends a ping as soon as the pong for
//! the last one has arrived.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;

use super::{CpuUsage, open_all};
use crate::clock;
use crate::report::Figure;
use crate::socket::Event;
use crate::sockets::{PONG, Responder};
use crate::stats::Samples;
use crate::target::Target;

/// The name of the figure for the rate.
pub const ROUND_TRIPS: &str = "ping, round trips";

const WARM_UP: Duration = Duration::from_secs(1);
const PONG_TIMEOUT: Duration = Duration::from_secs(30);

/// Options of `ping`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Sockets
    #[arg(long, default_value_t = 200, value_parser = crate::count)]
    pub sockets: usize,
    /// Seconds to measure, after one second of warm-up
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
    /// What answers the pings
    #[arg(long, value_enum, default_value_t = Responder::Application)]
    pub answered_by: Responder,
}

/// Measures round trips per second and their latencies.
pub fn run(target: &Target, options: &Options) -> Result<Vec<Figure>> {
    let mut sockets = target.sockets()?;
    open_all(&mut sockets, options.sockets)?;
    let ping = sockets.ping(options.answered_by)?;
    let cpu = CpuUsage::start();
    sockets.send_all(&ping)?;
    let start = clock::now() + clock::nanoseconds(WARM_UP);
    let end = start + clock::nanoseconds(Duration::from_secs(options.seconds));
    let give_up = end + clock::nanoseconds(PONG_TIMEOUT);
    let mut sent = vec![clock::now(); options.sockets];
    let mut waiting = options.sockets;
    let mut latencies = Samples::default();
    while waiting > 0 {
        let left = clock::until(give_up);
        ensure!(
            !left.is_zero(),
            "{waiting} sockets received no pong within {PONG_TIMEOUT:?} after the end"
        );
        sockets.poll(left, |socket, event| match event {
            Event::Message { payload, at } if payload == PONG.as_bytes() => {
                if (start..end).contains(&at) {
                    latencies.push(at.saturating_sub(sent[socket]));
                }
                if at >= end {
                    waiting -= 1;
                    return None;
                }
                sent[socket] = at;
                Some(&ping)
            }
            _ => None,
        })?;
    }
    let cpu = cpu.figure("ping, own processor time");
    sockets.close()?;
    let [p50, p99] = latencies.percentiles([0.5, 0.99]);
    Ok(vec![
        Figure::new(
            ROUND_TRIPS,
            "/s",
            latencies.len() as f64 / options.seconds as f64,
        ),
        Figure::milliseconds("ping p50", p50),
        Figure::milliseconds("ping p99", p99),
        cpu,
    ])
}
