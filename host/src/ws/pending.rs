//! The queue of a client's events for the backend.
//!
//! An event stays in the queue until the backend has accepted all of it. A request that did not
//! reach the backend can therefore be repeated, and an event that was accepted in part is sent
//! again without that part.

use grip::Event;

use crate::config::Limits;

/// Added to the content length of each event, so that many empty messages are bounded too.
const EVENT_BYTES: usize = 64;

/// The most events in one request, which is the default limit of decoders.
const MAX_EVENTS_PER_REQUEST: usize = Limits::DEFAULT.max_events_per_request;

/// A queue of events, the first of which may be in a request in flight.
#[derive(Default)]
pub(super) struct Pending {
    events: Vec<Event>,
    /// The size of all events, which counts against the limit.
    bytes: usize,
    /// The number of events in the request in flight.
    in_flight: usize,
    /// The bytes of content, from the start of the queue, that were sent in an earlier request.
    replayed: usize,
    /// The queue has events to send, or to send again.
    ready: bool,
}

/// Why the `Content-Bytes-Accepted` header of a response is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AcceptError {
    #[error("Content-Bytes-Accepted is {accepted}, but only {sent} bytes were sent")]
    TooMany { accepted: usize, sent: usize },
    /// A CLOSE cannot be sent in parts.
    #[error("Content-Bytes-Accepted is {accepted}, which splits the CLOSE event")]
    SplitClose { accepted: usize },
    /// The rest of the text would not be UTF-8.
    #[error("Content-Bytes-Accepted is {accepted}, which splits a UTF-8 character")]
    SplitCharacter { accepted: usize },
    /// Sending the same again would not help.
    #[error("Content-Bytes-Accepted is 0, but no further content can follow")]
    Stuck,
}

impl Pending {
    /// Appends an event.
    pub(super) fn push(&mut self, event: Event) {
        self.bytes += size(&event);
        self.events.push(event);
        self.ready = true;
    }

    /// Returns the size of all events, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns whether there is a reason to send a request.
    pub(super) fn is_ready(&self) -> bool {
        self.ready
    }

    /// Returns the events of the next request, and how many bytes of their content are replayed.
    pub(super) fn next_batch(&mut self) -> (&[Event], usize) {
        self.in_flight = self.events.len().min(MAX_EVENTS_PER_REQUEST);
        self.ready = false;
        self.last_batch()
    }

    /// Returns the result of the last [`Self::next_batch`], to retry a request that did not reach
    /// the backend.
    pub(super) fn last_batch(&self) -> (&[Event], usize) {
        (&self.events[..self.in_flight], self.replayed)
    }

    /// Removes `accepted` bytes of content of the last batch, or all of it. An event that was
    /// accepted in part is shortened. The client is not read while the queue has `limit` bytes.
    ///
    /// # Errors
    /// Fails if the header is invalid or leaves the session stuck.
    pub(super) fn accept(
        &mut self,
        accepted: Option<usize>,
        limit: usize,
    ) -> Result<(), AcceptError> {
        let in_flight = std::mem::take(&mut self.in_flight);
        if let Some(Event::Disconnect) = self.events[..in_flight].last() {
            // What was not accepted before a DISCONNECT is of no use.
            self.remove(in_flight);
            self.replayed = 0;
            return Ok(());
        }
        let sent = self.events[..in_flight]
            .iter()
            .map(Event::content_len)
            .sum();
        let accepted = accepted.unwrap_or(sent);
        if accepted > sent {
            return Err(AcceptError::TooMany { accepted, sent });
        }
        let mut rest = accepted;
        let complete = self.events[..in_flight]
            .iter()
            .take_while(|event| {
                let fits = event.content_len() <= rest;
                rest -= if fits { event.content_len() } else { 0 };
                fits
            })
            .count();
        if complete < in_flight {
            let event = &mut self.events[complete];
            if matches!(event, Event::Close(_)) {
                return Err(AcceptError::SplitClose { accepted });
            }
            advance(event, rest).ok_or(AcceptError::SplitCharacter { accepted })?;
            self.bytes -= rest;
        }
        self.remove(complete);
        self.replayed = sent - accepted;
        let remaining = in_flight - complete;
        // No more events can follow: the client is not read because of the limit, or has closed.
        let is_final = self.bytes >= limit || matches!(self.events.last(), Some(Event::Close(_)));
        if remaining > 0 && is_final && complete == 0 && rest == 0 {
            return Err(AcceptError::Stuck);
        }
        self.ready = self.events.len() > remaining || (remaining > 0 && is_final);
        Ok(())
    }

