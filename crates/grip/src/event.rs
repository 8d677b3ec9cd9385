//! WebSocket events as they travel over HTTP.
//!
//! A body is a sequence of events, each `TYPE\r\n` or `TYPE HEXLEN\r\nCONTENT\r\n`. The protocol is
//! Pushpin's: <https://pushpin.org/docs/protocols/websocket-over-http/>.

use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;

/// The maximum content of a PING, PONG or CLOSE in bytes (RFC 6455, section 5.5).
pub const MAX_CONTROL_PAYLOAD: usize = 125;

/// The maximum length of a close reason in bytes: the payload without the code.
pub const MAX_CLOSE_REASON: usize = MAX_CONTROL_PAYLOAD - 2;

/// The maximum length of an event's first line in bytes. No valid line is longer.
const MAX_LINE_LEN: usize = 32;

/// Something that happened on a WebSocket, or that the host is to do on it.
///
/// A decoded event shares the memory of the body that it was decoded from, and keeps all of
/// it alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Opens the connection. In a response, accepts it.
    Open,
    /// A text message.
    Text(ByteString),
    /// A binary message.
    Binary(Bytes),
    /// A ping of at most [`MAX_CONTROL_PAYLOAD`] bytes.
    Ping(Bytes),
    /// A pong of at most [`MAX_CONTROL_PAYLOAD`] bytes.
    Pong(Bytes),
    /// Starts or completes the closing handshake. A close frame may have no code and reason.
    Close(Option<CloseFrame>),
    /// The connection was lost without a closing handshake. In a response, drops it.
    Disconnect,
}

/// The code and reason of a close frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseFrame {
    /// The code, which may be one that must not be sent: see [`is_close_code`].
    pub code: u16,
    /// The reason of at most [`MAX_CLOSE_REASON`] bytes.
    pub reason: ByteString,
}

/// Returns whether a close frame may contain a code: those of RFC 6455, section 7.4, and of the
/// registry of IANA, those of libraries (3000 to 3999) and those of applications (4000 to 4999).
///
/// The codes 1005, 1006 and 1015 describe a connection that ended without such a frame, and 1004
/// has no meaning.
pub fn is_close_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

impl CloseFrame {
    /// Creates a close frame, and truncates the reason to what fits.
    pub fn new(code: u16, reason: impl Into<ByteString>) -> CloseFrame {
        let reason = reason.into();
        let end = reason.floor_char_boundary(MAX_CLOSE_REASON);
        let reason = reason.slice_ref(&reason[..end]);
        CloseFrame { code, reason }
    }
}

/// Limits of the decoder. Exceeding one is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The maximum content of one event in bytes.
    pub content: usize,
    /// The maximum number of events in one body.
    pub events: usize,
}

impl Default for Limits {
    /// Returns 1 MiB of content per event, and 10,000 events per body.
    fn default() -> Limits {
        Limits {
            content: 1 << 20,
            events: 10_000,
        }
    }
}

/// The reason why a body cannot be decoded. Offsets are in bytes from its start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// The first line of an event does not end.
    #[error("byte {at}: unterminated line: expected \\r\\n within {MAX_LINE_LEN} bytes")]
    UnterminatedLine {
        /// The start of the line.
        at: usize,
    },
    /// The type is unknown.
    #[error("byte {at}: unknown event type {name:?}")]
    UnknownType {
        /// The start of the type.
        at: usize,
        /// The type, with invalid UTF-8 replaced.
        name: String,
    },
    /// The length is not 1 to 8 hexadecimal digits.
    #[error("byte {at}: invalid length: expected 1 to 8 hexadecimal digits")]
    InvalidLength {
        /// The start of the length.
        at: usize,
    },
    /// The content of an event exceeds the limit.
    #[error("byte {at}: content of {length} bytes exceeds the limit of {limit}")]
    ContentTooLong {
        /// The start of the length.
        at: usize,
        /// The length of the content.
        length: usize,
        /// [`Limits::content`].
        limit: usize,
    },
    /// The body ends within the content.
    #[error("byte {at}: truncated content: expected {length} bytes and \\r\\n")]
    Truncated {
        /// The start of the content.
        at: usize,
        /// The length of the content.
        length: usize,
    },
    /// The content does not end with `\r\n`, so the length is wrong.
    #[error("byte {at}: expected \\r\\n after the content")]
    MissingContentEnd {
        /// The expected end of the content.
        at: usize,
    },
    /// An OPEN or DISCONNECT has content.
    #[error("byte {at}: unexpected content in OPEN or DISCONNECT")]
    UnexpectedContent {
        /// The start of the content.
        at: usize,
    },
    /// A text message or a close reason is not UTF-8.
    #[error("byte {at}: invalid UTF-8")]
    InvalidUtf8 {
        /// The start of the text.
        at: usize,
    },
    /// The content of a CLOSE is a single byte.
    #[error("byte {at}: invalid CLOSE: expected no content, or a code of 2 bytes and a reason")]
    InvalidClose {
        /// The start of the content.
        at: usize,
    },
    /// A PING, PONG or CLOSE does not fit in a WebSocket frame.
    #[error("byte {at}: content of a PING, PONG or CLOSE exceeds {MAX_CONTROL_PAYLOAD} bytes")]
    ControlTooLong {
        /// The start of the content.
        at: usize,
    },
    /// The number of events exceeds the limit.
    #[error("byte {at}: more than {limit} events")]
    TooManyEvents {
        /// The start of the first event beyond the limit.
        at: usize,
        /// [`Limits::events`].
        limit: usize,
    },
}

