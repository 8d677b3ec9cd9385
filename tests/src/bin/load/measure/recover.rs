//! `recover`: the time until the sockets of a killed host have received at another one what they have
//! missed.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{OPEN_TIMEOUT, open_all};
use crate::clock;
use crate::process::Server;
use crate::report::Figure;
use crate::socket::Event;
use crate::sockets::{Sockets, Until};
use crate::target::Target;

/// The items that each socket has missed.
const MISSED: usize = 20;
/// Sockets that connect at the same time, as clients that have lost their host do.
const CONCURRENCY: usize = 512;
/// What the content of an item starts with, before its number.
const PREFIX: &str = "item ";

/// Opens `count` sockets at a host that is then killed, publishes items at another host, and measures
/// how long it takes all sockets to connect there and to receive the items.
pub fn run(target: &Target, server: &mut Server, count: usize) -> Result<Vec<Figure>> {
    let dying = Target {
        address: *target.peers.first().context("no other host")?,
        peers: Vec::new(),
        ..target.clone()
    };
    let mut sockets = dying.sockets()?;
    open_all(&mut sockets, count)?;
    publish(target, 0..1)?;
    let mut received = Received::new(count, 0);
    let deadline = clock::now() + clock::nanoseconds(OPEN_TIMEOUT);
    received.complete(&mut sockets, deadline)?;
    server.kill_peer()?;
    drop(sockets);
    publish(target, 1..MISSED + 1)?;

    let back = Target {
        path: format!("{}?after={}", target.path, id(0)),
        peers: Vec::new(),
        ..target.clone()
    };
    let mut sockets = back.sockets()?;
    let mut received = Received::new(count, MISSED);
    let start = clock::now();
    let deadline = start + clock::nanoseconds(OPEN_TIMEOUT);
    let opened = sockets.open_and_receive(
        count,
        CONCURRENCY,
        Until::Upgraded,
        OPEN_TIMEOUT,
        |socket, payload, at| received.add(socket, payload, at),
    )?;
    received.complete(&mut sockets, deadline)?;
    sockets.close()?;
    let last = received.last.saturating_sub(start);
    let disordered = received.disordered as f64;
    Ok(vec![
        Figure::new("recover, sockets", "sockets", count as f64),
        Figure::new("recover, until all are open", "s", opened.as_secs_f64()),
        Figure::new("recover, until all have everything", "s", last as f64 / 1e9),
        Figure::new("recover, lost or out of order", "messages", disordered),
    ])
}

/// What the sockets have received.
struct Received {
    /// The number of the last item.
    end: usize,
    /// The last item of each socket.
    items: Vec<usize>,
    /// The sockets that have received the last item.
    complete: usize,
    disordered: usize,
    /// When the last item arrived.
    last: u64,
}

impl Received {
    /// Nothing is received. The items up to `end` are expected, after item 0 if that is not the end.
    fn new(sockets: usize, end: usize) -> Self {
        Self {
            end,
            items: vec![0; sockets],
            complete: 0,
            disordered: 0,
            last: 0,
        }
    }

    /// Receives until each socket has the last item.
    fn complete(&mut self, sockets: &mut Sockets, deadline: u64) -> Result<()> {
        while self.complete < self.items.len() {
            ensure!(
                clock::now() < deadline,
                "only {} of {} sockets have received everything",
                self.complete,
                self.items.len()
            );
            sockets.poll(clock::until(deadline), |socket, event| {
                if let Event::Message { payload, at } = event {
                    self.add(socket, payload, at);
                }
                None
            })?;
        }
        Ok(())
    }

    fn add(&mut self, socket: usize, payload: &[u8], at: u64) {
        let text = std::str::from_utf8(payload).unwrap_or_default();
        let number = text
            .strip_prefix(PREFIX)
            .and_then(|number| number.parse().ok());
        let Some(number) = number else {
            return;
        };
        let last = std::mem::replace(&mut self.items[socket], number);
        self.disordered += usize::from(number != last + 1 && number != 0);
        self.complete += usize::from(number == self.end);
        self.last = at;
    }
}

/// Returns the id of an item.
fn id(number: usize) -> String {
    format!("load-{number}")
}

/// Publishes numbered items in one request.
fn publish(target: &Target, numbers: Range<usize>) -> Result<()> {
    let items = numbers.map(|number| {
        json!({
            "channel": target.channel,
            "id": id(number),
            "ws-message": {"content": format!("{PREFIX}{number}")},
        })
    });
    let body = json!({ "items": items.collect::<Vec<_>>() }).to_string();
    let response = post(target.control, &target.publish_path, &body).context("publishing")?;
    ensure!(
        response.starts_with("HTTP/1.1 200"),
        "publishing: {response}"
    );
    Ok(())
}

fn post(address: SocketAddr, path: &str, body: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    Ok(response)
}
