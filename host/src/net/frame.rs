//! WebSocket frames as a server sends them: complete, unmasked, encoded once.

use bytes::{BufMut, Bytes, BytesMut};
use tungstenite::protocol::{
    CloseFrame,
    frame::{
        Frame, Utf8Bytes,
        coding::{CloseCode, Data, OpCode},
    },
};

/// Close code: the endpoint goes away (RFC 6455, 7.4.1).
pub(crate) const GOING_AWAY: u16 = 1001;
/// Close code: a frame broke the protocol.
pub(crate) const PROTOCOL: u16 = 1002;
/// Close code: text that is not UTF-8.
pub(crate) const INVALID: u16 = 1007;
/// Close code: a message over the limit.
pub(crate) const TOO_BIG: u16 = 1009;
/// Close code: the backend failed.
pub(crate) const FAILED: u16 = 1011;
/// Close code: come again later (registered with IANA).
pub(crate) const AGAIN: u16 = 1013;

/// The most bytes that a close frame's reason or a ping may have.
const CONTROL_PAYLOAD: usize = 125;

/// A text message. The content must be UTF-8.
pub(crate) fn text(content: Bytes) -> Bytes {
    encode(Frame::message(content, OpCode::Data(Data::Text), true))
}

/// A binary message.
pub(crate) fn binary(content: Bytes) -> Bytes {
    encode(Frame::message(content, OpCode::Data(Data::Binary), true))
}

/// A ping; content beyond 125 bytes is cut, as a control frame holds no more.
pub(crate) fn ping(mut content: Bytes) -> Bytes {
    content.truncate(CONTROL_PAYLOAD);
    encode(Frame::ping(content))
}

/// A pong, cut like a ping.
pub(crate) fn pong(mut content: Bytes) -> Bytes {
    content.truncate(CONTROL_PAYLOAD);
    encode(Frame::pong(content))
}

/// A close frame. A code that must not be sent becomes 1000, as an endpoint would
/// take the frame for an error; a long reason is cut between characters.
pub(crate) fn close(code: u16, reason: &str) -> Bytes {
    let code = CloseCode::from(code);
    let code = if code.is_allowed() {
        code
    } else {
        CloseCode::Normal
    };
    let reason = &reason[..reason.floor_char_boundary(CONTROL_PAYLOAD - 2)];
    encode(Frame::close(Some(CloseFrame {
        code,
        reason: Utf8Bytes::from(reason),
    })))
}

/// A close frame without a code.
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
    fn lengths_take_the_three_forms() {
        assert_eq!(text(Bytes::from_static(b"hi")), &[0x81, 2, b'h', b'i'][..]);
        assert_eq!(binary(Bytes::from(vec![7; 126]))[..4], [0x82, 126, 0, 126]);
        assert_eq!(
            text(Bytes::from(vec![b'x'; 65536]))[..10],
            [0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]
        );
    }

    #[test]
    fn control_frames_stay_within_their_limit() {
        assert_eq!(ping(Bytes::from(vec![0; 200])).len(), 2 + CONTROL_PAYLOAD);
        assert_eq!(close(1000, &"é".repeat(100)).len(), 2 + 2 + 122);
        assert_eq!(close(1005, "")[2..4], 1000_u16.to_be_bytes());
        assert_eq!(close(AGAIN, "")[2..4], AGAIN.to_be_bytes());
        assert_eq!(close_without_code(), &[0x88, 0][..]);
    }
}
