//! Tests of a reader with frames that arrive in pieces.

use std::future::poll_fn;

use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderValue, header};

use super::*;
use crate::ws::{
    deflate::Deflate,
    tests::wire::{Wire, masked, received},
};

const TEXT: OpCode = OpCode::Data(Data::Text);
const BINARY: OpCode = OpCode::Data(Data::Binary);
const CONTINUE: OpCode = OpCode::Data(Data::Continue);
const CLOSE: OpCode = OpCode::Control(Control::Close);
const PING: OpCode = OpCode::Control(Control::Ping);
const LIMIT: usize = 100_000;

/// A reader of a connection in memory, and the client's end of that connection.
struct Fixture {
    wire: Arc<Wire>,
    reader: Reader,
}

impl Fixture {
    fn new(early: &[u8]) -> Self {
        Self::with(early, None)
    }

    /// Creates a reader of a client that has negotiated compression.
    fn with_compression() -> Self {
        let mut offer = HeaderMap::new();
        let extension = HeaderValue::from_static("permessage-deflate");
        offer.insert(header::SEC_WEBSOCKET_EXTENSIONS, extension);
        let (deflate, _) = Deflate::negotiate(&offer).unwrap();
        Self::with(&[], Some(deflate))
    }

    fn with(early: &[u8], deflate: Option<Deflate>) -> Self {
        let wire = Arc::new(Wire::default());
        let outbox = Outbox::new(1000, 1000, deflate);
        outbox.attach(wire.clone());
        let early = Bytes::copy_from_slice(early);
        let reader = Reader::new(wire.clone(), outbox, early, LIMIT);
        Self { wire, reader }
    }

    /// Sends bytes and returns the message that they complete.
    fn send(&mut self, bytes: &[u8]) -> Option<Result<Event, ReadError>> {
        self.wire.update(|state| state.to_host.extend(bytes));
        poll_fn(|cx| self.reader.poll_message(cx)).now_or_never()
    }

    /// Sends bytes, and returns the close code of the violation.
    fn violation(bytes: &[u8]) -> u16 {
        Self::new(&[]).code(bytes)
    }

    fn code(&mut self, bytes: &[u8]) -> u16 {
        match self.send(bytes) {
            Some(Err(ReadError::Violation { code, .. })) => code,
            other => panic!("expected a violation, got {other:?}"),
        }
    }
}

/// Marks a frame as the first one of a compressed message.
fn compressed(mut frame: Vec<u8>) -> Vec<u8> {
    frame[0] |= 0x40;
    frame
}

#[test]
fn compressed_messages_are_decompressed() {
    let text = "a burger and fries, ".repeat(1000);
    let content = deflate::compress(text.as_bytes()).unwrap();
    let mut fixture = Fixture::with_compression();
    let event = fixture.send(&compressed(masked(TEXT, &content, true)));
    assert_eq!(event, Some(Ok(Event::text(text.clone()))));
    // In fragments, of which only the first one is marked.
    let (first, rest) = content.split_at(10);
    assert_eq!(fixture.send(&compressed(masked(TEXT, first, false))), None);
    let event = fixture.send(&masked(CONTINUE, rest, true));
    assert_eq!(event, Some(Ok(Event::text(text))));
    // Messages without compression are still allowed.
    let event = fixture.send(&masked(TEXT, b"plain", true));
    assert_eq!(event, Some(Ok(Event::text("plain"))));
}

#[test]
fn invalid_compressed_messages_are_violations() {
    let bomb = deflate::compress(&vec![0; LIMIT + 1]).unwrap();
    let latin = deflate::compress(&[0xe9; 200]).unwrap();
    for (frame, code) in [
        (compressed(masked(BINARY, &bomb, true)), 1009),
        (compressed(masked(BINARY, b"\xff\xff", true)), 1007),
        (compressed(masked(TEXT, &latin, true)), 1007),
        (compressed(masked(PING, b"?", true)), 1002),
        (compressed(masked(CLOSE, b"", true)), 1002),
    ] {
        assert_eq!(Fixture::with_compression().code(&frame), code, "{frame:?}");
    }
    let mut fixture = Fixture::with_compression();
    assert_eq!(fixture.send(&masked(TEXT, b"a", false)), None);
    assert_eq!(
        fixture.code(&compressed(masked(CONTINUE, b"b", true))),
        1002
    );
    // Not negotiated.
    assert_eq!(
        Fixture::violation(&compressed(masked(TEXT, b"a", true))),
        1002
    );
}

/// Returns a client's close frame.
fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    masked(CLOSE, &[&code.to_be_bytes(), reason].concat(), true)
}

#[test]
fn frames_may_arrive_in_pieces_of_any_size() {
    let long = "é".repeat(40_000);
    let stream = [
        masked(TEXT, b"hello", true),
        masked(BINARY, &[], true),
        masked(TEXT, long.as_bytes(), true),
        masked(BINARY, &[7; 126], true),
    ]
    .concat();
    let expected = [
        Event::text("hello"),
        Event::Binary(Bytes::new()),
        Event::text(long),
        Event::Binary(Bytes::from_static(&[7; 126])),
    ];
    for size in [1, 2, 5, 1000, 1_000_000] {
        let mut fixture = Fixture::new(&[]);
        let mut events = Vec::new();
        for piece in stream.chunks(size) {
            let mut read = fixture.send(piece);
            while let Some(event) = read {
                events.push(event.unwrap());
                read = fixture.send(&[]);
            }
        }
        assert_eq!(events, expected, "pieces of {size} bytes");
        assert_eq!(fixture.reader.buffer.capacity(), 0, "an idle reader");
    }
}

