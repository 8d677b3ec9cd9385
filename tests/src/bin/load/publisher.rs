//! Publishes through a server's control port.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::clock;
use crate::http::Connection;
use crate::message::{Stamp, Template, content};
use crate::socket::Event;
use crate::sockets::Sockets;
use crate::target::Target;

/// The publisher in the stamps of probes, which are not counted.
const PROBE: u16 = u16::MAX;
const PROBE_INTERVAL: Duration = Duration::from_millis(200);
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);
const READ_BUFFER: usize = 4 << 10;

/// Connections to a control port. Each waits for the response to a publish before it sends the
/// next. They share the sockets' poll.
pub struct Publisher {
    control: SocketAddr,
    connections: Vec<Connection>,
    busy: Vec<bool>,
    /// The number of messages sent, by connection. Excludes probes.
    pub published: Vec<u32>,
    template: Template,
    run: u32,
    buffer: Vec<u8>,
}

impl Publisher {
    /// Opens `count` connections and registers them with the poll of `sockets`.
    pub fn new(
        target: &Target,
        count: usize,
        length: usize,
        sockets: &mut Sockets,
    ) -> Result<Self> {
        let mut connections = Vec::with_capacity(count);
        for number in 0..count {
            let mut connection = Connection::open(target.control).context("control port")?;
            sockets.register(&mut connection.stream, number)?;
            connections.push(connection);
        }
        let bearer = target.bearer.as_deref();
        Ok(Self {
            control: target.control,
            connections,
            busy: vec![false; count],
            published: vec![0; count],
            template: Template::new(
                target.control,
                &target.publish_path,
                &target.channel,
                bearer,
                target.transport,
                length,
            )?,
            // Differs from the runs of other processes, whose messages may still arrive.
            run: std::process::id().rotate_left(16) ^ clock::now() as u32,
            buffer: vec![0; READ_BUFFER],
        })
    }

    /// Returns a connection that is not waiting for a response.
    pub fn idle_connection(&self) -> Option<usize> {
        self.busy.iter().position(|busy| !busy)
    }

    /// Returns the number of messages sent, without probes.
    pub fn total(&self) -> u64 {
        self.published.iter().copied().map(u64::from).sum()
    }

    /// Sends the next message on an idle connection, with `at` as its time.
    pub fn publish(&mut self, number: usize, at: u64) -> Result<()> {
        self.published[number] += 1;
        self.send(
            number,
            Stamp {
                run: self.run,
                publisher: number as u16,
                sequence: self.published[number],
                at,
            },
        )
    }

    fn send(&mut self, number: usize, stamp: Stamp) -> Result<()> {
        self.busy[number] = true;
        self.connections[number]
            .send(self.template.with_stamp(stamp))
            .context("publishing")
    }

    /// Reads the responses on connections that the last poll found ready.
    pub fn read_responses(&mut self, sockets: &mut Sockets) -> Result<()> {
        // Moved out meanwhile: a new connection may be registered with the poll.
        let ready = std::mem::take(&mut sockets.ready);
        for &number in &ready {
            let Some(connection) = self.connections.get_mut(number) else {
                continue;
            };
            if let Some(status) = connection.receive(&mut self.buffer).context("publishing")? {
                ensure!(status == 200, "publish failed with status {status}");
                self.busy[number] = false;
                if connection.close {
                    *connection = Connection::open(self.control).context("control port")?;
                    sockets.register(&mut connection.stream, number)?;
                }
            }
        }
        sockets.ready = ready;
        Ok(())
    }

    /// Returns a function that parses the stamp of a message of this publisher. It returns `None`
    /// for probes and for other messages.
    pub fn stamp_reader(&self) -> impl Fn(&[u8]) -> Option<Stamp> + use<> {
        let (run, length) = (self.run, self.template.length);
        move |payload| {
            let stamp = Stamp::parse(payload)?;
            (stamp.run == run && stamp.publisher != PROBE && content(payload).len() == length)
                .then_some(stamp)
        }
    }

    /// Publishes probes until each socket has received one. From then on all sockets are
    /// subscribed, and a message that does not arrive is lost.
    pub fn wait_until_subscribed(&mut self, sockets: &mut Sockets) -> Result<()> {
        let deadline = clock::now() + clock::nanoseconds(PROBE_TIMEOUT);
        let mut reached = vec![false; sockets.len()];
        let mut left = reached.len();
        let (mut due, mut sequence) = (0, 0);
        let run = self.run;
        while left > 0 || self.busy.contains(&true) {
            let now = clock::now();
            ensure!(
                now < deadline,
                "{left} of {} sockets received no probe within {PROBE_TIMEOUT:?}",
                reached.len()
            );
            if left > 0
                && now >= due
                && let Some(number) = self.idle_connection()
            {
                sequence += 1;
                self.send(
                    number,
                    Stamp {
                        run,
                        publisher: PROBE,
                        sequence,
                        at: now,
                    },
                )?;
                due = now + clock::nanoseconds(PROBE_INTERVAL);
            }
            sockets.poll(PROBE_INTERVAL, |socket, event| {
                if let Event::Message { payload, .. } = event
                    && Stamp::parse(payload).is_some_and(|stamp| stamp.run == run)
                    && !std::mem::replace(&mut reached[socket], true)
                {
                    left -= 1;
                }
                None
            })?;
            self.read_responses(sockets)?;
        }
        Ok(())
    }
}
