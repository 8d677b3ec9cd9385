//! What the backend has still to take: the client's events in their order.
//!
//! An event stays here until the backend has taken all of it, so that what could not
//! be sent is sent again, and what was taken in part is offered again from there.

use grip::Event;

/// What an event counts for beside its content, so that many empty messages are bounded too.
const EVENT_BYTES: usize = 64;

/// The most events in one request: what decoders take by default.
const MAX_EVENTS: usize = 10_000;

/// See the module's words.
#[derive(Default)]
pub(crate) struct Pending {
    events: Vec<Event>,
    /// What they count for against the bound.
    bytes: usize,
    /// So many of them, from the first, are in the request under way.
    offered: usize,
    /// Bytes of content, from the first, that were offered before.
    replayed: usize,
    /// Among them is what was not offered yet, or is worth offering again.
    news: bool,
}

/// Why an answer's `Content-Bytes-Accepted` cannot be acted on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AcceptError {
    /// More than was offered.
    #[error("Content-Bytes-Accepted is {accepted}, but only {offered} bytes were offered")]
    TooMuch {
        /// What the header says.
        accepted: usize,
        /// Bytes of content in the request.
        offered: usize,
    },
    /// All content but the close, which nothing can follow.
    #[error("Content-Bytes-Accepted is {accepted}, which leaves out a part of the CLOSE")]
    Close {
        /// What the header says.
        accepted: usize,
    },
    /// Half a character: the rest of the text would be none.
    #[error("Content-Bytes-Accepted is {accepted}, which ends within a character")]
    Character {
        /// What the header says.
        accepted: usize,
    },
    /// Nothing, although no more can come.
    #[error("Content-Bytes-Accepted is 0, although nothing more can be offered")]
    Stuck,
}

impl Pending {
    /// Adds an event behind the others.
    pub(crate) fn push(&mut self, event: Event) {
        self.bytes += weight(&event);
        self.events.push(event);
        self.news = true;
    }

    /// What the events count for, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is a reason for a request.
    pub(crate) fn has_news(&self) -> bool {
        self.news
    }

    /// What the next request offers, and how many bytes of it are offered again.
    pub(crate) fn offer(&mut self) -> (&[Event], usize) {
        self.offered = self.events.len().min(MAX_EVENTS);
        self.news = false;
        self.offered_again()
    }

    /// What [`Self::offer`] gave last, for a request that did not reach the backend.
    pub(crate) fn offered_again(&self) -> (&[Event], usize) {
        (&self.events[..self.offered], self.replayed)
    }

