//! Round trips through the application: each socket sends its ping and waits
//! for the answer, again and again.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;

use super::{OwnShare, open_all};
use crate::clock;
use crate::frame::{self, Opcode};
use crate::report::Figure;
use crate::sockets::{Happened, PING, PONG};
use crate::stats::Samples;
use crate::target::Target;

const WARM_UP: Duration = Duration::from_secs(1);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What to do.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Sockets
    #[arg(long, default_value_t = 200, value_parser = crate::count)]
    pub sockets: usize,
    /// Seconds of counting, after one of warming up
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
}

/// Round trips a second and their latencies.
pub fn run(target: &Target, options: &Options) -> Result<Vec<Figure>> {
    let mut sockets = target.sockets()?;
    open_all(&mut sockets, options.sockets)?;
    let ping = frame::encode(Opcode::Text, PING);
    let own = OwnShare::start();
    sockets.send_all(&ping)?;
    let start = clock::now() + clock::nanoseconds(WARM_UP);
    let end = start + clock::nanoseconds(Duration::from_secs(options.seconds));
    let give_up = end + clock::nanoseconds(ANSWER_TIMEOUT);
    let mut sent = vec![clock::now(); options.sockets];
    let mut waiting = options.sockets;
    let mut latencies = Samples::default();
    while waiting > 0 {
        let left = clock::until(give_up);
        ensure!(
            !left.is_zero(),
            "{waiting} pings had no answer {ANSWER_TIMEOUT:?} after the end"
        );
        sockets.turn(left, |happened| match happened {
            Happened::Message {
                socket,
                payload,
                at,
            } if payload.starts_with(PONG) => {
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
    let own = own.figure("ping, own processor time");
    sockets.close()?;
    let [p50, p99] = latencies.percentiles([0.5, 0.99]);
    Ok(vec![
        Figure::new(
            "ping, round trips",
            "/s",
            latencies.len() as f64 / options.seconds as f64,
        ),
        Figure::milliseconds("ping p50", p50),
        Figure::milliseconds("ping p99", p99),
        own,
    ])
}
