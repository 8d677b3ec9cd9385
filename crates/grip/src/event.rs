//! WebSocket events as they travel over HTTP: `TYPE [HEXLEN]\r\n[CONTENT\r\n]`, back to back.

use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;

/// The most bytes that a PING, PONG or CLOSE can carry (RFC 6455, section 5.5).
pub const MAX_CONTROL_PAYLOAD: usize = 125;

/// The most bytes that the reason in a CLOSE can have: the payload less the code.
pub const MAX_CLOSE_REASON: usize = MAX_CONTROL_PAYLOAD - 2;

/// The most bytes in the line that begins an event: no type and length need more.
const MAX_LINE: usize = 32;

/// What happened on a WebSocket, or what is to happen on it.
///
/// Content is a slice of the body that it was decoded from: keep the event only as
/// long as keeping that whole body alive is fine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The client asks to open; in the answer: it may.
    Open,
    /// A text message. That it is UTF-8 is checked when it is decoded, and known from then on.
    Text(ByteString),
    /// A binary message.
    Binary(Bytes),
    /// A ping, of at most [`MAX_CONTROL_PAYLOAD`] bytes.
    Ping(Bytes),
    /// A pong, of at most [`MAX_CONTROL_PAYLOAD`] bytes.
    Pong(Bytes),
    /// The closing handshake, begun or answered; a close frame may be without code and reason.
    Close(Option<CloseFrame>),
    /// The connection is gone without a closing handshake; in an answer: drop it.
    Disconnect,
}

/// The code and reason of a close.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseFrame {
    /// The code, as it came: which codes may be sent is for the WebSocket layer to say.
    pub code: u16,
    /// The reason, of at most [`MAX_CLOSE_REASON`] bytes.
    pub reason: ByteString,
}

impl CloseFrame {
    /// A close frame that fits: a longer reason is cut at a character's boundary.
    pub fn new(code: u16, reason: impl Into<ByteString>) -> CloseFrame {
        let reason = reason.into();
        let cut = reason.floor_char_boundary(MAX_CLOSE_REASON);
        let reason = reason.slice_ref(&reason[..cut]);
        CloseFrame { code, reason }
    }
}

/// What a decoder takes. An event beyond these limits is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of content in one event.
    pub content: usize,
    /// Events in one body.
    pub events: usize,
}

impl Default for Limits {
    /// 1 MiB of content an event, 10,000 events a body.
    fn default() -> Limits {
        Limits {
            content: 1 << 20,
            events: 10_000,
        }
    }
}

/// Why a body is not events, and where: offsets are in bytes from the start of the body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// The line that begins an event has no end.
    #[error("byte {at}: the event's first line has no end (\\r\\n within {MAX_LINE} bytes)")]
    Line {
        /// Where the line begins.
        at: usize,
    },
    /// No such event.
    #[error("byte {at}: {name:?} is not a type of event")]
    Type {
        /// Where the type begins.
        at: usize,
        /// What stands there, unprintable bytes replaced.
        name: String,
    },
    /// The length is not 1 to 8 hexadecimal digits.
    #[error("byte {at}: the length must be 1 to 8 hexadecimal digits")]
    Length {
        /// Where the length begins.
        at: usize,
    },
    /// More content in one event than the limit.
    #[error("byte {at}: {length} bytes of content are over the limit of {limit}")]
    ContentOverLimit {
        /// Where the length begins.
        at: usize,
        /// The length it says.
        length: usize,
        /// [`Limits::content`].
        limit: usize,
    },
    /// The body ends before the content does.
    #[error("byte {at}: the body ends before the {length} bytes of content and \\r\\n do")]
    Truncated {
        /// Where the content begins.
        at: usize,
        /// The length it was to have.
        length: usize,
    },
    /// Content is followed by something else than `\r\n`: the length is wrong.
    #[error("byte {at}: \\r\\n must follow the content")]
    ContentEnd {
        /// Where the content should have ended.
        at: usize,
    },
    /// An OPEN or DISCONNECT with content.
    #[error("byte {at}: an OPEN or DISCONNECT has no content")]
    UnexpectedContent {
        /// Where the content begins.
        at: usize,
    },
    /// A text message or a close reason that is not UTF-8.
    #[error("byte {at}: text must be UTF-8")]
    NotUtf8 {
        /// Where the text begins.
        at: usize,
    },
    /// A CLOSE with half a code.
    #[error("byte {at}: a CLOSE's content is empty, or a code of 2 bytes and a reason")]
    CloseCode {
        /// Where the content begins.
        at: usize,
    },
    /// A PING, PONG or CLOSE that fits no WebSocket frame.
    #[error("byte {at}: a PING, PONG or CLOSE has at most {MAX_CONTROL_PAYLOAD} bytes of content")]
    ControlOverLimit {
        /// Where the content begins.
        at: usize,
    },
    /// More events than the limit.
    #[error("byte {at}: more than {limit} events")]
    TooMany {
        /// Where the first one too many begins.
        at: usize,
        /// [`Limits::events`].
        limit: usize,
    },
}