impl Event {
    /// Creates a text message.
    pub fn text(text: impl Into<ByteString>) -> Event {
        Event::Text(text.into())
    }

    /// Creates a close, and truncates the reason to what fits.
    pub fn close(code: u16, reason: impl Into<ByteString>) -> Event {
        Event::Close(Some(CloseFrame::new(code, reason)))
    }

    /// Returns the number of bytes that count for `Content-Bytes-Accepted`.
    pub fn content_len(&self) -> usize {
        match self {
            Event::Open | Event::Disconnect | Event::Close(None) => 0,
            Event::Text(text) => text.len(),
            Event::Binary(data) | Event::Ping(data) | Event::Pong(data) => data.len(),
            Event::Close(Some(frame)) => 2 + frame.reason.len(),
        }
    }

    /// Appends the encoded event to `out`.
    ///
    /// Limits are not checked: the decoder rejects a control event with more content than
    /// [`MAX_CONTROL_PAYLOAD`].
    pub fn encode(&self, out: &mut BytesMut) {
        fn with_content(out: &mut BytesMut, kind: &[u8], parts: [&[u8]; 2]) {
            const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
            let length = parts[0].len() + parts[1].len();
            out.reserve(kind.len() + 1 + 16 + 2 + length + 2);
            out.put_slice(kind);
            out.put_u8(b' ');
            let digits = (usize::BITS - length.leading_zeros()).div_ceil(4).max(1);
            for digit in (0..digits).rev() {
                out.put_u8(DIGITS[(length >> (4 * digit)) & 0xf]);
            }
            out.put_slice(b"\r\n");
            out.put_slice(parts[0]);
            out.put_slice(parts[1]);
            out.put_slice(b"\r\n");
        }

        match self {
            Event::Open => out.put_slice(b"OPEN\r\n"),
            Event::Disconnect => out.put_slice(b"DISCONNECT\r\n"),
            Event::Close(None) => out.put_slice(b"CLOSE\r\n"),
            Event::Text(text) => with_content(out, b"TEXT", [text.as_bytes(), b""]),
            Event::Binary(data) => with_content(out, b"BINARY", [data, b""]),
            Event::Ping(data) => with_content(out, b"PING", [data, b""]),
            Event::Pong(data) => with_content(out, b"PONG", [data, b""]),
            Event::Close(Some(frame)) => with_content(
                out,
                b"CLOSE",
                [&frame.code.to_be_bytes(), frame.reason.as_bytes()],
            ),
        }
    }
}

/// Encodes events as a body.
pub fn encode_all<'a>(events: impl IntoIterator<Item = &'a Event>) -> Bytes {
    let mut out = BytesMut::new();
    for event in events {
        event.encode(&mut out);
    }
    out.freeze()
}

/// Decodes all events of a body. Content is not copied.
///
/// Types are case-sensitive, hexadecimal digits are not. An event without a length has no
/// content. An event that cannot have content may have the length 0.
pub fn decode_all(body: Bytes, limits: Limits) -> Result<Vec<Event>, EventError> {
    let mut decoder = Decoder {
        body,
        at: 0,
        limits,
    };
    let mut events = Vec::new();
    while decoder.at < decoder.body.len() {
        if events.len() == limits.events {
            return Err(EventError::TooManyEvents {
                at: decoder.at,
                limit: limits.events,
            });
        }
        events.push(decoder.next()?);
    }
    Ok(events)
}

