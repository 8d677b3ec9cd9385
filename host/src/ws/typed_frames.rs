//! Translates between the frames of components (SIP-016) and events.

use bytes::Bytes;
use grip::{CloseFrame, Event};
use spin_runtime::websocket::{self, Frame, ReceivedFrame};

/// The code of a close frame without one (RFC 6455, section 7.4.1).
const NO_STATUS: u16 = 1005;

/// The code of a connection that ended without a close frame.
const ABNORMAL: u16 = 1006;

/// Numbers the events of a client for its component. A lost connection becomes a close frame with the
/// code 1006.
pub(super) fn received(events: &[Event], first_number: u64) -> Vec<ReceivedFrame> {
    let frames = events.iter().filter_map(to_frame);
    let numbered = (first_number..).zip(frames);
    let numbered = numbered.map(|(sequence_number, frame)| ReceivedFrame {
        sequence_number,
        frame,
    });
    numbered.collect()
}

fn to_frame(event: &Event) -> Option<Frame> {
    Some(match event {
        Event::Text(content) => Frame::Text(content.to_string()),
        Event::Binary(content) => Frame::Binary(content.to_vec()),
        Event::Ping(content) => Frame::Ping(content.to_vec()),
        Event::Pong(content) => Frame::Pong(content.to_vec()),
        Event::Close(close) => Frame::Close(close.as_ref().map(|close| websocket::CloseFrame {
            code: close.code,
            reason: close.reason.to_string(),
        })),
        Event::Disconnect => Frame::Close(Some(websocket::CloseFrame {
            code: ABNORMAL,
            reason: String::new(),
        })),
        // The component gets the upgrade request instead.
        Event::Open => return None,
    })
}

/// Returns what a frame of a component does. Code 1006 ends the connection without a close frame.
pub(super) fn to_event(frame: Frame) -> Event {
    match frame {
        Frame::Text(text) => Event::Text(text.into()),
        Frame::Binary(data) => Event::Binary(data.into()),
        Frame::Ping(payload) => Event::Ping(Bytes::from(payload)),
        Frame::Pong(payload) => Event::Pong(Bytes::from(payload)),
        Frame::Close(Some(close)) if close.code == ABNORMAL => Event::Disconnect,
        Frame::Close(Some(close)) if close.code == NO_STATUS => Event::Close(None),
        Frame::Close(close) => {
            let close = close.map(|close| CloseFrame::new(close.code, close.reason));
            Event::Close(close)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_numbered() {
        let events = [Event::text("a"), Event::Binary(Bytes::from_static(b"b"))];
        let frames = received(&events, 7);
        let numbers: Vec<_> = frames.iter().map(|it| it.sequence_number).collect();
        assert_eq!(numbers, [7, 8]);
        assert_eq!(frames[1].frame, Frame::Binary(b"b".to_vec()));
    }

    #[test]
    fn a_lost_connection_is_a_close_frame() {
        let [frame] = &received(&[Event::Disconnect], 0)[..] else {
            panic!("one frame")
        };
        assert_eq!(to_event(frame.frame.clone()), Event::Disconnect);
    }

    #[test]
    fn close_frames_keep_code_and_reason() {
        for event in [
            Event::Close(None),
            Event::close(1000, ""),
            Event::close(4000, "why"),
        ] {
            let frames = received(std::slice::from_ref(&event), 0);
            assert_eq!(to_event(frames[0].frame.clone()), event);
        }
        let no_status = websocket::CloseFrame {
            code: NO_STATUS,
            reason: String::new(),
        };
        assert_eq!(to_event(Frame::Close(Some(no_status))), Event::Close(None));
    }
}
