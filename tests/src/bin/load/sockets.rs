//! Many client connections on one thread, as cheap as possible: one epoll, one read buffer for
//! all, and no task or timer per connection.
//!
//! The program shares the machine with the server that it measures, so each instruction here is
//! one that the server does not get.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mio::event::Source;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustls::ClientConfig;
use tests::{COMPONENT_PING, deflate::compress};

use crate::clock;
use crate::deflate::Decompressor;
use crate::socket::{Buffers, Event, Socket, Transport};
use crate::stream::Stream;
use crate::target::Target;
use crate::websocket::{self, Opcode};

const EVENTS_PER_POLL: usize = 1024;
const READ_BUFFER: usize = 64 << 10;
/// Long enough for several sockets to become ready, short enough not to show in latencies of
/// milliseconds.
const BATCH_DELAY: Duration = Duration::from_micros(200);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(60);
/// The first token of other sources on the same poll.
const OTHERS: usize = 1 << 32;

/// The application's ping. A host that answers it compares its bytes.
pub const PING: &str = r#"{"event":"ping"}"#;
/// The application's reply to a ping.
pub const PONG: &str = r#"{"event":"pong"}"#;

/// What answers a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Responder {
    /// The application
    Application,
    /// The host, where the application has asked for that with `auto-response`
    Host,
    /// An application that echoes
    Echo,
}

impl Responder {
    /// Returns the message to which the reply is `PONG`.
    pub fn ping(self) -> &'static str {
        match self {
            Self::Application => COMPONENT_PING,
            Self::Host => PING,
            Self::Echo => PONG,
        }
    }
}

/// When a socket counts as open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Until {
    /// The server has switched protocols (101)
    Upgraded,
    /// The application has replied to a ping, so that it has handled the opening and subscribed
    /// the socket
    Pong,
}

/// A set of connections and their poll.
pub struct Sockets {
    /// The addresses of the hosts, which take turns.
    addresses: Vec<SocketAddr>,
    transport: Transport,
    tls: Option<Arc<ClientConfig>>,
    deflate: bool,
    request: Vec<u8>,
    /// What each socket sends when it is open.
    greeting: Option<Vec<u8>>,
    poll: Poll,
    events: Events,
    sockets: Vec<Socket>,
    buffers: Buffers,
    /// The numbers of the other sources that the last poll found ready.
    pub ready: Vec<usize>,
    /// When set, the end of a connection is not an error.
    closing: bool,
    closed: usize,
}

impl Sockets {
    /// Creates an empty set of connections to a server.
    pub fn new(target: &Target) -> Result<Self> {
        let (address, transport) = (target.address, target.transport);
        let deflate = target.layers.has_deflate();
        let peers = target.peers.iter().copied();
        let greeting = target.greeting.map(str::as_bytes);
        Ok(Self {
            addresses: std::iter::once(address).chain(peers).collect(),
            greeting: greeting.map(|text| websocket::encode(Opcode::Text, text)),
            transport,
            tls: target.tls.clone(),
            deflate,
            request: transport.request(address, &target.path, deflate),
            poll: Poll::new().context("creating a poll")?,
            events: Events::with_capacity(EVENTS_PER_POLL),
            sockets: Vec::new(),
            buffers: Buffers {
                bytes: vec![0; READ_BUFFER],
                decompressor: Decompressor::default(),
            },
            ready: Vec::new(),
            closing: false,
            closed: 0,
        })
    }

    /// Returns the number of connections.
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Returns the bytes that were received on all connections.
    pub fn received(&self) -> u64 {
        self.sockets
            .iter()
            .map(|socket| socket.stream.received)
            .sum()
    }

    /// Encodes a ping. Like a browser, compresses it where it can.
    pub fn ping(&self, responder: Responder) -> Result<Vec<u8>> {
        let ping = responder.ping().as_bytes();
        Ok(if self.deflate {
            websocket::encode_compressed(&compress(ping)?)
        } else {
            websocket::encode(Opcode::Text, ping)
        })
    }

    /// Opens `count` more connections, `concurrency` at a time, and returns the time it took.
    pub fn open(
        &mut self,
        count: usize,
        concurrency: usize,
        until: Until,
        timeout: Duration,
    ) -> Result<Duration> {
        self.open_and_receive(count, concurrency, until, timeout, |_, _, _| {})
    }

