//! One client connection: a WebSocket or a held HTTP response.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use mio::net::TcpStream;

use crate::clock;
use crate::event_stream;
use crate::http::Head;
use crate::websocket::{self, Frame, Opcode};

/// The example key of RFC 6455, section 1.3, and its accept value. A constant is cheap to check.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The maximum length of a response shown in an error message, in bytes.
const SHOWN_MAX: usize = 1000;

/// How a client receives messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A WebSocket.
    WebSocket,
    /// A held HTTP response, with a line per message.
    Stream,
}

impl Transport {
    /// Formats the request that opens a connection.
    pub fn request(self, address: SocketAddr, path: &str) -> Vec<u8> {
        let headers = match self {
            Self::WebSocket => format!(
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: {KEY}\r\n"
            ),
            Self::Stream => "Accept: text/event-stream\r\n".to_string(),
        };
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n").into_bytes()
    }
}

/// An event on a connection.
pub enum Event<'a> {
    /// The server accepted the WebSocket or holds the response.
    Opened,
    /// A message was received.
    Message {
        /// The message.
        payload: &'a [u8],
        /// The time of reading, on `clock`.
        at: u64,
    },
}

/// A connection.
pub struct Socket {
    stream: TcpStream,
    state: State,
    reader: Reader,
}

enum Reader {
    WebSocket(websocket::Reader),
    Stream(event_stream::Reader),
}

enum State {
    Connecting,
    /// The request was sent. Holds the incomplete head of the response.
    Opening(Vec<u8>),
    Open,
    Closed,
}

impl Socket {
    /// Wraps a connecting stream.
    pub fn new(stream: TcpStream, transport: Transport) -> Self {
        Self {
            stream,
            state: State::Connecting,
            reader: match transport {
                Transport::WebSocket => Reader::WebSocket(websocket::Reader::default()),
                Transport::Stream => Reader::Stream(event_stream::Reader::default()),
            },
        }
    }

    /// Sends the opening request if the TCP connection has just been established.
    pub fn send_request(&mut self, request: &[u8]) -> Result<()> {
        if !matches!(self.state, State::Connecting) {
            return Ok(());
        }
        if let Some(error) = self.stream.take_error()? {
            return Err(error.into());
        }
        match self.stream.peer_addr() {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        self.state = State::Opening(Vec::new());
        self.send(request)
    }

    /// Sends a few bytes. They fit the socket's buffer unless the server does not read.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = self.stream.write(bytes).context("sending")?;
        ensure!(
            sent == bytes.len(),
            "the server does not read: its socket took {sent} of {} bytes",
            bytes.len()
        );
        Ok(())
    }

    /// Marks the connection as closed. Returns false if it was closed before.
    pub fn close(&mut self) -> bool {
        !matches!(
            std::mem::replace(&mut self.state, State::Closed),
            State::Closed
        )
    }

    /// Reads until the socket is empty. Returns true at the end of the stream.
    ///
    /// `handle` returns the bytes to send in reply. With `read_closed`, the server has closed its
    /// side, and a short read does not mean that the socket is empty.
    pub fn read<'r>(
        &mut self,
        buffer: &mut [u8],
        read_closed: bool,
        mut handle: impl FnMut(Event) -> Option<&'r [u8]>,
    ) -> Result<bool> {
        loop {
            let read = match self.stream.read(buffer) {
                Ok(0) => return Ok(true),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("reading"),
            };
            self.receive(&buffer[..read], &mut handle)?;
            if read < buffer.len() && !read_closed {
                return Ok(false);
            }
        }
    }

    fn receive<'r>(
        &mut self,
        bytes: &[u8],
        handle: &mut impl FnMut(Event) -> Option<&'r [u8]>,
    ) -> Result<()> {
        let response;
        let mut bytes = bytes;
        if let State::Opening(received) = &mut self.state {
            received.extend_from_slice(bytes);
            response = std::mem::take(received);
            let Some(head) = Head::parse(&response)? else {
                self.state = State::Opening(response);
                return Ok(());
            };
            match self.reader {
                Reader::WebSocket(_) => check_upgrade(&head, &response)?,
                Reader::Stream(_) => check_stream(&head)?,
            }
            bytes = &response[head.length..];
            self.state = State::Open;
            if let Some(reply) = handle(Event::Opened) {
                self.send(reply)?;
            }
        }
        let at = clock::now();
        let stream = &mut self.stream;
        let reader = match &mut self.reader {
            Reader::WebSocket(reader) => reader,
            Reader::Stream(reader) => {
                return reader.feed(bytes, |payload| {
                    handle(Event::Message { payload, at });
                    Ok(())
                });
            }
        };
        reader.feed(bytes, |Frame { opcode, payload }| {
            let pong;
            let reply = match opcode {
                Opcode::Text | Opcode::Binary => handle(Event::Message { payload, at }),
                Opcode::Ping => {
                    pong = websocket::encode(Opcode::Pong, payload);
                    Some(&pong[..])
                }
                Opcode::Pong => None,
                Opcode::Close => bail!(
                    "the server closed with {}",
                    websocket::format_close(payload)
                ),
            };
            if let Some(reply) = reply {
                let sent = stream.write(reply).context("sending a reply")?;
                ensure!(sent == reply.len(), "the server does not read its socket");
            }
            Ok(())
        })
    }
}

fn check_upgrade(head: &Head, response: &[u8]) -> Result<()> {
    let status = head.status;
    if status != 101 {
        let shown = String::from_utf8_lossy(&response[..response.len().min(SHOWN_MAX)]);
        bail!("the upgrade failed with status {status}: {shown:?}");
    }
    ensure!(
        response[..head.length]
            .windows(ACCEPT.len())
            .any(|window| window == ACCEPT.as_bytes()),
        "wrong or missing Sec-WebSocket-Accept in the 101"
    );
    Ok(())
}

fn check_stream(head: &Head) -> Result<()> {
    let status = head.status;
    ensure!(status == 200, "the stream failed with status {status}");
    ensure!(
        head.chunked,
        "the response is not held: its body does not have chunked encoding"
    );
    Ok(())
}
