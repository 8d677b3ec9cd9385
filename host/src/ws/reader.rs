//! The reading side of a client's WebSocket, which decodes messages with tungstenite.

use std::{
    io::{self, Read, Write},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::task::coop::poll_proceed;
use tungstenite::{
    Error, Message,
    protocol::{Role, WebSocketConfig},
};

use crate::{
    net::frame,
    ws::outbox::{Connection, Outbox},
};

/// The size of each socket's read buffer. Small, since clients send little and each socket keeps
/// its buffer.
const READ_BUFFER_BYTES: usize = 1024;

/// Reads a client's messages. The pongs that tungstenite writes are sent through the outbox.
pub(super) struct Reader(tungstenite::WebSocket<Wire>);

struct Wire {
    connection: Arc<dyn Connection>,
    outbox: Arc<Outbox>,
    /// Bytes received together with the handshake.
    early: Bytes,
}

impl Reader {
    /// Creates a reader of `early` and then `connection`, with a limit on the size of messages.
    pub(super) fn new(
        connection: Arc<dyn Connection>,
        outbox: Arc<Outbox>,
        early: Bytes,
        max_message_bytes: usize,
    ) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(max_message_bytes))
            .max_frame_size(Some(max_message_bytes));
        let wire = Wire {
            connection,
            outbox,
            early,
        };
        Self(tungstenite::WebSocket::from_raw_socket(
            wire,
            Role::Server,
            Some(config),
        ))
    }

    /// Reads the next message. Must not be called after a close message or an error: the session
    /// answers a close itself, once the backend has responded.
    pub(super) fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, Error>> {
        loop {
            // Uses Tokio's cooperative budget, so that a client that never stops sending does not
            // starve other tasks.
            let coop = ready!(poll_proceed(cx));
            match self.0.read() {
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.0.get_ref().connection.poll_readable(cx))?;
                }
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                other => {
                    coop.made_progress();
                    return Poll::Ready(other);
                }
            }
        }
    }

    /// Discards input until EOF or an error.
    pub(super) fn poll_eof(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let wire = self.0.get_mut();
        let mut scratch = [0; 4096];
        loop {
            let coop = ready!(poll_proceed(cx));
            match wire.read(&mut scratch) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if ready!(wire.connection.poll_readable(cx)).is_err() {
                        return Poll::Ready(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => coop.made_progress(),
            }
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.early.has_remaining() {
            let count = buffer.len().min(self.early.len());
            self.early.copy_to_slice(&mut buffer[..count]);
            if self.early.is_empty() {
                self.early = Bytes::new();
            }
            return Ok(count);
        }
        let count = self.connection.try_read(buffer)?;
        if count > 0 {
            self.outbox.activity().record_progress();
        }
        Ok(count)
    }
}

impl Write for Wire {
    /// Sends everything through the outbox. tungstenite writes whole frames, which must not be
    /// interleaved with those of other senders.
    fn write(&mut self, frames: &[u8]) -> io::Result<usize> {
        self.outbox.send(&Bytes::copy_from_slice(frames));
        Ok(frames.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the close code and reason for an error; `None` if the client has disconnected.
pub(super) fn close_code(error: &Error) -> Option<(u16, String)> {
    use tungstenite::error::{CapacityError, ProtocolError};
    match error {
        Error::Capacity(CapacityError::MessageTooLong { max_size, .. }) => Some((
            frame::MESSAGE_TOO_BIG,
            format!("message exceeds {max_size} bytes"),
        )),
        Error::Capacity(error) => Some((frame::MESSAGE_TOO_BIG, error.to_string())),
        Error::Utf8(_) => Some((frame::INVALID_PAYLOAD, "text must be UTF-8".into())),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        Error::Protocol(error) => Some((frame::PROTOCOL_ERROR, error.to_string())),
        _ => None,
    }
}
