//! One publish at a time to many sockets: how long until each has it.

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::{OwnShare, STRAGGLER_TIMEOUT, open_all};
use crate::clock;
use crate::publisher::Publisher;
use crate::report::Figure;
use crate::sockets::Happened;
use crate::stats::Samples;
use crate::tally::Tally;
use crate::target::Target;

/// A publish later than this counts from when it was due: the server kept us
/// from sending it, and whoever waited for it waited that long.
const LATE: Duration = Duration::from_millis(5);

/// What to do.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Sockets
    #[arg(long, default_value_t = 2000, value_parser = crate::count)]
    pub sockets: usize,
    /// Milliseconds from one publish to the next
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub every: u64,
    /// Seconds of publishing
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
    /// Length of a message in bytes
    #[arg(long, default_value_t = 400, value_parser = crate::length)]
    pub length: usize,
}

/// Latencies from just before a publish is sent to its receipt.
pub fn run(target: &Target, options: &Options) -> Result<Vec<Figure>> {
    let mut sockets = target.sockets()?;
    open_all(&mut sockets, options.sockets)?;
    let mut publisher = Publisher::new(target, 1, options.length, &mut sockets)?;
    publisher.settle(&mut sockets)?;

    let own = OwnShare::start();
    let ours = publisher.ours();
    let mut tally = Tally::new(sockets.len(), 1);
    let (mut each, mut slowest) = (Samples::default(), Samples::default());
    let every = clock::nanoseconds(Duration::from_millis(options.every));
    let mut due = clock::now() + every;
    let end = due + clock::nanoseconds(Duration::from_secs(options.seconds));
    let give_up = end + clock::nanoseconds(STRAGGLER_TIMEOUT);
    let mut complete = 0;
    loop {
        let now = clock::now();
        if due < end {
            if now >= due && publisher.idle().is_some() {
                let late = now > due + clock::nanoseconds(LATE);
                publisher.publish(0, if late { due } else { now })?;
                due += every;
            }
        } else if complete == publisher.total() || now >= give_up {
            break;
        }
        let next = if publisher.idle().is_some() && due < end {
            due
        } else {
            give_up
        };
        sockets.rest();
        sockets.turn(clock::until(next), |happened| {
            if let Happened::Message {
                socket,
                payload,
                at,
            } = happened
                && let Some(stamp) = ours(payload)
            {
                let latency = at.saturating_sub(stamp.at);
                each.push(latency);
                let completed = tally
                    .receive(socket, stamp.publisher, stamp.sequence)
                    .messages;
                if completed > 0 {
                    complete += u64::from(completed);
                    slowest.push(latency);
                }
            }
            None
        })?;
        publisher.answers(&mut sockets)?;
    }
    let own = own.figure("fanout, own processor time");
    tally.finish(&publisher.published);
    sockets.close()?;

    let [p50, p90, p99, max] = each.percentiles([0.5, 0.9, 0.99, 1.0]);
    let [last_p50, last_max] = slowest.percentiles([0.5, 1.0]);
    Ok(vec![
        Figure::milliseconds("fanout p50", p50),
        Figure::milliseconds("fanout p90", p90),
        Figure::milliseconds("fanout p99", p99),
        Figure::milliseconds("fanout max", max),
        Figure::milliseconds("fanout to the last socket, p50", last_p50),
        Figure::milliseconds("fanout to the last socket, max", last_max),
        Figure::new("fanout received", "messages", tally.received as f64),
        Figure::new("fanout lost", "messages", tally.lost as f64),
        Figure::new("fanout out of order", "messages", tally.disordered as f64),
        own,
    ])
}
