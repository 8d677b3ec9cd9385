//! HTTP/2 (RFC 9113) over TLS, for a client that sends the same GET request again and again.
//!
//! Like the WebSockets' frames, those of HTTP/2 are as cheap as possible: the program shares the
//! machine with the server. The head of a response is not decoded beyond its status.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};

use crate::http::connect;
use crate::stream::{Received, Stream};
use crate::target::Target;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const INITIAL_WINDOW_SIZE: u16 = 4;
const WINDOW_DEFAULT: u32 = (1 << 16) - 1;
const WINDOW_MAX: u32 = (1 << 31) - 1;

/// `:status: 200` in the static table of HPACK (RFC 7541, appendix A).
const STATUS_200: u8 = 0x80 | 8;
/// `:method: GET`, `:scheme: https`, and the two fields that the first request adds to the dynamic
/// table: `:path` and `:authority`.
const REPEATED: [u8; 4] = [0x80 | 2, 0x80 | 7, 0x80 | 63, 0x80 | 62];

/// A connection with one request at a time.
pub struct Connection {
    /// The stream, for registration with a poll.
    pub stream: Stream,
    /// The fields of the next request.
    fields: Vec<u8>,
    /// The stream of the next request.
    next_id: u32,
    /// The start of an incomplete frame.
    partial: Vec<u8>,
    /// Frames that are sent after those that were received.
    unsent: Vec<u8>,
    /// The bytes of the connection's window that were used.
    used: u32,
}

impl Connection {
    /// Connects. Blocks, but not for long on loopback.
    pub fn open(target: &Target) -> Result<Self> {
        let tcp = connect(target.address)?;
        let mut connection = Self {
            stream: Stream::new(tcp, target.address, target.tls.as_ref())?,
            fields: first_fields(target.address, &target.get_path)?,
            next_id: 1,
            partial: Vec::new(),
            unsent: PREFACE.to_vec(),
            used: 0,
        };
        let mut window = INITIAL_WINDOW_SIZE.to_be_bytes().to_vec();
        window.extend(WINDOW_MAX.to_be_bytes());
        connection.push(SETTINGS, 0, 0, &window);
        let increment = WINDOW_MAX - WINDOW_DEFAULT;
        connection.push(WINDOW_UPDATE, 0, 0, &increment.to_be_bytes());
        Ok(connection)
    }

    /// Sends the request.
    pub fn request(&mut self) -> Result<()> {
        let fields = std::mem::replace(&mut self.fields, REPEATED.to_vec());
        self.push(HEADERS, END_STREAM | END_HEADERS, self.next_id, &fields);
        self.next_id += 2;
        self.flush()
    }

    /// Appends a frame to those that are sent next.
    fn push(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) {
        let [_, length @ ..] = (payload.len() as u32).to_be_bytes();
        self.unsent.extend(length);
        self.unsent.extend([kind, flags]);
        self.unsent.extend(id.to_be_bytes());
        self.unsent.extend(payload);
    }

    fn flush(&mut self) -> Result<()> {
        if !self.unsent.is_empty() {
            self.stream.send(&self.unsent)?;
            self.unsent.clear();
        }
        Ok(())
    }

    /// Reads what has arrived and returns whether the response is complete. Call it when the poll
    /// reports the connection.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Result<bool> {
        let mut received = std::mem::take(&mut self.partial);
        loop {
            match self.stream.read(buffer)? {
                Received::Bytes { bytes, filled } => {
                    received.extend_from_slice(bytes);
                    if !filled {
                        break;
                    }
                }
                Received::Nothing => break,
                Received::End => bail!("the server closed the connection"),
            }
        }
        let mut complete = false;
        let mut rest = &received[..];
        while let Some((head, after)) = rest.split_first_chunk::<FRAME_HEAD>() {
            let [a, b, c, kind, flags, id @ ..] = *head;
            let length = u32::from_be_bytes([0, a, b, c]);
            let Some((payload, after)) = after.split_at_checked(length as usize) else {
                break;
            };
            let id = u32::from_be_bytes(id);
            complete |= self.handle(kind, flags, id, payload)?;
            rest = after;
        }
        let handled = received.len() - rest.len();
        received.drain(..handled);
        self.partial = received;
        self.flush()?;
        Ok(complete)
    }

    /// Handles a frame and returns whether it completes the response.
    fn handle(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) -> Result<bool> {
        match kind {
            HEADERS => ensure!(
                payload.first() == Some(&STATUS_200),
                "the status of a response is not 200"
            ),
            DATA => {
                self.used += payload.len() as u32;
                if self.used > WINDOW_MAX / 2 {
                    let used = std::mem::take(&mut self.used);
                    self.push(WINDOW_UPDATE, 0, 0, &used.to_be_bytes());
                }
            }
            SETTINGS if flags & ACK == 0 => self.push(SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => self.push(PING, ACK, 0, payload),
            RST_STREAM => bail!("the server reset a stream: {payload:?}"),
            GOAWAY => bail!("the server closes the connection: {payload:?}"),
            _ => {}
        }
        let ends = matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0;
        ensure!(
            !ends || id + 2 == self.next_id,
            "the server sent a response on stream {id}"
        );
        Ok(ends)
    }
}

/// Encodes the fields of the first request, with indexing.
fn first_fields(address: SocketAddr, path: &str) -> Result<Vec<u8>> {
    let mut fields = REPEATED[..2].to_vec();
    // The indices of `:path` and `:authority` in the static table.
    for (index, value) in [(4, path), (1, &address.to_string())] {
        // Longer ones have a longer encoding of their length.
        let length = u8::try_from(value.len())
            .ok()
            .filter(|length| *length < 127);
        fields.push(0x40 | index);
        fields.push(length.context("the path is longer than 126 bytes")?);
        fields.extend(value.bytes());
    }
    Ok(fields)
}