    /// Does the same, and passes on each message with the number of its socket and its time.
    pub fn open_and_receive(
        &mut self,
        count: usize,
        concurrency: usize,
        until: Until,
        timeout: Duration,
        mut receive: impl FnMut(usize, &[u8], u64),
    ) -> Result<Duration> {
        let ping = self.ping(Responder::Application)?;
        let (mut started, mut opened) = (0, 0);
        let start = clock::now();
        let deadline = start + clock::nanoseconds(timeout);
        while opened < count {
            while started < count && started - opened < concurrency {
                self.connect()?;
                started += 1;
            }
            let left = clock::until(deadline);
            ensure!(
                !left.is_zero(),
                "only {opened} of {count} sockets opened within {timeout:?}"
            );
            self.poll(left, |socket, event| match (event, until) {
                (Event::Opened, Until::Upgraded) => {
                    opened += 1;
                    None
                }
                (Event::Opened, Until::Pong) => Some(&ping),
                (Event::Message { payload, at }, _) => {
                    opened += usize::from(until == Until::Pong && payload == PONG.as_bytes());
                    receive(socket, payload, at);
                    None
                }
            })
            .with_context(|| format!("after {opened} of {count} sockets had opened"))?;
        }
        Ok(Duration::from_nanos(clock::now() - start))
    }

    fn connect(&mut self) -> Result<()> {
        let address = self.addresses[self.sockets.len() % self.addresses.len()];
        let mut stream =
            TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
        let token = Token(self.sockets.len());
        self.poll.registry().register(
            &mut stream,
            token,
            Interest::READABLE | Interest::WRITABLE,
        )?;
        let stream = Stream::new(stream, address, self.tls.as_ref())?;
        self.sockets
            .push(Socket::new(stream, self.transport, self.deflate));
        Ok(())
    }

    /// Registers another source with the poll. `poll` adds its `number` to `ready`.
    pub fn register(&mut self, source: &mut impl Source, number: usize) -> Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .register(source, Token(OTHERS + number), interest)
            .context("registering with the poll")
    }

    /// Sends the same few bytes on every socket.
    pub fn send_all(&mut self, bytes: &[u8]) -> Result<()> {
        self.sockets
            .iter_mut()
            .try_for_each(|socket| socket.stream.send(bytes))
    }

    /// Sleeps briefly so that messages gather. One poll and one wake-up per message would cost
    /// about a third more than reading them.
    pub fn batch_delay(&self) {
        std::thread::sleep(BATCH_DELAY);
    }

    /// Polls for at most `timeout` and calls `handle` with the number of a socket and its event.
    /// `handle` returns the bytes to send on that socket. Other sources are added to `ready`.
    pub fn poll<'r>(
        &mut self,
        timeout: Duration,
        mut handle: impl FnMut(usize, Event) -> Option<&'r [u8]>,
    ) -> Result<()> {
        self.ready.clear();
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error).context("polling the sockets"),
        }
        for event in &self.events {
            let Token(number) = event.token();
            let Some(socket) = self.sockets.get_mut(number) else {
                self.ready.push(number.wrapping_sub(OTHERS));
                continue;
            };
            socket
                .send_request(&self.request)
                .with_context(|| format!("connecting socket {number}"))?;
            let greeting = self.greeting.as_deref();
            let ended = event.is_readable() && {
                let read_closed = event.is_read_closed();
                let handle = |event: Event| {
                    let greeting = greeting.filter(|_| matches!(event, Event::Opened));
                    handle(number, event).or(greeting)
                };
                match socket.read(&mut self.buffers, read_closed, handle) {
                    Ok(ended) => ended,
                    Err(_) if self.closing => true,
                    Err(error) => return Err(error.context(format!("socket {number}"))),
                }
            };
            if ended && socket.close() {
                ensure!(
                    self.closing,
                    "socket {number}: the server closed the connection"
                );
                self.closed += 1;
            }
        }
        Ok(())
    }

    /// Closes all connections. For WebSockets, performs the closing handshake and waits for the
    /// server, at most a minute.
    pub fn close(mut self) -> Result<()> {
        if self.transport == Transport::Stream {
            return Ok(());
        }
        self.closing = true;
        let close = websocket::encode(Opcode::Close, &1000u16.to_be_bytes());
        let deadline = clock::now() + clock::nanoseconds(CLOSE_TIMEOUT);
        for socket in &mut self.sockets {
            // A socket that has failed does not need a close.
            let _ = socket.stream.send(&close);
        }
        while self.closed < self.sockets.len() {
            let left = clock::until(deadline);
            let open = self.sockets.len() - self.closed;
            ensure!(
                !left.is_zero(),
                "{open} sockets were not closed by the server within {CLOSE_TIMEOUT:?}"
            );
            self.poll(left, |_, _| None)?;
        }
        Ok(())
    }
}
