//! Properties of the frame reader and of compression that hold for any input, one function for
//! each target.
//!
//! A function panics if a property does not hold. It returns whether the input was valid, so
//! that a run can check that it gets past the errors.

use std::{future::poll_fn, mem, sync::Arc};

use bytes::Bytes;
use futures_util::FutureExt as _;
use grip::{
    Event,
    event::{MAX_CLOSE_REASON, MAX_CONTROL_PAYLOAD, is_close_code},
};
use http::{HeaderMap, HeaderValue, header};
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use crate::{
    net::frame::MESSAGE_TOO_BIG,
    ws::{
        deflate::{self, DecompressError, Deflate},
        outbox::Outbox,
        reader::{ReadError, Reader},
        tests::wire::{Wire, masked, received},
    },
};

/// The limit on messages. Small, so that inputs exceed it.
const MAX_MESSAGE_BYTES: usize = 500;

/// More bytes than all pongs have. The outbox of a client that reads queues none of them.
const OUTBOX_BYTES: usize = 1 << 20;

const PONG: u8 = 10;

/// The size of a masked frame without content.
const MIN_FRAME_BYTES: usize = 6;

/// Reads the frames of a client. If the first byte is odd, the client has negotiated compression.
/// The second byte is the size of the pieces in which the frames arrive, less one.
pub fn frames(data: &[u8]) -> bool {
    let [options, size, stream @ ..] = data else {
        return false;
    };
    let is_compressed = options & 1 == 1;
    let size = usize::from(*size) + 1;
    let read = read_stream(is_compressed, MAX_MESSAGE_BYTES, &[], [stream]);
    check(&read);
    // Frames may come in pieces of any size, and along with the handshake.
    for size in [1, size] {
        assert_eq!(
            read_stream(is_compressed, MAX_MESSAGE_BYTES, &[], stream.chunks(size)),
            read,
            "pieces of {size} bytes"
        );
    }
    let (early, rest) = stream.split_at(size.min(stream.len()));
    for (early, rest) in [(stream, &[][..]), (early, rest)] {
        assert_eq!(
            read_stream(is_compressed, MAX_MESSAGE_BYTES, early, [rest]),
            read,
            "{} bytes with the handshake",
            early.len()
        );
    }
    check_round_trip(&read.events, is_compressed, size);
    // A truncated stream has the events before the cut.
    let truncated = &stream[..stream.len().saturating_sub(1)];
    let truncated = read_stream(is_compressed, MAX_MESSAGE_BYTES, &[], [truncated]);
    assert!(read.events.starts_with(&truncated.events));
    assert!(truncated.error == Some(ReadError::Disconnected) || truncated.error == read.error);
    // Valid is what ends with a message.
    !matches!(read.error, Some(ReadError::Violation { .. })) && truncated.events != read.events
}

/// What was read from a connection.
#[derive(Debug, PartialEq)]
struct Read {
    events: Vec<Event>,
    /// Why there is no further event. `None` after a close frame.
    error: Option<ReadError>,
    /// The opcodes and contents of the frames that the client received.
    responses: Vec<(u8, Vec<u8>)>,
}

/// Reads until a close frame or an error. The connection ends after the last piece.
fn read_stream<'d>(
    is_compressed: bool,
    max_message_bytes: usize,
    early: &[u8],
    pieces: impl IntoIterator<Item = &'d [u8]>,
) -> Read {
    let wire = Arc::new(Wire::default());
    let outbox = Outbox::new(
        OUTBOX_BYTES,
        OUTBOX_BYTES,
        is_compressed.then(default_deflate),
    );
    outbox.attach(wire.clone());
    let mut reader = Reader::new(
        wire.clone(),
        outbox,
        Bytes::copy_from_slice(early),
        max_message_bytes,
    );
    let mut pieces = pieces.into_iter();
    let mut sent = early.len();
    let mut events = Vec::new();
    let error = loop {
        match poll_fn(|cx| reader.poll_message(cx)).now_or_never() {
            Some(Ok(event)) => {
                let is_close = matches!(event, Event::Close(_));
                events.push(event);
                assert!(events.len() * MIN_FRAME_BYTES <= sent, "too many events");
                if is_close {
                    break None;
                }
            }
            Some(Err(error)) => break Some(error),
            None => wire.update(|state| match pieces.next() {
                Some(piece) => {
                    sent += piece.len();
                    state.to_host.extend(piece);
                }
                None => assert!(!mem::replace(&mut state.eof, true), "waits after EOF"),
            }),
        }
    };
    let responses = received(&wire.lock().to_client);
    Read {
        events,
        error,
        responses,
    }
}

/// Returns the parameters for a client that offers compression without parameters.
fn default_deflate() -> Deflate {
    let offer = HeaderValue::from_static("permessage-deflate");
    let headers = HeaderMap::from_iter([(header::SEC_WEBSOCKET_EXTENSIONS, offer)]);
    let (deflate, _) = Deflate::negotiate(&headers).expect("a valid offer");
    deflate
}

