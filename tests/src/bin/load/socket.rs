//! One client connection: a WebSocket or a held HTTP response.

use std::io::ErrorKind;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};

use crate::clock;
use crate::deflate::Decompressor;
use crate::event_stream;
use crate::http::Head;
use crate::stream::{Received, Stream};
use crate::websocket::{self, Frame, Opcode};

/// The example key of RFC 6455, section 1.3, and its accept value. A constant is cheap to check.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// What a browser offers.
const DEFLATE_OFFER: &str =
    "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
/// The parameter of the accepted offer with which messages can be decompressed independently.
const DEFLATE_PARAMETER: &str = "server_no_context_takeover";

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
    /// Formats the request that opens a connection. With `deflate`, a WebSocket offers
    /// permessage-deflate.
    pub fn request(self, address: SocketAddr, path: &str, deflate: bool) -> Vec<u8> {
        let offer = if deflate { DEFLATE_OFFER } else { "" };
        let headers = match self {
            Self::WebSocket => format!(
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: {KEY}\r\n{offer}"
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
    /// The stream.
    pub stream: Stream,
    deflate: bool,
    state: State,
    reader: Reader,
}

/// What all connections share to read.
pub struct Buffers {
    /// Receives what a read returns.
    pub bytes: Vec<u8>,
    /// Decompresses messages.
    pub decompressor: Decompressor,
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
    pub fn new(stream: Stream, transport: Transport, deflate: bool) -> Self {
        Self {
            stream,
            deflate,
            state: State::Connecting,
            reader: match transport {
                Transport::WebSocket => Reader::WebSocket(websocket::Reader::new(deflate)),
                Transport::Stream => Reader::Stream(event_stream::Reader::default()),
            },
        }
    }

    /// Sends the opening request if the TCP connection has just been established.
    pub fn send_request(&mut self, request: &[u8]) -> Result<()> {
        if !matches!(self.state, State::Connecting) {
            return Ok(());
        }
        if let Some(error) = self.stream.tcp.take_error()? {
            return Err(error.into());
        }
        match self.stream.tcp.peer_addr() {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        self.state = State::Opening(Vec::new());
        self.stream.send(request)
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
        buffers: &mut Buffers,
        read_closed: bool,
        mut handle: impl FnMut(Event) -> Option<&'r [u8]>,
    ) -> Result<bool> {
        loop {
            let (bytes, filled) = match self.stream.read(&mut buffers.bytes)? {
                Received::Bytes { bytes, filled } => (bytes, filled),
                Received::Nothing => return Ok(false),
                Received::End => return Ok(true),
            };
            self.receive(bytes, &mut buffers.decompressor, &mut handle)?;
            if !filled && !read_closed {
                return Ok(false);
            }
        }
    }

    fn receive<'r>(
        &mut self,
        bytes: &[u8],
        decompressor: &mut Decompressor,
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
                Reader::WebSocket(_) => check_upgrade(&head, &response, self.deflate)?,
                Reader::Stream(_) => check_stream(&head)?,
            }
            bytes = &response[head.length..];
            self.state = State::Open;
            if let Some(reply) = handle(Event::Opened) {
                self.stream.send(reply)?;
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
        reader.feed(bytes, |frame| {
            let Frame {
                opcode, payload, ..
            } = frame;
            let pong;
            let reply = match opcode {
                Opcode::Text | Opcode::Binary if frame.compressed => {
                    let payload = decompressor.message(payload)?;
                    handle(Event::Message { payload, at })
                }
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
                stream.send(reply).context("sending a reply")?;
            }
            Ok(())
        })
    }
}

fn check_upgrade(head: &Head, response: &[u8], deflate: bool) -> Result<()> {
    let status = head.status;
    if status != 101 {
        let shown = String::from_utf8_lossy(&response[..response.len().min(SHOWN_MAX)]);
        bail!("the upgrade failed with status {status}: {shown:?}");
    }
    let contains = |value: &str| {
        response[..head.length]
            .windows(value.len())
            .any(|window| window == value.as_bytes())
    };
    ensure!(
        contains(ACCEPT),
        "wrong or missing Sec-WebSocket-Accept in the 101"
    );
    ensure!(
        !deflate || contains(DEFLATE_PARAMETER),
        "the server did not accept permessage-deflate with {DEFLATE_PARAMETER}"
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
