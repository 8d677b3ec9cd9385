//! Many clients on one thread, of WebSockets or of held HTTP responses, as cheap as they can be: one epoll,
//! one read buffer for all, no task and no timer for any.
//!
//! The program shares its machine with the server it measures, so each
//! instruction here is one the server does not get.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mio::event::Source;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::clock;
use crate::frame::{self, Frame, Opcode};
use crate::http;
use crate::stream;

/// The example key of RFC 6455, section 1.3, and what it is answered with:
/// nobody guards anything with it, and a constant is checked cheaply.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const EVENTS_PER_POLL: usize = 1024;
const READ_BUFFER: usize = 64 << 10;
const HANDSHAKE_MAX: usize = 64 << 10;
/// Long enough that several sockets are ready at a time, short enough to
/// disappear in latencies of milliseconds.
const REST: Duration = Duration::from_micros(200);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(60);
/// Tokens from here on belong to others on the same poll.
const OTHERS: usize = 1 << 32;

/// The application's ping and the beginning of its answer.
pub const PING: &[u8] = br#"{"event":"ping"}"#;
/// See `PING`.
pub const PONG: &[u8] = br#"{"event":"pong""#;

/// When a socket counts as open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Until {
    /// The server switched protocols (101).
    Upgraded,
    /// A ping sent after that was answered: the application has acted on the
    /// opening, subscriptions included.
    Pong,
}

/// What a connection is held for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Messages both ways.
    WebSocket,
    /// A response that is kept open and brings lines.
    Stream,
}

/// The sockets and the poll they are on.
pub struct Sockets {
    address: SocketAddr,
    kind: Kind,
    handshake: Vec<u8>,
    poll: Poll,
    events: Events,
    sockets: Vec<Socket>,
    buffer: Vec<u8>,
    /// The numbers of other sources that the last turn found ready.
    pub ready: Vec<usize>,
    /// When set, the end of a socket is no error.
    closing: bool,
    closed: usize,
}

struct Socket {
    stream: TcpStream,
    state: State,
    reader: Reader,
}

enum Reader {
    Frames(frame::Reader),
    Lines(stream::Reader),
}

enum State {
    Connecting,
    /// With what has come of the answer.
    Upgrading(Vec<u8>),
    Open,
    Closed,
}

impl Sockets {
    /// None yet; they will go to `path` at `address`.
    pub fn new(address: SocketAddr, kind: Kind, path: &str) -> Result<Self> {
        let asked = match kind {
            Kind::WebSocket => format!(
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: {KEY}\r\n"
            ),
            Kind::Stream => "Accept: text/event-stream\r\n".to_string(),
        };
        let handshake = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{asked}\r\n");
        Ok(Self {
            address,
            kind,
            handshake: handshake.into_bytes(),
            poll: Poll::new().context("making a poll")?,
            events: Events::with_capacity(EVENTS_PER_POLL),
            sockets: Vec::new(),
            buffer: vec![0; READ_BUFFER],
            ready: Vec::new(),
            closing: false,
            closed: 0,
        })
    }

