//! The reading side of a client's WebSocket: decodes frames and joins them to messages (RFC 6455,
//! section 5).

use std::{
    borrow::Cow,
    io::{self, Cursor},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use grip::{
    ByteString, CloseFrame, Event,
    event::{MAX_CONTROL_PAYLOAD, is_close_code},
};
use tokio::task::coop::poll_proceed;
use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control, Data, OpCode},
};

use crate::{
    net::frame,
    ws::{
        deflate::{self, DecompressError},
        outbox::{Connection, Outbox},
    },
};

/// The minimum size of a read. Small, since clients send little, and an event keeps the buffer that
/// it was decoded from.
const READ_BUFFER_BYTES: usize = 1024;

/// The maximum size of a read, for large frames. A client that announces a large frame occupies only
/// the memory for the bytes that it has sent.
const MAX_READ_BYTES: usize = 16 * 1024;

/// Reads a client's messages. Pings are answered through the outbox.
pub(super) struct Reader {
    connection: Arc<dyn Connection>,
    outbox: Arc<Outbox>,
    max_message_bytes: usize,
    /// Bytes that were received and not yet decoded.
    buffer: BytesMut,
    /// The header of the frame whose payload is being received.
    header: Option<Header>,
    /// The message whose fragments are being received.
    fragments: Option<Fragments>,
}

/// Why there is no further message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReadError {
    /// The client disconnected without a close frame.
    Disconnected,
    /// The client violated the protocol or a limit. It is closed with this code and reason.
    Violation {
        code: u16,
        reason: Cow<'static, str>,
    },
}

impl ReadError {
    fn protocol(reason: &'static str) -> Self {
        Self::Violation {
            code: frame::PROTOCOL_ERROR,
            reason: Cow::Borrowed(reason),
        }
    }

    fn invalid_text() -> Self {
        Self::Violation {
            code: frame::INVALID_PAYLOAD,
            reason: Cow::Borrowed("text must be UTF-8"),
        }
    }

    /// The client sends more messages than it may.
    pub(super) fn too_many() -> Self {
        Self::Violation {
            code: frame::POLICY_VIOLATION,
            reason: Cow::Borrowed("too many messages"),
        }
    }

    fn too_large(max_message_bytes: usize) -> Self {
        Self::Violation {
            code: frame::MESSAGE_TOO_BIG,
            reason: Cow::Owned(format!("message exceeds {max_message_bytes} bytes")),
        }
    }
}

/// A valid frame header.
#[derive(Clone, Copy)]
struct Header {
    opcode: OpCode,
    is_final: bool,
    /// The frame starts a compressed message (RSV1).
    is_compressed: bool,
    mask: [u8; 4],
    /// The length of the payload, which the limits allow.
    length: usize,
}

/// The fragments of a message that were received so far.
struct Fragments {
    is_text: bool,
    /// The content is decompressed once it is complete.
    is_compressed: bool,
    content: BytesMut,
    /// The length of the content that was found to be UTF-8.
    validated: usize,
}

impl Reader {
    /// Creates a reader of `early` and then `connection`, with a limit on the size of messages.
    pub(super) fn new(
        connection: Arc<dyn Connection>,
        outbox: Arc<Outbox>,
        early: Bytes,
        max_message_bytes: usize,
    ) -> Self {
        Self {
            connection,
            outbox,
            max_message_bytes,
            buffer: BytesMut::from(early),
            header: None,
            fragments: None,
        }
    }