#[test]
fn bytes_that_came_with_the_handshake_are_read_first() {
    let frame = masked(TEXT, b"early", true);
    let mut fixture = Fixture::new(&frame[..4]);
    assert_eq!(fixture.send(&frame[4..]), Some(Ok(Event::text("early"))));
}

#[test]
fn fragments_are_joined_around_control_frames() {
    let mut fixture = Fixture::new(&[]);
    // The character is divided between two fragments.
    assert_eq!(fixture.send(&masked(TEXT, b"h\xc3", false)), None);
    let ping = fixture.send(&masked(PING, b"?", true));
    assert_eq!(ping, Some(Ok(Event::Ping(Bytes::from_static(b"?")))));
    assert_eq!(
        received(&fixture.wire.lock().to_client),
        [(10, b"?".to_vec())]
    );
    assert_eq!(fixture.send(&masked(CONTINUE, b"\xa9", false)), None);
    let text = fixture.send(&masked(CONTINUE, b"!", true));
    assert_eq!(text, Some(Ok(Event::text("hé!"))));
}

#[test]
fn every_code_that_can_be_sent_is_passed_on() {
    for code in [
        1000, 1001, 1003, 1007, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999,
    ] {
        let event = Fixture::new(&[]).send(&close(code, "é".as_bytes()));
        assert_eq!(event, Some(Ok(Event::close(code, "é"))));
    }
    let without_code = Fixture::new(&[]).send(&masked(CLOSE, &[], true));
    assert_eq!(without_code, Some(Ok(Event::Close(None))));
    for code in [
        0,
        999,
        1004,
        1005,
        1006,
        1015,
        1016,
        2000,
        2999,
        5000,
        u16::MAX,
    ] {
        assert_eq!(
            Fixture::violation(&close(code, b"")),
            frame::PROTOCOL_ERROR,
            "{code}"
        );
    }
}

#[test]
fn violations_have_the_code_of_their_kind() {
    let unmasked = [0x81, 2, b'h', b'i'];
    let with_first_byte = |first: u8| [&[first][..], &masked(TEXT, b"x", true)[1..]].concat();
    for (what, bytes, code) in [
        (
            "an unmasked frame",
            unmasked.to_vec(),
            frame::PROTOCOL_ERROR,
        ),
        (
            "reserved bits",
            with_first_byte(0xc1),
            frame::PROTOCOL_ERROR,
        ),
        (
            "a data opcode",
            with_first_byte(0x83),
            frame::PROTOCOL_ERROR,
        ),
        (
            "a control opcode",
            with_first_byte(0x8b),
            frame::PROTOCOL_ERROR,
        ),
        (
            "a fragmented ping",
            masked(PING, b"", false),
            frame::PROTOCOL_ERROR,
        ),
        (
            "a long ping",
            masked(PING, &[0; 126], true),
            frame::PROTOCOL_ERROR,
        ),
        (
            "half a code",
            masked(CLOSE, &[3], true),
            frame::PROTOCOL_ERROR,
        ),
        ("a reason", close(1000, b"\xff"), frame::INVALID_PAYLOAD),
        (
            "a continuation",
            masked(CONTINUE, b"", true),
            frame::PROTOCOL_ERROR,
        ),
        (
            "a message within another",
            [masked(TEXT, b"", false), masked(TEXT, b"", true)].concat(),
            frame::PROTOCOL_ERROR,
        ),
        ("text", masked(TEXT, b"\xc3", true), frame::INVALID_PAYLOAD),
        (
            "a fragment",
            masked(TEXT, b"\xff", false),
            frame::INVALID_PAYLOAD,
        ),
        (
            "a large frame",
            masked(BINARY, &[0; LIMIT + 1], true)[..14].to_vec(),
            frame::MESSAGE_TOO_BIG,
        ),
        (
            "large fragments",
            [
                masked(BINARY, &[0; LIMIT], false),
                masked(CONTINUE, &[0], true),
            ]
            .concat(),
            frame::MESSAGE_TOO_BIG,
        ),
    ] {
        assert_eq!(Fixture::violation(&bytes), code, "{what}");
    }
}

#[test]
fn an_announced_frame_occupies_little_memory() {
    let mut fixture = Fixture::new(&[]);
    let frame = masked(BINARY, &[0; LIMIT], true);
    assert_eq!(fixture.send(&frame[..20]), None);
    assert!(fixture.reader.buffer.capacity() <= 2 * MAX_READ_BYTES);
}

#[test]
fn the_end_of_the_connection_is_reported() {
    let mut fixture = Fixture::new(&masked(TEXT, b"half", true)[..5]);
    fixture.wire.update(|state| state.eof = true);
    assert_eq!(fixture.send(&[]), Some(Err(ReadError::Disconnected)));
}
