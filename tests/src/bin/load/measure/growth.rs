//! `growth`: the rates of GET requests and pings at growing numbers of connections.

use anyhow::{Context, Result};

use super::{get, ping};
use crate::report::Figure;
use crate::sockets::Responder;
use crate::target::Target;

/// The pings, and what answers them.
const PINGS: [(&str, Responder); 2] = [
    ("pings", Responder::Application),
    ("pings to the host", Responder::Host),
];

/// Measures each rate for `seconds`, at each of the numbers of connections.
pub fn run(target: &Target, connections: &[usize], seconds: u64) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for &connections in connections {
        let name = |what: &str| format!("growth, {what} on {connections} connections");
        let mut add = |what: &str, figure: &str, measured: &[Figure]| {
            let found = measured.iter().find(|it| it.name == figure);
            figures.extend(found.map(|it| Figure::new(name(what), it.unit, it.value)));
        };
        let options = get::Options {
            connections,
            seconds,
        };
        let measured = get::run_without_wrk(target, &options).with_context(|| name("GET"))?;
        add("GET", get::REQUESTS, &measured);
        add("refused GET", get::REFUSED, &measured);
        for (what, answered_by) in PINGS {
            let options = ping::Options {
                sockets: connections,
                seconds,
                answered_by,
            };
            let measured = ping::run(target, &options).with_context(|| name(what))?;
            add(what, ping::ROUND_TRIPS, &measured);
        }
    }
    Ok(figures)
}
