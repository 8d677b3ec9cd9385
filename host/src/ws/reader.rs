//! The reading side of a client's WebSocket: messages out of bytes, by tungstenite.

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

/// Read at once. Clients send little; more than this comes in several reads, and
/// each socket keeps a buffer of it.
const READ_BYTES: usize = 1024;

/// Reads a client's messages. What tungstenite wants to write by itself, pongs,
/// goes to the outbox as everything else does.
pub(crate) struct Reader(tungstenite::WebSocket<Wire>);

struct Wire {
    connection: Arc<dyn Connection>,
    outbox: Arc<Outbox>,
    /// Bytes that came with the handshake.
    early: Bytes,
}

impl Reader {
    /// Reads from `connection`, first what came `early`; refuses messages over `max_message_bytes`.
    pub(crate) fn new(
        connection: Arc<dyn Connection>,
        outbox: Arc<Outbox>,
        early: Bytes,
        max_message_bytes: usize,
    ) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BYTES)
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

    /// The next message. After a close message or an error it must not be called again:
    /// the session answers a close itself, when the backend has been asked.
    pub(crate) fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, Error>> {
        loop {
            // Some messages, and then it is the turn of others: a client that never stops sending
            // must not keep a thread for itself.
            let turn = ready!(poll_proceed(cx));
            match self.0.read() {
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.0.get_ref().connection.poll_readable(cx))?;
                }
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                other => {
                    turn.made_progress();
                    return Poll::Ready(other);
                }
            }
        }
    }

    /// Throws away what the client still sends; ready when it is gone.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let wire = self.0.get_mut();
        let mut scratch = [0; 4096];
        loop {
            let turn = ready!(poll_proceed(cx));
            match wire.read(&mut scratch) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if ready!(wire.connection.poll_readable(cx)).is_err() {
                        return Poll::Ready(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => turn.made_progress(),
            }
        }
    }
}

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.early.has_remaining() {
            let taken = into.len().min(self.early.len());
            self.early.copy_to_slice(&mut into[..taken]);
            if self.early.is_empty() {
                self.early = Bytes::new();
            }
            return Ok(taken);
        }
        let read = self.connection.try_read(into)?;
        if read > 0 {
            self.outbox.activity().record_progress();
        }
        Ok(read)
    }
}

impl Write for Wire {
    /// Takes all: tungstenite writes whole frames, and they must stay whole between
    /// those that others put into the outbox.
    fn write(&mut self, frames: &[u8]) -> io::Result<usize> {
        self.outbox.send(&Bytes::copy_from_slice(frames));
        Ok(frames.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How to close a client that broke the protocol: code and reason. `None` when it is gone.
pub(crate) fn close_for(error: &Error) -> Option<(u16, String)> {
    use tungstenite::error::{CapacityError, ProtocolError};
    match error {
        Error::Capacity(CapacityError::MessageTooLong { max_size, .. }) => Some((
            frame::TOO_BIG,
            format!("messages may have {max_size} bytes at most"),
        )),
        Error::Capacity(other) => Some((frame::TOO_BIG, other.to_string())),
        Error::Utf8(_) => Some((frame::INVALID, "text must be UTF-8".into())),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        Error::Protocol(broken) => Some((frame::PROTOCOL, broken.to_string())),
        _ => None,
    }
}
