//! `fanout`: the latency of one message at a time, published to many sockets.

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::{CpuUsage, STRAGGLER_TIMEOUT, open_all};
use crate::clock;
use crate::process::Processes;
use crate::publisher::Publisher;
use crate::report::Figure;
use crate::socket::Event;
use crate::stats::Samples;
use crate::tally::Tally;
use crate::target::Target;

/// A publish that is later than this counts from when it was due: the server has delayed it by
/// not responding to the one before.
const LATE: Duration = Duration::from_millis(5);

/// The name of the figure for the bytes on the wire.
pub const BYTES: &str = "fanout, bytes a message";

/// Options of `fanout`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Sockets
    #[arg(long, default_value_t = 2000, value_parser = crate::count)]
    pub sockets: usize,
    /// Milliseconds between two publishes
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub every: u64,
    /// Seconds to publish
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
    /// Length of a message in bytes
    #[arg(long, default_value_t = 400, value_parser = crate::length)]
    pub length: usize,
}

/// Measures the time from just before a publish is sent until a socket receives its message, and
/// the memory and the processor time of the server's processes while messages are published.
pub fn run(target: &Target, options: &Options, processes: &Processes) -> Result<Vec<Figure>> {
    let before = processes.resident()?;
    let mut sockets = target.sockets()?;
    open_all(&mut sockets, options.sockets)?;
    let mut publisher = Publisher::new(target, 1, options.length, &mut sockets)?;
    publisher.wait_until_subscribed(&mut sockets)?;

    let bytes_before = sockets.received();
    let time_before = processes.cpu_time()?;
    let redis_before = processes.redis_cpu_time()?;
    let cpu = CpuUsage::start();
    let read_stamp = publisher.stamp_reader();
    let mut tally = Tally::new(sockets.len(), 1);
    let (mut latencies, mut slowest) = (Samples::default(), Samples::default());
    let every = clock::nanoseconds(Duration::from_millis(options.every));
    let mut due = clock::now() + every;
    let end = due + clock::nanoseconds(Duration::from_secs(options.seconds));
    let give_up = end + clock::nanoseconds(STRAGGLER_TIMEOUT);
    let mut complete = 0;
    loop {
        let now = clock::now();
        if due < end {
            if now >= due && publisher.idle_connection().is_some() {
                let late = now > due + clock::nanoseconds(LATE);
                publisher.publish(0, if late { due } else { now })?;
                due += every;
            }
        } else if complete == publisher.total() || now >= give_up {
            break;
        }
        let next = if publisher.idle_connection().is_some() && due < end {
            due
        } else {
            give_up
        };
        sockets.batch_delay();
        sockets.poll(clock::until(next), |socket, event| {
            if let Event::Message { payload, at } = event
                && let Some(stamp) = read_stamp(payload)
            {
                let latency = at.saturating_sub(stamp.at);
                latencies.push(latency);
                let completed = tally.receive(socket, stamp.publisher, stamp.sequence);
                if completed > 0 {
                    complete += u64::from(completed);
                    slowest.push(latency);
                }
            }
            None
        })?;
        publisher.read_responses(&mut sockets)?;
    }
    let cpu = cpu.figure("fanout, own processor time");
    let bytes = (sockets.received() - bytes_before) as f64;
    let after = processes.resident()?;
    let time = processes.cpu_time()?.saturating_sub(time_before);
    let redis_after = processes.redis_cpu_time()?;
    tally.finish(&publisher.published);
    sockets.close()?;

    let [p50, p90, p99, max] = latencies.percentiles([0.5, 0.9, 0.99, 1.0]);
    let [last_p50, last_max] = slowest.percentiles([0.5, 1.0]);
    let mut figures = vec![
        Figure::milliseconds("fanout p50", p50),
        Figure::milliseconds("fanout p90", p90),
        Figure::milliseconds("fanout p99", p99),
        Figure::milliseconds("fanout max", max),
        Figure::milliseconds("fanout to the last socket, p50", last_p50),
        Figure::milliseconds("fanout to the last socket, max", last_max),
        Figure::new("fanout received", "messages", tally.received as f64),
        Figure::new("fanout lost", "messages", tally.lost as f64),
        Figure::new("fanout out of order", "messages", tally.disordered as f64),
        Figure::new(BYTES, "bytes", bytes / tally.received.max(1) as f64),
        cpu,
    ];
    if !processes.servers.is_empty() {
        let bytes = after as f64 - before as f64;
        let each = bytes / options.sockets as f64;
        let received = tally.received.max(1) as f64;
        figures.extend([
            Figure::new("fanout, memory a socket", "KiB", each / 1024.0),
            Figure::new("fanout, resident", "MiB", after as f64 / f64::from(1 << 20)),
            Figure::new(
                "fanout, processor time a delivery",
                "µs",
                time.as_secs_f64() * 1e6 / received,
            ),
        ]);
    }
    if let (Some(before), Some(after)) = (redis_before, redis_after) {
        let published = publisher.total().max(1) as f64;
        figures.push(Figure::new(
            "fanout, Redis's processor time a message",
            "µs",
            after.saturating_sub(before).as_secs_f64() * 1e6 / published,
        ));
    }
    Ok(figures)
}