    /// Reads the next message, as the event for the backend. Must not be called after a close frame
    /// or an error: the session answers a close itself, once the backend has responded.
    pub(super) fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, ReadError>> {
        loop {
            // Uses Tokio's cooperative budget, so that a client that never stops sending does not
            // starve other tasks.
            let coop = ready!(poll_proceed(cx));
            match self.decode() {
                Ok(None) => {
                    if self.buffer.is_empty() {
                        // An idle socket needs no buffer.
                        self.buffer = BytesMut::new();
                    }
                    if ready!(self.connection.poll_readable(cx)).is_err() {
                        return Poll::Ready(Err(ReadError::Disconnected));
                    }
                    match self.receive() {
                        Ok(0) => return Poll::Ready(Err(ReadError::Disconnected)),
                        Ok(_) => coop.made_progress(),
                        Err(error) if is_retryable(&error) => {}
                        Err(_) => return Poll::Ready(Err(ReadError::Disconnected)),
                    }
                }
                Ok(Some(event)) => {
                    coop.made_progress();
                    return Poll::Ready(Ok(event));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Discards input until EOF or an error.
    pub(super) fn poll_eof(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.buffer = BytesMut::new();
        let mut scratch = [0; 4096];
        loop {
            let coop = ready!(poll_proceed(cx));
            if ready!(self.connection.poll_readable(cx)).is_err() {
                return Poll::Ready(());
            }
            match self.connection.try_read(&mut scratch) {
                Err(error) if is_retryable(&error) => {}
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {
                    self.outbox.activity().record_progress();
                    coop.made_progress();
                }
            }
        }
    }

    /// Reads into the buffer, and returns how many bytes were read.
    fn receive(&mut self) -> io::Result<usize> {
        let start = self.buffer.len();
        let missing = self
            .header
            .map_or(0, |header| header.length.saturating_sub(start));
        let count = missing.clamp(READ_BUFFER_BYTES, MAX_READ_BYTES);
        self.buffer.resize(start + count, 0);
        let read = self.connection.try_read(&mut self.buffer[start..]);
        self.buffer
            .truncate(start + read.as_ref().map_or(0, |count| *count));
        if read.as_ref().is_ok_and(|count| *count > 0) {
            self.outbox.activity().record_progress();
        }
        read
    }

    /// Decodes the frames in the buffer up to the end of a message. `None` if more is needed.
    fn decode(&mut self) -> Result<Option<Event>, ReadError> {
        loop {
            let header = match self.header {
                Some(header) => header,
                None => match self.decode_header()? {
                    Some(header) => *self.header.insert(header),
                    None => return Ok(None),
                },
            };
            if self.buffer.len() < header.length {
                return Ok(None);
            }
            self.header = None;
            let mut payload = self.buffer.split_to(header.length);
            unmask(&mut payload, header.mask);
            let event = match header.opcode {
                OpCode::Control(control) => Some(self.control_event(control, payload.freeze())?),
                OpCode::Data(data) => self.data_event(data, header, payload)?,
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    /// Decodes and validates the header of the next frame.
    fn decode_header(&mut self) -> Result<Option<Header>, ReadError> {
        let mut cursor = Cursor::new(&self.buffer);
        let parsed = FrameHeader::parse(&mut cursor);
        let consumed = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
        let parsed = parsed.map_err(|_| ReadError::protocol("malformed frame header"))?;
        let Some((header, length)) = parsed else {
            return Ok(None);
        };
        let FrameHeader {
            is_final,
            rsv1,
            rsv2,
            rsv3,
            opcode,
            mask,
        } = header;
        // RSV1 is only allowed on the first frame of a message (RFC 7692, section 6).
        let may_be_compressed = self.outbox.accepts_compressed()
            && matches!(opcode, OpCode::Data(Data::Text | Data::Binary));
        if rsv1 && !may_be_compressed || rsv2 || rsv3 {
            return Err(ReadError::protocol("reserved bits must be 0"));
        }
        let Some(mask) = mask else {
            return Err(ReadError::protocol("frames of clients must be masked"));
        };
        let max_bytes = if rsv1 || self.fragments.as_ref().is_some_and(|it| it.is_compressed) {
            deflate::max_compressed_bytes(self.max_message_bytes)
        } else {
            self.max_message_bytes
        };
        let limit = match opcode {
            OpCode::Control(Control::Reserved(_)) | OpCode::Data(Data::Reserved(_)) => {
                return Err(ReadError::protocol("unknown opcode"));
            }
            OpCode::Control(_) if !is_final => {
                return Err(ReadError::protocol("control frames must not be fragmented"));
            }
            OpCode::Control(_) if length > MAX_CONTROL_PAYLOAD as u64 => {
                return Err(ReadError::protocol("control frame exceeds 125 bytes"));
            }
            OpCode::Control(_) => MAX_CONTROL_PAYLOAD,
            OpCode::Data(Data::Continue) => match &self.fragments {
                Some(fragments) => max_bytes.saturating_sub(fragments.content.len()),
                None => return Err(ReadError::protocol("continuation without a message")),
            },
            OpCode::Data(_) if self.fragments.is_some() => {
                return Err(ReadError::protocol("new message inside a fragmented one"));
            }
            OpCode::Data(_) => max_bytes,
        };
        let length = usize::try_from(length).ok();
        let Some(length) = length.filter(|length| *length <= limit) else {
            return Err(ReadError::too_large(self.max_message_bytes));
        };
        self.buffer.advance(consumed);
        Ok(Some(Header {
            opcode,
            is_final,
            is_compressed: rsv1,
            mask,
            length,
        }))
    }

    fn control_event(&self, control: Control, payload: Bytes) -> Result<Event, ReadError> {
        match control {
            Control::Ping => {
                // Answered here, so that a slow backend does not make the host look dead.
                self.outbox.send(&frame::pong(payload.clone()));
                Ok(Event::Ping(payload))
            }
            Control::Pong => Ok(Event::Pong(payload)),
            Control::Close => close_event(payload),
            Control::Reserved(_) => Err(ReadError::protocol("unknown opcode")),
        }
    }

    /// Returns the message that a data frame completes, if it does.
    fn data_event(
        &mut self,
        data: Data,
        header: Header,
        payload: BytesMut,
    ) -> Result<Option<Event>, ReadError> {
        let Header {
            is_final,
            is_compressed,
            ..
        } = header;
        let mut fragments = match self.fragments.take() {
            // The usual case, which copies nothing.
            None if is_final && !is_compressed => {
                return message(data == Data::Text, payload.freeze()).map(Some);
            }
            None => Fragments {
                is_text: data == Data::Text,
                is_compressed,
                content: payload,
                validated: 0,
            },
            Some(mut fragments) => {
                fragments.content.extend_from_slice(&payload);
                fragments
            }
        };
        fragments.validate()?;
        if !is_final {
            self.fragments = Some(fragments);
            return Ok(None);
        }
        let content = if fragments.is_compressed {
            self.decompress(&fragments.content)?
        } else {
            fragments.content.freeze()
        };
        message(fragments.is_text, content).map(Some)
    }

    fn decompress(&self, compressed: &[u8]) -> Result<Bytes, ReadError> {
        match deflate::decompress(compressed, self.max_message_bytes) {
            Ok(content) => Ok(Bytes::from(content)),
            Err(DecompressError::TooLarge) => Err(ReadError::too_large(self.max_message_bytes)),
            Err(DecompressError::Invalid) => Err(ReadError::Violation {
                code: frame::INVALID_PAYLOAD,
                reason: Cow::Borrowed("message cannot be decompressed"),
            }),
        }
    }
}

impl Fragments {
    /// Fails as soon as the text cannot become UTF-8 any more.
    fn validate(&mut self) -> Result<(), ReadError> {
        if !self.is_text || self.is_compressed {
            return Ok(());
        }
        match std::str::from_utf8(&self.content[self.validated..]) {
            Ok(text) => self.validated += text.len(),
            // The last character may continue in the next fragment.
            Err(error) if error.error_len().is_none() => self.validated += error.valid_up_to(),
            Err(_) => return Err(ReadError::invalid_text()),
        }
        Ok(())
    }
}

fn message(is_text: bool, content: Bytes) -> Result<Event, ReadError> {
    if is_text {
        let text = ByteString::try_from(content).map_err(|_| ReadError::invalid_text())?;
        Ok(Event::Text(text))
    } else {
        Ok(Event::Binary(content))
    }
}

fn close_event(mut payload: Bytes) -> Result<Event, ReadError> {
    match payload.len() {
        0 => return Ok(Event::Close(None)),
        1 => return Err(ReadError::protocol("close frame with half a code")),
        _ => {}
    }
    let code = payload.get_u16();
    if !is_close_code(code) {
        return Err(ReadError::protocol("close code that must not be sent"));
    }
    let reason = ByteString::try_from(payload).map_err(|_| ReadError::invalid_text())?;
    Ok(Event::Close(Some(CloseFrame { code, reason })))
}

/// Returns whether reading may succeed later.
fn is_retryable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// Removes the mask of a payload (RFC 6455, section 5.3).
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let wide = u64::from_ne_bytes([
        mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3],
    ]);
    let (chunks, rest) = payload.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests;
