//! Translates frames between the interface and the host.

use super::bindings::fermyon::spin::websocket_types as wit;
use crate::websocket::{CloseFrame, Frame, ReceivedFrame};

/// The codes that the interface has (RFC 6455, section 7.4.1).
const CLOSE_CODES: [(u16, wit::CloseCode); 12] = [
    (1000, wit::CloseCode::Normal),
    (1002, wit::CloseCode::Protocol),
    (1003, wit::CloseCode::Unsupported),
    (1005, wit::CloseCode::Status),
    (1006, wit::CloseCode::Abnormal),
    (1007, wit::CloseCode::Invalid),
    (1008, wit::CloseCode::Policy),
    (1009, wit::CloseCode::Size),
    (1010, wit::CloseCode::Extension),
    (1011, wit::CloseCode::Error),
    (1012, wit::CloseCode::Restart),
    (1013, wit::CloseCode::Again),
];

/// Converts a frame of a client. A close frame whose code the interface lacks loses its contents.
pub(super) fn to_guest(received: ReceivedFrame) -> wit::ReceivedFrame {
    wit::ReceivedFrame {
        sequence_number: received.sequence_number,
        frame: match received.frame {
            Frame::Text(text) => wit::Frame::Text(text),
            Frame::Binary(data) => wit::Frame::Binary(data),
            Frame::Ping(payload) => wit::Frame::Ping(payload),
            Frame::Pong(payload) => wit::Frame::Pong(payload),
            Frame::Close(contents) => wit::Frame::Close(contents.and_then(close_to_guest)),
        },
    }
}

fn close_to_guest(close: CloseFrame) -> Option<wit::CloseFrame> {
    let known = CLOSE_CODES.iter().find(|(code, _)| *code == close.code);
    let Some((_, code)) = known else {
        let CloseFrame { code, reason } = close;
        tracing::debug!(code, reason, "close code that the interface lacks");
        return None;
    };
    let reason = Some(close.reason).filter(|reason| !reason.is_empty());
    Some(wit::CloseFrame {
        code: *code,
        reason,
    })
}

/// Converts a frame of a component.
pub(super) fn from_guest(frame: wit::Frame) -> Frame {
    match frame {
        wit::Frame::Text(text) => Frame::Text(text),
        wit::Frame::Binary(data) => Frame::Binary(data),
        wit::Frame::Ping(payload) => Frame::Ping(payload),
        wit::Frame::Pong(payload) => Frame::Pong(payload),
        wit::Frame::Close(contents) => Frame::Close(contents.map(|close| CloseFrame {
            code: close_code(close.code),
            reason: close.reason.unwrap_or_default(),
        })),
    }
}

fn close_code(code: wit::CloseCode) -> u16 {
    use wit::CloseCode::*;
    match code {
        Normal => 1000,
        Protocol => 1002,
        Unsupported => 1003,
        Status => 1005,
        Abnormal => 1006,
        Invalid => 1007,
        Policy => 1008,
        Size => 1009,
        Extension => 1010,
        Error => 1011,
        Restart => 1012,
        Again => 1013,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(frame: Frame) -> wit::Frame {
        let received = ReceivedFrame {
            sequence_number: 7,
            frame,
        };
        to_guest(received).frame
    }

    #[test]
    fn close_codes_are_the_same_in_both_directions() {
        for (code, _) in CLOSE_CODES {
            let frame = Frame::Close(Some(CloseFrame {
                code,
                reason: "why".into(),
            }));
            assert_eq!(from_guest(received(frame.clone())), frame);
        }
    }

    #[test]
    fn a_code_that_the_interface_lacks_is_left_out() {
        for code in [1001, 1014, 3000, 4999] {
            let reason = "why".into();
            let frame = received(Frame::Close(Some(CloseFrame { code, reason })));
            assert!(matches!(frame, wit::Frame::Close(None)), "{code}");
        }
    }

    #[test]
    fn an_empty_reason_is_none() {
        let reason = String::new();
        let frame = received(Frame::Close(Some(CloseFrame { code: 1000, reason })));
        let wit::Frame::Close(Some(close)) = frame else {
            panic!("{frame:?}")
        };
        assert_eq!(close.reason, None);
    }
}