impl Event {
    /// A text message.
    pub fn text(text: impl Into<ByteString>) -> Event {
        Event::Text(text.into())
    }

    /// A close with a code and a reason, which is cut to what fits.
    pub fn close(code: u16, reason: impl Into<ByteString>) -> Event {
        Event::Close(Some(CloseFrame::new(code, reason)))
    }

    /// The bytes of content that the protocol counts in `Content-Bytes-Accepted`.
    pub fn content_len(&self) -> usize {
        match self {
            Event::Open | Event::Disconnect | Event::Close(None) => 0,
            Event::Text(text) => text.len(),
            Event::Binary(data) | Event::Ping(data) | Event::Pong(data) => data.len(),
            Event::Close(Some(frame)) => 2 + frame.reason.len(),
        }
    }

    /// Appends the event.
    ///
    /// A control event with more content than [`MAX_CONTROL_PAYLOAD`] is written as it
    /// is, and refused by the decoder.
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

/// The body that says all of `events`.
pub fn encode_all<'a>(events: impl IntoIterator<Item = &'a Event>) -> Bytes {
    let mut out = BytesMut::new();
    for event in events {
        event.encode(&mut out);
    }
    out.freeze()
}

/// All events of a body; content is sliced from it, not copied.
///
/// Types are in upper case, as the protocol has them. A type without a length has
/// no content, also where it could have some; an explicit length of 0 is allowed
/// where there can be none. Hexadecimal digits may be of either case.
pub fn decode_all(body: Bytes, limits: Limits) -> Result<Vec<Event>, EventError> {
    let mut decoder = Decoder {
        body,
        at: 0,
        limits,
    };
    let mut events = Vec::new();
    while decoder.at < decoder.body.len() {
        if events.len() == limits.events {
            return Err(EventError::TooMany {
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
    /// The event that begins here; to be called only before the end of the body.
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
            .take(MAX_LINE - 1)
            .position(|pair| pair == b"\r\n")
            .map(|end| &rest[..end])
            .ok_or(EventError::Line { at: start })?;
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
                return Err(EventError::Type {
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
                let length = parse_hex(digits).ok_or(EventError::Length { at: length_at })?;
                if length > self.limits.content {
                    return Err(EventError::ContentOverLimit {
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
                Err(_) => Err(EventError::NotUtf8 { at }),
            },
            Kind::Binary => Ok(Event::Binary(content)),
            Kind::Open | Kind::Disconnect if !content.is_empty() => {
                Err(EventError::UnexpectedContent { at })
            }
            Kind::Open => Ok(Event::Open),
            Kind::Disconnect => Ok(Event::Disconnect),
            Kind::Ping | Kind::Pong | Kind::Close if content.len() > MAX_CONTROL_PAYLOAD => {
                Err(EventError::ControlOverLimit { at })
            }
            Kind::Ping => Ok(Event::Ping(content)),
            Kind::Pong => Ok(Event::Pong(content)),
            Kind::Close => match *content {
                [] => Ok(Event::Close(None)),
                [_] => Err(EventError::CloseCode { at }),
                [high, low, ..] => match ByteString::try_from(content.slice(2..)) {
                    Ok(reason) => Ok(Event::Close(Some(CloseFrame {
                        code: u16::from_be_bytes([high, low]),
                        reason,
                    }))),
                    Err(_) => Err(EventError::NotUtf8 { at: at + 2 }),
                },
            },
        }
    }

    /// `length` bytes of content from here, where they begin, and past their `\r\n`.
    fn take(&mut self, length: usize) -> Result<(usize, Bytes), EventError> {
        let at = self.at;
        // `at` is within the body and the length has at most 32 bits; where usize
        // has no more than that, the sum may still be too large for it.
        let end = at.checked_add(length);
        let after = end.and_then(|end| end.checked_add(2));
        let (Some(end), Some(after)) = (end, after) else {
            return Err(EventError::Truncated { at, length });
        };
        match self.body.get(end..after) {
            Some(b"\r\n") => {}
            Some(_) => return Err(EventError::ContentEnd { at: end }),
            None => return Err(EventError::Truncated { at, length }),
        }
        self.at = after;
        Ok((at, self.body.slice(at..end)))
    }
}

/// 1 to 8 hexadecimal digits, nothing else.
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
