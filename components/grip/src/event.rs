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
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(body: &'static [u8]) -> Result<Vec<Event>, EventError> {
        decode_all(Bytes::from_static(body), Limits::default())
    }

    #[test]
    fn encodes_as_the_protocol_has_it() {
        let events = [
            Event::Open,
            Event::text("hello"),
            Event::text(""),
            Event::Binary(Bytes::from(vec![b'x'; 0x1a])),
            Event::close(1000, "bye"),
            Event::Close(None),
            Event::Disconnect,
        ];
        let expected: &[u8] = b"OPEN\r\nTEXT 5\r\nhello\r\nTEXT 0\r\n\r\n\
            BINARY 1A\r\nxxxxxxxxxxxxxxxxxxxxxxxxxx\r\nCLOSE 5\r\n\x03\xe8bye\r\nCLOSE\r\nDISCONNECT\r\n";
        assert_eq!(encode_all(&events), expected);
        assert_eq!(
            decode_all(encode_all(&events), Limits::default()).unwrap(),
            events
        );
    }

    #[test]
    fn decodes_what_others_write() {
        assert_eq!(decode(b"").unwrap(), []);
        assert_eq!(decode(b"TEXT\r\n").unwrap(), [Event::text("")]);
        assert_eq!(decode(b"OPEN 0\r\n\r\n").unwrap(), [Event::Open]);
        assert_eq!(
            decode(b"TEXT 0000000a\r\n0123456789\r\n").unwrap(),
            [Event::text("0123456789")]
        );
        assert_eq!(
            decode(b"TEXT A\r\n\r\n\r\n\r\n\r\n\r\n\r\n").unwrap(),
            [Event::text("\r\n\r\n\r\n\r\n\r\n")]
        );
    }

    #[test]
    fn names_what_is_wrong_and_where() {
        use EventError::*;
        let long = b"OPEN\r\nTEXT 000000000000000000000000000000001\r\nx\r\n";
        let cases: [(&'static [u8], EventError); 17] = [
            (b"OPEN", Line { at: 0 }),
            (b"OPEN\n", Line { at: 0 }),
            (long, Line { at: 6 }),
            (
                b"\r\n",
                Type {
                    at: 0,
                    name: "".into(),
                },
            ),
            (
                b"OPEN\r\nopen\r\n",
                Type {
                    at: 6,
                    name: "open".into(),
                },
            ),
            (b"TEXT \r\n\r\n", Length { at: 5 }),
            (b"TEXT g\r\n\r\n", Length { at: 5 }),
            (b"TEXT +1\r\nx\r\n", Length { at: 5 }),
            (b"TEXT 000000001\r\nx\r\n", Length { at: 5 }),
            (b"TEXT 1 \r\nx\r\n", Length { at: 5 }),
            (
                b"TEXT ffffffff\r\nx\r\n",
                ContentOverLimit {
                    at: 5,
                    length: 0xffff_ffff,
                    limit: 1 << 20,
                },
            ),
            (b"TEXT 2\r\nx\r\n", Truncated { at: 8, length: 2 }),
            (b"TEXT 1\r\nxy\r\n", ContentEnd { at: 9 }),
            (b"OPEN 1\r\nx\r\n", UnexpectedContent { at: 8 }),
            (b"TEXT 1\r\n\xff\r\n", NotUtf8 { at: 8 }),
            (b"CLOSE 1\r\nx\r\n", CloseCode { at: 9 }),
            (b"CLOSE 3\r\n\x03\xe8\xff\r\n", NotUtf8 { at: 11 }),
        ];
        for (body, error) in cases {
            assert_eq!(
                decode(body).unwrap_err(),
                error,
                "{:?}",
                String::from_utf8_lossy(body)
            );
        }
    }

    #[test]
    fn keeps_to_its_limits() {
        let limits = Limits {
            content: 4,
            events: 2,
        };
        let decode = |events: &[Event]| decode_all(encode_all(events), limits);
        assert!(decode(&[Event::text("1234"), Event::Open]).is_ok());
        assert_eq!(
            decode(&[Event::text("12345")]).unwrap_err(),
            EventError::ContentOverLimit {
                at: 5,
                length: 5,
                limit: 4
            }
        );
        assert_eq!(
            decode(&[Event::Open, Event::Open, Event::Open]).unwrap_err(),
            EventError::TooMany { at: 12, limit: 2 }
        );
        let ping = Event::Ping(Bytes::from(vec![0; MAX_CONTROL_PAYLOAD + 1]));
        assert_eq!(
            decode_all(encode_all([&ping]), Limits::default()).unwrap_err(),
            EventError::ControlOverLimit { at: 9 }
        );
    }

    #[test]
    fn a_close_reason_is_cut_between_characters() {
        let frame = CloseFrame::new(1000, "é".repeat(100));
        assert_eq!(&*frame.reason, "é".repeat(61));
        assert_eq!(&*CloseFrame::new(1000, "short").reason, "short");
    }

    #[test]
    fn content_is_not_copied() {
        let body = Bytes::from(b"TEXT 5\r\nhello\r\n".to_vec());
        let events = decode_all(body.clone(), Limits::default()).unwrap();
        let Event::Text(text) = &events[0] else {
            panic!("{events:?}")
        };
        assert_eq!(text.as_ptr(), body[8..].as_ptr());
    }

    fn bytes(range: impl Into<proptest::collection::SizeRange>) -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), range).prop_map(Bytes::from)
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Open),
            Just(Event::Disconnect),
            Just(Event::Close(None)),
            any::<String>().prop_map(Event::text),
            bytes(0..600).prop_map(Event::Binary),
            bytes(0..=MAX_CONTROL_PAYLOAD).prop_map(Event::Ping),
            bytes(0..=MAX_CONTROL_PAYLOAD).prop_map(Event::Pong),
            (any::<u16>(), any::<String>()).prop_map(|(code, reason)| Event::close(code, reason)),
        ]
    }

    /// Bytes that look enough like events to get deep into the decoder.
    fn nearly_events() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            prop::sample::select(vec![
                "OPEN",
                "TEXT",
                "BINARY",
                "PING",
                "PONG",
                "CLOSE",
                "DISCONNECT",
                " ",
                "\r\n",
                "0",
                "1",
                "2",
                "a",
                "ffffffff",
            ])
            .prop_map(|text| text.as_bytes().to_vec()),
            prop::collection::vec(any::<u8>(), 0..4),
        ];
        prop::collection::vec(part, 0..24).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(events in prop::collection::vec(event(), 0..12)) {
            let body = encode_all(&events);
            prop_assert_eq!(decode_all(body, Limits::default()).unwrap(), events);
        }

        #[test]
        fn no_bytes_panic(body in prop_oneof![nearly_events(), prop::collection::vec(any::<u8>(), 0..64)]) {
            let limits = Limits { content: 8, events: 4 };
            let total = body.len();
            match decode_all(body.into(), limits) {
                Ok(events) => {
                    prop_assert!(events.len() <= 4);
                    prop_assert!(events.iter().all(|event| event.content_len() <= 8));
                    prop_assert!(events.iter().map(Event::content_len).sum::<usize>() <= total);
                }
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
        }

        #[test]
        fn what_is_cut_short_is_no_body(events in prop::collection::vec(event(), 1..4), cut in 1usize..4) {
            let body = encode_all(&events);
            let last = encode_all(events.last());
            // One byte to three from the end are always within the last event.
            let end = body.len() - cut.min(last.len() - 1);
            prop_assert!(decode_all(body.slice(..end), Limits::default()).is_err());
        }
    }
}