    /// How many were opened.
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Opens `count` more, `concurrency` at a time, and returns how long that took.
    pub fn open(
        &mut self,
        count: usize,
        concurrency: usize,
        until: Until,
        timeout: Duration,
    ) -> Result<Duration> {
        let ping = frame::encode(Opcode::Text, PING);
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
            self.turn(left, |happened| match (happened, until) {
                (Happened::Opened, Until::Upgraded) => {
                    opened += 1;
                    None
                }
                (Happened::Opened, Until::Pong) => Some(&ping),
                (Happened::Message { payload, .. }, Until::Pong) => {
                    opened += usize::from(payload.starts_with(PONG));
                    None
                }
                _ => None,
            })
            .with_context(|| format!("after {opened} of {count} sockets had opened"))?;
        }
        Ok(Duration::from_nanos(clock::now() - start))
    }

    fn connect(&mut self) -> Result<()> {
        let mut stream = TcpStream::connect(self.address)
            .with_context(|| format!("connecting to {}", self.address))?;
        let token = Token(self.sockets.len());
        self.poll.registry().register(
            &mut stream,
            token,
            Interest::READABLE | Interest::WRITABLE,
        )?;
        self.sockets.push(Socket {
            stream,
            state: State::Connecting,
            reader: match self.kind {
                Kind::WebSocket => Reader::Frames(frame::Reader::default()),
                Kind::Stream => Reader::Lines(stream::Reader::default()),
            },
        });
        Ok(())
    }

    /// Puts another source on the poll; `turn` names it by `number`.
    pub fn register(&mut self, source: &mut impl Source, number: usize) -> Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .register(source, Token(OTHERS + number), interest)
            .context("registering with the poll")
    }

    /// Sends the same bytes, small ones, on every socket.
    pub fn send_all(&mut self, bytes: &[u8]) -> Result<()> {
        self.sockets
            .iter_mut()
            .try_for_each(|socket| socket.send(bytes))
    }

    /// Lets messages gather. A poll for each, and the server's kernel waking
    /// this thread for each, would cost about a third more than reading them.
    pub fn rest(&self) {
        std::thread::sleep(REST);
    }

    /// Waits until something happens, at most `timeout`, and tells `each` what
    /// did; it may answer with bytes for that socket. Other sources are left in
    /// `ready`.
    pub fn turn<'r>(
        &mut self,
        timeout: Duration,
        mut each: impl FnMut(Happened) -> Option<&'r [u8]>,
    ) -> Result<()> {
        self.ready.clear();
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error).context("waiting for the sockets"),
        }
        for event in &self.events {
            let Token(number) = event.token();
            let Some(socket) = self.sockets.get_mut(number) else {
                self.ready.push(number.wrapping_sub(OTHERS));
                continue;
            };
            if matches!(socket.state, State::Connecting) {
                socket
                    .upgrade(&self.handshake)
                    .with_context(|| format!("connecting to {}", self.address))?;
            }
            let done = event.is_readable() && {
                let last = event.is_read_closed();
                match socket.read(&mut self.buffer, last, |happened| each(happened.of(number))) {
                    Ok(done) => done,
                    Err(_) if self.closing => true,
                    Err(error) => return Err(error.context(format!("socket {number}"))),
                }
            };
            if done && !matches!(socket.state, State::Closed) {
                ensure!(
                    self.closing,
                    "socket {number}: the server ended the connection"
                );
                socket.state = State::Closed;
                self.closed += 1;
            }
        }
        Ok(())
    }

    /// Closes all as the protocol wants it and waits for the server to have
    /// closed its side, at most a minute. A stream has no end of the client's but to go.
    pub fn close(mut self) -> Result<()> {
        if self.kind == Kind::Stream {
            return Ok(());
        }
        self.closing = true;
        let close = frame::encode(Opcode::Close, &1000u16.to_be_bytes());
        let deadline = clock::now() + clock::nanoseconds(CLOSE_TIMEOUT);
        for socket in &mut self.sockets {
            // One that failed before has nothing to close.
            let _ = socket.send(&close);
        }
        while self.closed < self.sockets.len() {
            let left = clock::until(deadline);
            let open = self.sockets.len() - self.closed;
            ensure!(
                !left.is_zero(),
                "{open} sockets were not closed by the server within {CLOSE_TIMEOUT:?}"
            );
            self.turn(left, |_| None)?;
        }
        Ok(())
    }
}

/// What happened on a socket.
pub enum Happened<'a> {
    /// The server switched protocols.
    Opened,
    /// A message came.
    Message {
        /// The socket's number.
        socket: usize,
        /// The message.
        payload: &'a [u8],
        /// When it was read, on `clock`.
        at: u64,
    },
}

