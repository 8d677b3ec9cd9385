//! Translates between what clients do and the frames of components (SIP-016).

use grip::event::is_close_code;
use spin_runtime::websocket::{CloseFrame, Frame, ReceivedFrame};

use super::client::{ClientAction, Closed, Message};

/// The code of a connection that ended without a close frame (RFC 6455, section 7.4.1).
const ABNORMAL: u16 = 1006;

/// Numbers frames of a client for its component.
pub(super) fn number(frames: Vec<Frame>, first_number: u64) -> Vec<ReceivedFrame> {
    let numbered = (first_number..).zip(frames);
    let numbered = numbered.map(|(sequence_number, frame)| ReceivedFrame {
        sequence_number,
        frame,
    });
    numbered.collect()
}

/// Returns the frame that a component gets for an action of a client.
pub(super) fn from_action(action: ClientAction) -> Frame {
    match action {
        ClientAction::Send(Message::Text(text)) => Frame::Text(text),
        ClientAction::Send(Message::Binary(data)) => Frame::Binary(data.into()),
        ClientAction::Pong(payload) => Frame::Pong(payload.into()),
        ClientAction::Close { code, reason } => Frame::Close(Some(CloseFrame { code, reason })),
        ClientAction::Disconnect => from_closed(Closed::Dropped),
    }
}

/// Returns the close frame that a component gets when its client was closed like this. A lost connection
/// becomes one with the code 1006.
pub(super) fn from_closed(closed: Closed) -> Frame {
    Frame::Close(match closed {
        Closed::Frame { code, reason } => code.map(|code| CloseFrame { code, reason }),
        Closed::Dropped => Some(CloseFrame {
            code: ABNORMAL,
            reason: String::new(),
        }),
    })
}

/// Returns how a close frame of a component closes a client. Code 1006 ends the connection without a
/// close frame.
pub(super) fn closed(frame: Option<CloseFrame>) -> Closed {
    match frame {
        Some(frame) if frame.code == ABNORMAL => Closed::Dropped,
        Some(CloseFrame { code, reason }) if is_close_code(code) => Closed::Frame {
            code: Some(code),
            reason,
        },
        // Code 1005 stands for none.
        _ => Closed::Frame {
            code: None,
            reason: String::new(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(code: u16, reason: &str) -> Option<CloseFrame> {
        let reason = reason.to_owned();
        Some(CloseFrame { code, reason })
    }

    #[test]
    fn a_client_answers_a_close_frame_with_the_same_one() {
        for frame in [None, close(1000, ""), close(1011, "why"), close(1006, "")] {
            assert_eq!(from_closed(closed(frame.clone())), Frame::Close(frame));
        }
    }

    #[test]
    fn codes_that_are_never_sent_are_left_out() {
        for frame in [None, close(1005, "why")] {
            let without_code = Closed::Frame {
                code: None,
                reason: String::new(),
            };
            assert_eq!(closed(frame), without_code);
        }
        assert_eq!(closed(close(1006, "why")), Closed::Dropped);
    }

    #[test]
    fn frames_are_numbered() {
        let frames = [
            ClientAction::Send(Message::Text("a".into())),
            ClientAction::Disconnect,
        ];
        let frames = number(frames.map(from_action).into(), 7);
        let numbers: Vec<_> = frames.iter().map(|frame| frame.sequence_number).collect();
        assert_eq!(numbers, [7, 8]);
        assert_eq!(frames[1].frame, Frame::Close(close(1006, "")));
    }
}