    /// Drops all events.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn remove(&mut self, count: usize) {
        self.bytes -= self.events[..count].iter().map(size).sum::<usize>();
        if count == self.events.len() {
            // Frees the capacity, so that an idle session needs no memory for events.
            self.events = Vec::new();
        } else {
            self.events.drain(..count);
        }
    }
}

fn size(event: &Event) -> usize {
    event.content_len() + EVENT_BYTES
}

/// Removes the first `count` bytes of an event's content. Returns `None` if that would split a
/// character.
fn advance(event: &mut Event, count: usize) -> Option<()> {
    match event {
        Event::Text(text) => {
            let rest = text.get(count..)?;
            *text = text.slice_ref(rest);
        }
        Event::Binary(data) | Event::Ping(data) | Event::Pong(data) => {
            *data = data.slice(count..);
        }
        Event::Open | Event::Close(_) | Event::Disconnect => {}
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const LIMIT: usize = 1000;

    fn pending(events: &[Event]) -> Pending {
        let mut pending = Pending::default();
        for event in events {
            pending.push(event.clone());
        }
        pending.next_batch();
        pending
    }

    fn text(text: &'static str) -> Event {
        Event::text(text)
    }

    #[test]
    fn without_a_count_the_batch_is_accepted_but_not_later_events() {
        let mut pending = pending(&[text("a"), Event::Binary(Bytes::new())]);
        pending.push(text("later"));
        pending.accept(None, LIMIT).unwrap();
        assert!(pending.is_ready());
        assert_eq!(pending.next_batch(), (&[text("later")][..], 0));
        pending.accept(None, LIMIT).unwrap();
        assert!(!pending.is_ready() && pending.bytes() == 0);
    }

    #[test]
    fn a_partial_rest_waits_for_more_events_and_is_replayed() {
        let mut pending = pending(&[text("[foo][hello"), text("x")]);
        pending.accept(Some(5), LIMIT).unwrap();
        assert!(!pending.is_ready());
        pending.push(text(" world]"));
        assert!(pending.is_ready());
        assert_eq!(
            pending.next_batch(),
            (&[text("[hello"), text("x"), text(" world]")][..], 7)
        );
        assert_eq!(pending.last_batch(), (pending.events.as_slice(), 7));
        pending.accept(Some(7), LIMIT).unwrap();
        assert_eq!(pending.next_batch(), (&[text(" world]")][..], 7));
    }

    #[test]
    fn empty_events_are_accepted_with_those_before_them_unless_added_later() {
        let mut pending = pending(&[text(""), text("ab"), text(""), text("c")]);
        pending.push(text(""));
        pending.accept(Some(2), LIMIT).unwrap();
        assert_eq!(pending.next_batch(), (&[text("c"), text("")][..], 1));
    }

    #[test]
    fn no_progress_is_an_error_if_no_events_can_follow() {
        let mut waiting = pending(&[text("abc")]);
        assert_eq!(waiting.accept(Some(0), LIMIT), Ok(()));
        assert!(!waiting.is_ready());
        let mut full = pending(&[text("abc")]);
        assert_eq!(full.accept(Some(0), 60), Err(AcceptError::Stuck));
        let mut closing = pending(&[text("abc"), Event::Close(None)]);
        assert_eq!(closing.accept(Some(0), LIMIT), Err(AcceptError::Stuck));
        // Any progress is enough, and the rest is sent at once.
        for (events, bound) in [
            (&[text("abc")][..], 60),
            (&[text("abc"), Event::close(1000, "")][..], LIMIT),
        ] {
            let mut pending = pending(events);
            assert_eq!(pending.accept(Some(1), bound), Ok(()));
            assert!(pending.is_ready());
        }
    }

    #[test]
    fn invalid_counts_are_errors() {
        let too_many = AcceptError::TooMany {
            accepted: 4,
            sent: 3,
        };
        assert_eq!(
            pending(&[text("abc")]).accept(Some(4), LIMIT),
            Err(too_many)
        );
        assert_eq!(
            pending(&[text("é")]).accept(Some(1), LIMIT),
            Err(AcceptError::SplitCharacter { accepted: 1 })
        );
        assert_eq!(
            pending(&[text("a"), Event::close(1000, "")]).accept(Some(1), LIMIT),
            Err(AcceptError::SplitClose { accepted: 1 })
        );
    }

    #[test]
    fn a_disconnect_accepts_everything() {
        let mut pending = pending(&[text("abc"), Event::Disconnect]);
        pending.accept(Some(1), LIMIT).unwrap();
        assert!(!pending.is_ready() && pending.events.is_empty() && pending.bytes() == 0);
    }
}