struct Decoder {
    body: Bytes,
    at: usize,
    limits: Limits,
}

impl Decoder {
    /// Decodes the event at the current position, which must be before the end of the body.
    fn next(&mut self) -> Result<Event, EventError> {
        enum Kind {
            Open,
            Text,
            Binary,
            Ping,
            Pong,
            Close,
            Disconnect,
        }

        let start = self.at;
        let rest = &self.body[start..];
        let line = rest
            .windows(2)
            .take(MAX_LINE_LEN - 1)
            .position(|pair| pair == b"\r\n")
            .map(|end| &rest[..end])
            .ok_or(EventError::UnterminatedLine { at: start })?;
        let (name, length) = match line.iter().position(|&byte| byte == b' ') {
            Some(space) => (&line[..space], Some(&line[space + 1..])),
            None => (line, None),
        };
        let kind = match name {
            b"TEXT" => Kind::Text,
            b"BINARY" => Kind::Binary,
            b"OPEN" => Kind::Open,
            b"CLOSE" => Kind::Close,
            b"DISCONNECT" => Kind::Disconnect,
            b"PING" => Kind::Ping,
            b"PONG" => Kind::Pong,
            _ => {
                return Err(EventError::UnknownType {
                    at: start,
                    name: String::from_utf8_lossy(name).into_owned(),
                });
            }
        };
        self.at += line.len() + 2;
        let (at, content) = match length {
            None => (self.at, Bytes::new()),
            Some(digits) => {
                let length_at = start + name.len() + 1;
                let length =
                    parse_hex(digits).ok_or(EventError::InvalidLength { at: length_at })?;
                if length > self.limits.content {
                    return Err(EventError::ContentTooLong {
                        at: length_at,
                        length,
                        limit: self.limits.content,
                    });
                }
                self.take(length)?
            }
        };
        match kind {
            Kind::Text => match ByteString::try_from(content) {
                Ok(text) => Ok(Event::Text(text)),
                Err(_) => Err(EventError::InvalidUtf8 { at }),
            },
            Kind::Binary => Ok(Event::Binary(content)),
            Kind::Open | Kind::Disconnect if !content.is_empty() => {
                Err(EventError::UnexpectedContent { at })
            }
            Kind::Open => Ok(Event::Open),
            Kind::Disconnect => Ok(Event::Disconnect),
            Kind::Ping | Kind::Pong | Kind::Close if content.len() > MAX_CONTROL_PAYLOAD => {
                Err(EventError::ControlTooLong { at })
            }
            Kind::Ping => Ok(Event::Ping(content)),
            Kind::Pong => Ok(Event::Pong(content)),
            Kind::Close => match *content {
                [] => Ok(Event::Close(None)),
                [_] => Err(EventError::InvalidClose { at }),
                [high, low, ..] => match ByteString::try_from(content.slice(2..)) {
                    Ok(reason) => Ok(Event::Close(Some(CloseFrame {
                        code: u16::from_be_bytes([high, low]),
                        reason,
                    }))),
                    Err(_) => Err(EventError::InvalidUtf8 { at: at + 2 }),
                },
            },
        }
    }

    /// Takes `length` bytes of content and the `\r\n` after them. Returns where they start.
    fn take(&mut self, length: usize) -> Result<(usize, Bytes), EventError> {
        let at = self.at;
        // The length has up to 32 bits, so the sum can overflow on 32-bit targets.
        let end = at.checked_add(length);
        let after = end.and_then(|end| end.checked_add(2));
        let (Some(end), Some(after)) = (end, after) else {
            return Err(EventError::Truncated { at, length });
        };
        match self.body.get(end..after) {
            Some(b"\r\n") => {}
            Some(_) => return Err(EventError::MissingContentEnd { at: end }),
            None => return Err(EventError::Truncated { at, length }),
        }
        self.at = after;
        Ok((at, self.body.slice(at..end)))
    }
}

/// Parses 1 to 8 hexadecimal digits, without a sign.
fn parse_hex(digits: &[u8]) -> Option<usize> {
    if !(1..=8).contains(&digits.len()) {
        return None;
    }
    digits.iter().try_fold(0, |value, &digit| {
        let digit = char::from(digit).to_digit(16)? as usize;
        Some(value << 4 | digit)
    })
}

#[cfg(test)]
mod tests;
