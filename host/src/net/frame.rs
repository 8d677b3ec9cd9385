//! WebSocket frames as a server sends them: complete, unmasked, encoded once.

use bytes::{BufMut, Bytes, BytesMut};
use tungstenite::protocol::{
    CloseFrame,
    frame::{
        Frame, Utf8Bytes,
        coding::{CloseCode, OpCode},
    },
};

pub(crate) use tungstenite::protocol::frame::coding::Data;

/// The purpose of the connection is fulfilled (RFC 6455, section 7.4.1).
pub(crate) const NORMAL_CLOSURE: u16 = 1000;
/// The endpoint is going away.
pub(crate) const GOING_AWAY: u16 = 1001;
/// A frame violates the protocol.
pub(crate) const PROTOCOL_ERROR: u16 = 1002;
/// A text message is not UTF-8.
pub(crate) const INVALID_PAYLOAD: u16 = 1007;
/// The client may not continue.
pub(crate) const POLICY_VIOLATION: u16 = 1008;
/// A message exceeds the limit.
pub(crate) const MESSAGE_TOO_BIG: u16 = 1009;
/// The backend failed.
pub(crate) const INTERNAL_ERROR: u16 = 1011;
/// The host restarts, and the client should reconnect (registered with IANA).
pub(crate) const SERVICE_RESTART: u16 = 1012;
/// The client should reconnect later (registered with IANA).
pub(crate) const TRY_AGAIN_LATER: u16 = 1013;

/// The largest payload of a control frame, in bytes.
const MAX_CONTROL_PAYLOAD: usize = 125;

/// Encodes a text message. The content must be UTF-8.
pub(crate) fn text(content: Bytes) -> Bytes {
    encode(Frame::message(content, OpCode::Data(Data::Text), true))
}

/// Encodes a binary message.
pub(crate) fn binary(content: Bytes) -> Bytes {
    encode(Frame::message(content, OpCode::Data(Data::Binary), true))
}

/// Encodes a message that is compressed (RFC 7692, section 6).
pub(crate) fn compressed(kind: Data, content: Vec<u8>) -> Bytes {
    let mut frame = Frame::message(content, OpCode::Data(kind), true);
    frame.header_mut().rsv1 = true;
    encode(frame)
}

/// Encodes a ping. Content beyond 125 bytes is truncated.
pub(crate) fn ping(mut content: Bytes) -> Bytes {
    content.truncate(MAX_CONTROL_PAYLOAD);
    encode(Frame::ping(content))
}

/// Encodes a pong. Content beyond 125 bytes is truncated.
pub(crate) fn pong(mut content: Bytes) -> Bytes {
    content.truncate(MAX_CONTROL_PAYLOAD);
    encode(Frame::pong(content))
}

/// Encodes a close frame. The code must be one that can be sent (see
/// [`is_close_code`](grip::event::is_close_code)). A long reason is truncated between two
/// characters.
pub(crate) fn close(code: u16, reason: &str) -> Bytes {
    let reason = &reason[..reason.floor_char_boundary(MAX_CONTROL_PAYLOAD - 2)];
    encode(Frame::close(Some(CloseFrame {
        code: CloseCode::from(code),
        reason: Utf8Bytes::from(reason),
    })))
}

/// Returns the code and the reason of an encoded close frame, if it has a code.
pub(crate) fn parse_close(frame: &[u8]) -> Option<(u16, String)> {
    // The payload is at most `MAX_CONTROL_PAYLOAD` long, so the header has two bytes.
    let (code, reason) = frame.get(2..)?.split_at_checked(2)?;
    let code = u16::from_be_bytes(code.try_into().ok()?);
    Some((code, String::from_utf8_lossy(reason).into_owned()))
}

/// Encodes a close frame without a code.
pub(crate) fn close_without_code() -> Bytes {
    encode(Frame::close(None))
}

fn encode(frame: Frame) -> Bytes {
    let mut bytes = BytesMut::with_capacity(frame.len());
    let mut writer = (&mut bytes).writer();
    // Writing to memory does not fail.
    let _ = frame.format(&mut writer);
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_encoded_in_all_three_forms() {
        assert_eq!(text(Bytes::from_static(b"hi")), &[0x81, 2, b'h', b'i'][..]);
        assert_eq!(binary(Bytes::from(vec![7; 126]))[..4], [0x82, 126, 0, 126]);
        assert_eq!(
            text(Bytes::from(vec![b'x'; 65536]))[..10],
            [0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]
        );
    }

    #[test]
    fn control_frames_are_truncated() {
        assert_eq!(
            ping(Bytes::from(vec![0; 200])).len(),
            2 + MAX_CONTROL_PAYLOAD
        );
        assert_eq!(close(1000, &"é".repeat(100)).len(), 2 + 2 + 122);
        for code in [TRY_AGAIN_LATER, 1014, 4000] {
            assert_eq!(close(code, "")[2..4], code.to_be_bytes());
        }
        assert_eq!(close_without_code(), &[0x88, 0][..]);
    }

    #[test]
    fn close_frames_are_parsed() {
        let parsed = |frame: Bytes| parse_close(&frame);
        assert_eq!(parsed(close(4000, "é")), Some((4000, "é".to_owned())));
        assert_eq!(parsed(close(1000, "")), Some((1000, String::new())));
        assert_eq!(parsed(close_without_code()), None);
    }
}