impl Happened<'_> {
    fn of(self, number: usize) -> Self {
        match self {
            Self::Message { payload, at, .. } => Self::Message {
                socket: number,
                payload,
                at,
            },
            Self::Opened => self,
        }
    }
}

impl Socket {
    fn upgrade(&mut self, handshake: &[u8]) -> Result<()> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error.into());
        }
        match self.stream.peer_addr() {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        self.state = State::Upgrading(Vec::new());
        self.send(handshake)
    }

    /// Sends a few bytes. An empty socket has room for them; one that has none
    /// is not read by the server.
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = self.stream.write(bytes).context("sending")?;
        ensure!(
            sent == bytes.len(),
            "the server does not read: its socket took {sent} of {} bytes",
            bytes.len()
        );
        Ok(())
    }

    /// Reads until the socket is empty; true at its end. `last` says that the
    /// other side has closed, so that a short read is no sign of emptiness.
    fn read<'r>(
        &mut self,
        buffer: &mut [u8],
        last: bool,
        mut each: impl FnMut(Happened) -> Option<&'r [u8]>,
    ) -> Result<bool> {
        loop {
            let read = match self.stream.read(buffer) {
                Ok(0) => return Ok(true),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("reading"),
            };
            self.take(&buffer[..read], &mut each)?;
            if read < buffer.len() && !last {
                return Ok(false);
            }
        }
    }

    fn take<'r>(
        &mut self,
        bytes: &[u8],
        each: &mut impl FnMut(Happened) -> Option<&'r [u8]>,
    ) -> Result<()> {
        let answer;
        let mut bytes = bytes;
        if let State::Upgrading(held) = &mut self.state {
            held.extend_from_slice(bytes);
            answer = std::mem::take(held);
            let begun = match self.reader {
                Reader::Frames(_) => upgraded(&answer)?,
                Reader::Lines(_) => http::held(&answer)?,
            };
            let Some(end) = begun else {
                ensure!(
                    answer.len() <= HANDSHAKE_MAX,
                    "the head of the answer is longer than {HANDSHAKE_MAX} bytes"
                );
                self.state = State::Upgrading(answer);
                return Ok(());
            };
            bytes = &answer[end..];
            self.state = State::Open;
            if let Some(reply) = each(Happened::Opened) {
                self.send(reply)?;
            }
        }
        let at = clock::now();
        let stream = &mut self.stream;
        let frames = match &mut self.reader {
            Reader::Frames(frames) => frames,
            Reader::Lines(lines) => {
                return lines.feed(bytes, |payload| {
                    each(Happened::Message {
                        socket: 0,
                        payload,
                        at,
                    });
                    Ok(())
                });
            }
        };
        frames.feed(bytes, |Frame { opcode, payload }| {
            let pong;
            let reply = match opcode {
                Opcode::Text | Opcode::Binary => each(Happened::Message {
                    socket: 0,
                    payload,
                    at,
                }),
                Opcode::Ping => {
                    pong = frame::encode(Opcode::Pong, payload);
                    Some(&pong[..])
                }
                Opcode::Pong => None,
                Opcode::Close => bail!("the server closed with {}", frame::closing(payload)),
            };
            if let Some(reply) = reply {
                let sent = stream.write(reply).context("answering")?;
                ensure!(sent == reply.len(), "the server does not read its socket");
            }
            Ok(())
        })
    }
}

/// Where the answer to an upgrade ends, once it is whole and says yes.
fn upgraded(bytes: &[u8]) -> Result<Option<usize>> {
    let Some((status, end)) = http::answer(bytes)? else {
        return Ok(None);
    };
    if status != 101 {
        let answer = String::from_utf8_lossy(&bytes[..end.min(1000)]);
        bail!("the upgrade was answered with {status}, not 101: {answer:?}");
    }
    ensure!(
        bytes[..end]
            .windows(ACCEPT.len())
            .any(|window| window == ACCEPT.as_bytes()),
        "the server answered the upgrade without the right Sec-WebSocket-Accept"
    );
    Ok(Some(end))
}
