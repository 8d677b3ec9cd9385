//! Small GETs on kept connections: how many a second, and how long each takes.

use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use mio::{Events, Interest, Poll, Token};

use super::OwnShare;
use crate::clock;
use crate::http::{self, Connection};
use crate::report::Figure;
use crate::stats::Samples;
use crate::target::Target;

const WARM_UP: Duration = Duration::from_secs(1);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const READ_BUFFER: usize = 64 << 10;

/// What to do.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Connections, each with one request at a time
    #[arg(long, default_value_t = 32, value_parser = crate::connections)]
    pub connections: usize,
    /// Seconds of counting, after one of warming up
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
}

/// Requests a second and their latencies. Any status but 200 is an error.
pub fn run(target: &Target, options: &Options) -> Result<Vec<Figure>> {
    let request = http::get(target.address, &target.get_path);
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(options.connections);
    let mut buffer = vec![0; READ_BUFFER];
    let mut connections = Vec::with_capacity(options.connections);
    for number in 0..options.connections {
        let mut connection = Connection::open(target.address)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry()
            .register(&mut connection.stream, Token(number), interest)?;
        connection.send(&request)?;
        connections.push((connection, clock::now()));
    }
    let own = OwnShare::start();
    let start = clock::now() + clock::nanoseconds(WARM_UP);
    let end = start + clock::nanoseconds(Duration::from_secs(options.seconds));
    let give_up = end + clock::nanoseconds(ANSWER_TIMEOUT);
    let mut waiting = connections.len();
    let mut latencies = Samples::default();
    while waiting > 0 {
        let left = clock::until(give_up);
        ensure!(
            !left.is_zero(),
            "{waiting} requests had no answer {ANSWER_TIMEOUT:?} after the end"
        );
        match poll.poll(&mut events, Some(left)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled.context("waiting for answers")?,
        }
        for event in &events {
            let (connection, sent) = &mut connections[event.token().0];
            let Some(status) = connection.receive(&mut buffer)? else {
                continue;
            };
            ensure!(
                status == 200,
                "GET {} was answered with {status}, not 200",
                target.get_path
            );
            let now = clock::now();
            if (start..end).contains(&now) {
                latencies.push(now - *sent);
            }
            if now >= end {
                waiting -= 1;
                continue;
            }
            *sent = now;
            connection.send(&request)?;
        }
    }
    let own = own.figure("get, own processor time");
    let [p50, p99] = latencies.percentiles([0.5, 0.99]);
    Ok(vec![
        Figure::new(
            "get, requests",
            "/s",
            latencies.len() as f64 / options.seconds as f64,
        ),
        Figure::milliseconds("get p50", p50),
        Figure::milliseconds("get p99", p99),
        own,
    ])
}