    /// Forgets what the backend has taken of the last offer: `accepted` bytes of content,
    /// or all of it. What was taken in part is cut. `bound` is how much there may be
    /// before the client is no longer read.
    ///
    /// # Errors
    /// The answer makes no sense, or keeps the session from going on.
    pub(crate) fn accept(
        &mut self,
        accepted: Option<usize>,
        bound: usize,
    ) -> Result<(), AcceptError> {
        let offered = std::mem::take(&mut self.offered);
        if let Some(Event::Disconnect) = self.events[..offered].last() {
            // Nothing can come of what was not taken before a DISCONNECT.
            self.take(offered);
            self.replayed = 0;
            return Ok(());
        }
        let content = self.events[..offered].iter().map(Event::content_len).sum();
        let accepted = accepted.unwrap_or(content);
        if accepted > content {
            return Err(AcceptError::TooMuch {
                accepted,
                offered: content,
            });
        }
        let mut part = accepted;
        let whole = self.events[..offered]
            .iter()
            .take_while(|event| {
                let fits = event.content_len() <= part;
                part -= if fits { event.content_len() } else { 0 };
                fits
            })
            .count();
        if whole < offered {
            let event = &mut self.events[whole];
            if matches!(event, Event::Close(_)) {
                return Err(AcceptError::Close { accepted });
            }
            cut(event, part).ok_or(AcceptError::Character { accepted })?;
            self.bytes -= part;
        }
        self.take(whole);
        self.replayed = content - accepted;
        let untaken = offered - whole;
        // Nothing more comes from a client that is no longer read: for its bound, or its end.
        let complete = self.bytes >= bound || matches!(self.events.last(), Some(Event::Close(_)));
        if untaken > 0 && complete && whole == 0 && part == 0 {
            return Err(AcceptError::Stuck);
        }
        self.news = self.events.len() > untaken || (untaken > 0 && complete);
        Ok(())
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    fn take(&mut self, count: usize) {
        self.bytes -= self.events[..count].iter().map(weight).sum::<usize>();
        if count == self.events.len() {
            // An idle session keeps no room for events.
            self.events = Vec::new();
        } else {
            self.events.drain(..count);
        }
    }
}

fn weight(event: &Event) -> usize {
    event.content_len() + EVENT_BYTES
}

/// Takes `count` bytes from the front of the event's content. `None` when what is left
/// would be no text.
fn cut(event: &mut Event, count: usize) -> Option<()> {
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

    const BOUND: usize = 1000;

    fn pending(events: &[Event]) -> Pending {
        let mut pending = Pending::default();
        for event in events {
            pending.push(event.clone());
        }
        pending.offer();
        pending
    }

    fn text(text: &'static str) -> Event {
        Event::text(text)
    }

    #[test]
    fn without_a_count_all_is_taken_and_what_came_since_is_not() {
        let mut pending = pending(&[text("a"), Event::Binary(Bytes::new())]);
        pending.push(text("since"));
        pending.accept(None, BOUND).unwrap();
        assert!(pending.has_news());
        assert_eq!(pending.offer(), (&[text("since")][..], 0));
        pending.accept(None, BOUND).unwrap();
        assert!(!pending.has_news() && pending.bytes() == 0);
    }

    #[test]
    fn the_rest_waits_for_more_and_is_told_as_old() {
        let mut pending = pending(&[text("[foo][hello"), text("x")]);
        pending.accept(Some(5), BOUND).unwrap();
        assert!(!pending.has_news());
        pending.push(text(" world]"));
        assert!(pending.has_news());
        assert_eq!(
            pending.offer(),
            (&[text("[hello"), text("x"), text(" world]")][..], 7)
        );
        assert_eq!(pending.offered_again(), (pending.events.as_slice(), 7));
        pending.accept(Some(7), BOUND).unwrap();
        assert_eq!(pending.offer(), (&[text(" world]")][..], 7));
    }

    #[test]
    fn empty_events_go_with_what_is_before_them_but_not_when_they_came_since() {
        let mut pending = pending(&[text(""), text("ab"), text(""), text("c")]);
        pending.push(text(""));
        pending.accept(Some(2), BOUND).unwrap();
        assert_eq!(pending.offer(), (&[text("c"), text("")][..], 1));
    }

    #[test]
    fn no_progress_is_an_error_where_nothing_more_can_come() {
        let mut waiting = pending(&[text("abc")]);
        assert_eq!(waiting.accept(Some(0), BOUND), Ok(()));
        assert!(!waiting.has_news());
        let mut full = pending(&[text("abc")]);
        assert_eq!(full.accept(Some(0), 60), Err(AcceptError::Stuck));
        let mut closing = pending(&[text("abc"), Event::Close(None)]);
        assert_eq!(closing.accept(Some(0), BOUND), Err(AcceptError::Stuck));
        // Some progress is enough, and the rest is offered at once.
        for (events, bound) in [
            (&[text("abc")][..], 60),
            (&[text("abc"), Event::close(1000, "")][..], BOUND),
        ] {
            let mut pending = pending(events);
            assert_eq!(pending.accept(Some(1), bound), Ok(()));
            assert!(pending.has_news());
        }
    }

    #[test]
    fn counts_that_make_no_sense() {
        let too_much = AcceptError::TooMuch {
            accepted: 4,
            offered: 3,
        };
        assert_eq!(
            pending(&[text("abc")]).accept(Some(4), BOUND),
            Err(too_much)
        );
        assert_eq!(
            pending(&[text("é")]).accept(Some(1), BOUND),
            Err(AcceptError::Character { accepted: 1 })
        );
        assert_eq!(
            pending(&[text("a"), Event::close(1000, "")]).accept(Some(1), BOUND),
            Err(AcceptError::Close { accepted: 1 })
        );
    }

    #[test]
    fn a_disconnect_takes_everything_with_it() {
        let mut pending = pending(&[text("abc"), Event::Disconnect]);
        pending.accept(Some(1), BOUND).unwrap();
        assert!(!pending.has_news() && pending.events.is_empty() && pending.bytes() == 0);
    }
}
