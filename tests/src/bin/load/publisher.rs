//! Publishes through a server's control port, on the sockets' own poll.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::clock;
use crate::http::Connection;
use crate::message::{Stamp, Template};
use crate::sockets::{Happened, Sockets};
use crate::target::Target;

/// Probes have a publisher of their own, so that nobody counts them.
const PROBE: u16 = u16::MAX;
const PROBE_EVERY: Duration = Duration::from_millis(200);
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);
const ANSWER_BUFFER: usize = 4 << 10;

/// Connections to a control port, each a publisher that waits for its answer
/// before it sends again.
pub struct Publisher {
    control: SocketAddr,
    connections: Vec<Connection>,
    busy: Vec<bool>,
    /// Messages sent by each.
    pub published: Vec<u32>,
    template: Template,
    run: u32,
    buffer: Vec<u8>,
}

impl Publisher {
    /// `count` connections, on the poll of `sockets`.
    pub fn new(
        target: &Target,
        count: usize,
        length: usize,
        sockets: &mut Sockets,
    ) -> Result<Self> {
        let mut connections = Vec::with_capacity(count);
        for number in 0..count {
            let mut connection = Connection::open(target.control).context("the control port")?;
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
                target.kind,
                length,
            )?,
            // Another run against the same server has another start time.
            run: std::process::id().rotate_left(16) ^ clock::now() as u32,
            buffer: vec![0; ANSWER_BUFFER],
        })
    }

    /// A publisher that is not waiting for an answer.
    pub fn idle(&self) -> Option<usize> {
        self.busy.iter().position(|busy| !busy)
    }

    /// Messages sent by all, probes excepted.
    pub fn total(&self) -> u64 {
        self.published.iter().copied().map(u64::from).sum()
    }

    /// Sends the next message of an idle publisher, stamped with `at`.
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
            .send(self.template.stamped(stamp))
            .context("publishing")
    }

    /// Takes the answers of those the poll says are ready.
    pub fn answers(&mut self, sockets: &mut Sockets) -> Result<()> {
        // Taken and given back, for the poll may be asked for another connection.
        let ready = std::mem::take(&mut sockets.ready);
        for &number in &ready {
            let Some(connection) = self.connections.get_mut(number) else {
                continue;
            };
            if let Some(status) = connection.receive(&mut self.buffer).context("publishing")? {
                ensure!(
                    status == 200,
                    "the control port answered {status} to a publish, not 200"
                );
                self.busy[number] = false;
                if connection.closes {
                    *connection = Connection::open(self.control).context("the control port")?;
                    sockets.register(&mut connection.stream, number)?;
                }
            }
        }
        sockets.ready = ready;
        Ok(())
    }

    /// The stamp of a message if this publisher sent it, probes excepted.
    pub fn ours(&self) -> impl Fn(&[u8]) -> Option<Stamp> + use<> {
        let (run, length) = (self.run, self.template.length);
        move |payload| {
            let stamp = Stamp::find(payload)?;
            (stamp.run == run && stamp.publisher != PROBE && payload.len() == length)
                .then_some(stamp)
        }
    }

    /// Publishes probes until each socket has received one: from then on all
    /// are subscribed, and whatever does not come is lost.
    pub fn settle(&mut self, sockets: &mut Sockets) -> Result<()> {
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
                && let Some(number) = self.idle()
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
                due = now + clock::nanoseconds(PROBE_EVERY);
            }
            sockets.turn(PROBE_EVERY, |happened| {
                if let Happened::Message {
                    socket, payload, ..
                } = happened
                    && Stamp::find(payload).is_some_and(|stamp| stamp.run == run)
                    && !std::mem::replace(&mut reached[socket], true)
                {
                    left -= 1;
                }
                None
            })?;
            self.answers(sockets)?;
        }
        Ok(())
    }
}
