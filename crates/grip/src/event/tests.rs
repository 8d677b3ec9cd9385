//! Tests of events: encoding, decoding in pieces, limits, and errors.

use proptest::prelude::*;

use super::*;

fn decode(body: &'static [u8]) -> Result<Vec<Event>, EventError> {
    decode_all(Bytes::from_static(body), Limits::default())
}

#[test]
fn events_are_encoded_in_wire_format() {
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
fn decoder_accepts_other_encoders() {
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
fn errors_name_problem_and_offset() {
    use EventError::*;
    let long = b"OPEN\r\nTEXT 000000000000000000000000000000001\r\nx\r\n";
    let cases: [(&'static [u8], EventError); 17] = [
        (b"OPEN", UnterminatedLine { at: 0 }),
        (b"OPEN\n", UnterminatedLine { at: 0 }),
        (long, UnterminatedLine { at: 6 }),
        (
            b"\r\n",
            UnknownType {
                at: 0,
                name: "".into(),
            },
        ),
        (
            b"OPEN\r\nopen\r\n",
            UnknownType {
                at: 6,
                name: "open".into(),
            },
        ),
        (b"TEXT \r\n\r\n", InvalidLength { at: 5 }),
        (b"TEXT g\r\n\r\n", InvalidLength { at: 5 }),
        (b"TEXT +1\r\nx\r\n", InvalidLength { at: 5 }),
        (b"TEXT 000000001\r\nx\r\n", InvalidLength { at: 5 }),
        (b"TEXT 1 \r\nx\r\n", InvalidLength { at: 5 }),
        (
            b"TEXT ffffffff\r\nx\r\n",
            ContentTooLong {
                at: 5,
                length: 0xffff_ffff,
                limit: 1 << 20,
            },
        ),
        (b"TEXT 2\r\nx\r\n", Truncated { at: 8, length: 2 }),
        (b"TEXT 1\r\nxy\r\n", MissingContentEnd { at: 9 }),
        (b"OPEN 1\r\nx\r\n", UnexpectedContent { at: 8 }),
        (b"TEXT 1\r\n\xff\r\n", InvalidUtf8 { at: 8 }),
        (b"CLOSE 1\r\nx\r\n", InvalidClose { at: 9 }),
        (b"CLOSE 3\r\n\x03\xe8\xff\r\n", InvalidUtf8 { at: 11 }),
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
fn decoder_enforces_limits() {
    let limits = Limits {
        content: 4,
        events: 2,
    };
    let decode = |events: &[Event]| decode_all(encode_all(events), limits);
    assert!(decode(&[Event::text("1234"), Event::Open]).is_ok());
    assert_eq!(
        decode(&[Event::text("12345")]).unwrap_err(),
        EventError::ContentTooLong {
            at: 5,
            length: 5,
            limit: 4
        }
    );
    assert_eq!(
        decode(&[Event::Open, Event::Open, Event::Open]).unwrap_err(),
        EventError::TooManyEvents { at: 12, limit: 2 }
    );
    let ping = Event::Ping(Bytes::from(vec![0; MAX_CONTROL_PAYLOAD + 1]));
    assert_eq!(
        decode_all(encode_all([&ping]), Limits::default()).unwrap_err(),
        EventError::ControlTooLong { at: 9 }
    );
}

#[test]
fn close_reason_is_truncated_at_character_boundary() {
    let frame = CloseFrame::new(1000, "é".repeat(100));
    assert_eq!(&*frame.reason, "é".repeat(61));
    assert_eq!(&*CloseFrame::new(1000, "short").reason, "short");
}

#[test]
fn decoded_content_is_not_copied() {
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

/// Bytes that resemble events, to reach deep into the decoder.
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
    fn decode_reverses_encode(events in prop::collection::vec(event(), 0..12)) {
        let body = encode_all(&events);
        prop_assert_eq!(decode_all(body, Limits::default()).unwrap(), events);
    }

    #[test]
    fn decoder_never_panics(body in prop_oneof![nearly_events(), prop::collection::vec(any::<u8>(), 0..64)]) {
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
    fn truncated_body_is_an_error(events in prop::collection::vec(event(), 1..4), cut in 1usize..4) {
        let body = encode_all(&events);
        let last = encode_all(events.last());
        // The last three bytes always belong to the last event.
        let end = body.len() - cut.min(last.len() - 1);
        prop_assert!(decode_all(body.slice(..end), Limits::default()).is_err());
    }
}
