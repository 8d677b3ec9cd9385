//! Reads server-sent events, as the control port sends them.

use anyhow::{Context as _, Result};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

/// The events in the body of a response.
pub(super) struct Events {
    body: Incoming,
    buffer: Vec<u8>,
}

/// An event with data.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// `message` unless the event has another name.
    pub(super) name: String,
    /// The data, whose lines are joined.
    pub(super) data: String,
}

impl Events {
    /// Reads the events of a body.
    pub(super) fn new(body: Incoming) -> Self {
        Self {
            body,
            buffer: Vec::new(),
        }
    }

    /// Waits for the next event. Returns `None` at the end of the body.
    ///
    /// # Errors
    /// Fails if the connection breaks.
    pub(super) async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(event) = take_event(&mut self.buffer) {
                return Ok(Some(event));
            }
            let Some(frame) = self.body.frame().await else {
                return Ok(None);
            };
            let frame = frame.context("the connection to the host was lost")?;
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }
}

/// Takes the first event with data from a buffer, and the comments before it.
fn take_event(buffer: &mut Vec<u8>) -> Option<Event> {
    loop {
        let end = memchr::memmem::find(buffer, b"\n\n")?;
        let block: Vec<u8> = buffer.drain(..end + 2).collect();
        let block = String::from_utf8_lossy(&block);
        let mut name = "message";
        let mut data = Vec::new();
        for line in block.lines() {
            match line.split_once(": ") {
                Some(("event", value)) => name = value,
                Some(("data", value)) => data.push(value),
                _ => {}
            }
        }
        if !data.is_empty() {
            return Some(Event {
                name: name.to_owned(),
                data: data.join("\n"),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_taken_one_by_one() {
        let mut buffer =
            b":\n\ndata: {\"a\":1}\n\nevent: dropped\ndata: x\ndata: y\n\ndata: z".to_vec();
        let event = |name: &str, data: &str| {
            Some(Event {
                name: name.to_owned(),
                data: data.to_owned(),
            })
        };
        assert_eq!(take_event(&mut buffer), event("message", "{\"a\":1}"));
        assert_eq!(take_event(&mut buffer), event("dropped", "x\ny"));
        assert_eq!(take_event(&mut buffer), None);
        buffer.extend_from_slice(b"\n\n");
        assert_eq!(take_event(&mut buffer), event("message", "z"));
        assert!(buffer.is_empty());
    }
}
