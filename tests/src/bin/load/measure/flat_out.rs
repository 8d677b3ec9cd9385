//! `flat-out`: deliveries per second when publishing as fast as the server accepts.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;

use super::{CpuUsage, STRAGGLER_TIMEOUT, open_all};
use crate::clock;
use crate::publisher::Publisher;
use crate::report::Figure;
use crate::socket::Event;
use crate::tally::Tally;
use crate::target::Target;

/// Deliveries during this time are not counted.
const WARM_UP: Duration = Duration::from_secs(1);

/// Options of `flat-out`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Sockets
    #[arg(long, default_value_t = 2000, value_parser = crate::count)]
    pub sockets: usize,
    /// Connections to the control port
    #[arg(long, default_value_t = 4, value_parser = crate::connections)]
    pub publishers: usize,
    /// Messages by which the slowest socket may lag
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub window: u64,
    /// Seconds to measure, after one second of warm-up
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
    /// Length of a message in bytes
    #[arg(long, default_value_t = 400, value_parser = crate::length)]
    pub length: usize,
}

/// Measures deliveries and publishes per second.
pub fn run(target: &Target, options: &Options) -> Result<Vec<Figure>> {
    let mut sockets = target.sockets()?;
    open_all(&mut sockets, options.sockets)?;
    let mut publisher = Publisher::new(target, options.publishers, options.length, &mut sockets)?;
    publisher.wait_until_subscribed(&mut sockets)?;

    let cpu = CpuUsage::start();
    let read_stamp = publisher.stamp_reader();
    let mut tally = Tally::new(sockets.len(), options.publishers);
    let start = clock::now() + clock::nanoseconds(WARM_UP);
    let end = start + clock::nanoseconds(Duration::from_secs(options.seconds));
    let timeout = clock::nanoseconds(STRAGGLER_TIMEOUT);
    let mut complete = 0;
    let mut counted_from = None;
    let mut counted_to = None;
    let mut last_receipt = clock::now();
    loop {
        let now = clock::now();
        if now >= start && counted_from.is_none() {
            counted_from = Some((now, tally.received, publisher.total()));
        }
        if now >= end {
            counted_to.get_or_insert((now, tally.received, publisher.total()));
            if complete == publisher.total() {
                break;
            }
        } else {
            while publisher.total() - complete < options.window
                && let Some(number) = publisher.idle_connection()
            {
                publisher.publish(number, now)?;
            }
        }
        // The missing messages are counted as lost.
        if now > last_receipt + timeout {
            break;
        }
        sockets.batch_delay();
        sockets.poll(Duration::from_millis(100), |socket, event| {
            if let Event::Message { payload, at } = event
                && let Some(stamp) = read_stamp(payload)
            {
                last_receipt = at;
                let completed = tally.receive(socket, stamp.publisher, stamp.sequence);
                complete += u64::from(completed);
            }
            None
        })?;
        publisher.read_responses(&mut sockets)?;
    }
    let cpu = cpu.figure("flat out, own processor time");
    tally.finish(&publisher.published);
    let (Some((from, received, published)), Some((to, received_to, published_to))) =
        (counted_from, counted_to)
    else {
        anyhow::bail!(
            "no message received for {STRAGGLER_TIMEOUT:?}, {} lost",
            tally.lost
        );
    };
    ensure!(to > from, "the measurement took no time");
    sockets.close()?;

    let seconds = (to - from) as f64 / 1e9;
    Ok(vec![
        Figure::new(
            "flat out, deliveries",
            "/s",
            (received_to - received) as f64 / seconds,
        ),
        Figure::new(
            "flat out, publishes",
            "/s",
            (published_to - published) as f64 / seconds,
        ),
        Figure::new("flat out lost", "messages", tally.lost as f64),
        Figure::new("flat out out of order", "messages", tally.disordered as f64),
        cpu,
    ])
}