fn check(read: &Read) {
    let mut pongs = Vec::new();
    for event in &read.events {
        let max_bytes = match event {
            Event::Text(_) | Event::Binary(_) => MAX_MESSAGE_BYTES,
            Event::Ping(_) | Event::Pong(_) | Event::Close(_) => MAX_CONTROL_PAYLOAD,
            Event::Open | Event::Disconnect => panic!("no frame is {event:?}"),
        };
        assert!(event.content_len() <= max_bytes, "{event:?}");
        match event {
            Event::Ping(payload) => pongs.push((PONG, payload.to_vec())),
            Event::Close(Some(frame)) => assert!(is_close_code(frame.code), "{frame:?}"),
            _ => {}
        }
    }
    assert_eq!(read.responses, pongs);
    if let Some(ReadError::Violation { code, reason }) = &read.error {
        assert!(is_close_code(*code), "{code}");
        assert!(!reason.is_empty() && reason.len() <= MAX_CLOSE_REASON);
    }
}

/// Sends the events in other frames: all data in two fragments, of which the first one has at most
/// `size` bytes, and compressed if it becomes smaller.
fn check_round_trip(events: &[Event], is_compressed: bool, size: usize) {
    let stream: Vec<u8> = events
        .iter()
        .flat_map(|event| encode(event, is_compressed, size))
        .collect();
    let read = |limit| read_stream(is_compressed, limit, &[], [&stream[..]]);
    let data = events
        .iter()
        .filter(|event| matches!(event, Event::Text(_) | Event::Binary(_)));
    let longest = data.map(Event::content_len).max().unwrap_or_default();
    // The limit is exact.
    assert_eq!(read(longest).events, events);
    if longest > 0 {
        let cut = read(longest - 1);
        assert!(cut.events.len() < events.len() && events.starts_with(&cut.events));
        let Some(ReadError::Violation { code, .. }) = cut.error else {
            panic!("expected a violation, got {cut:?}");
        };
        assert_eq!(code, MESSAGE_TOO_BIG);
    }
}

/// Encodes the frames of an event, as a client sends them.
fn encode(event: &Event, is_compressed: bool, size: usize) -> Vec<u8> {
    let (opcode, content) = match event {
        Event::Text(text) => (Data::Text, &text.as_bytes()[..]),
        Event::Binary(content) => (Data::Binary, &content[..]),
        Event::Ping(payload) => return masked(OpCode::Control(Control::Ping), payload, true),
        Event::Pong(payload) => return masked(OpCode::Control(Control::Pong), payload, true),
        Event::Close(frame) => {
            let payload = frame.as_ref().map_or(Vec::new(), |frame| {
                [&frame.code.to_be_bytes()[..], frame.reason.as_bytes()].concat()
            });
            return masked(OpCode::Control(Control::Close), &payload, true);
        }
        Event::Open | Event::Disconnect => panic!("no frame is {event:?}"),
    };
    let compressed = deflate::compress(content).filter(|_| is_compressed);
    let content = compressed.as_deref().unwrap_or(content);
    let (first, rest) = content.split_at(size.min(content.len()));
    let mut frames = masked(OpCode::Data(opcode), first, false);
    if compressed.is_some() {
        // RSV1 marks the first frame of a compressed message.
        frames[0] |= 0x40;
    }
    frames.extend(masked(OpCode::Data(Data::Continue), rest, true));
    frames
}

/// Decompresses a message, and compresses the same bytes. The first two bytes are the limit on the
/// decompressed message, in little-endian order.
pub fn inflate(data: &[u8]) -> bool {
    let [low, high, content @ ..] = data else {
        return false;
    };
    let limit = usize::from(u16::from_le_bytes([*low, *high]));
    check_compression(content);
    // Repeated bytes are more likely to be compressed.
    check_compression(&content.repeat(1 + limit % 16));

    let decompressed = deflate::decompress(content, limit);
    // The thread's decompressor keeps nothing from one message to the next.
    assert_eq!(deflate::decompress(content, limit), decompressed);
    match &decompressed {
        Ok(message) => {
            // One more byte shows that the limit is exceeded.
            assert!(message.len() <= limit && message.capacity() <= limit + 1);
            // The limit is exact.
            let length = message.len();
            assert_eq!(deflate::decompress(content, length), decompressed);
            if length > 0 {
                let cut = deflate::decompress(content, length - 1);
                assert_eq!(cut, Err(DecompressError::TooLarge));
            }
        }
        Err(DecompressError::TooLarge) => {
            if let Ok(message) = deflate::decompress(content, 2 * limit + 1000) {
                assert!(message.len() > limit);
            }
        }
        Err(DecompressError::Invalid) => {
            // A higher limit does not make it valid.
            let again = deflate::decompress(content, 2 * limit + 1000);
            assert_eq!(again, decompressed);
        }
    }
    decompressed.is_ok()
}

/// Compresses a message, which is restored.
fn check_compression(message: &[u8]) {
    let compressed = deflate::compress(message);
    // The thread's compressor keeps nothing from one message to the next.
    assert_eq!(deflate::compress(message), compressed);
    if let Some(compressed) = compressed {
        assert!(message.len() >= deflate::MIN_BYTES && compressed.len() < message.len());
        let restored = deflate::decompress(&compressed, message.len());
        assert_eq!(restored.as_deref(), Ok(message));
    }
}
