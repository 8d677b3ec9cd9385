//! An answer on its way to a client of HTTP/2, who may stop reading it, and read others.
//!
//! While nobody reads, whoever answers cannot go on: an instance of a component or a connection to
//! an upstream is kept for nothing. Nothing wakes a body that is not asked for more, so whoever
//! has the connection looks after the answers on it.

use std::{
    mem,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::Duration,
};

use parking_lot::Mutex;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

use spin_runtime::backend::{Body, BodyError};

/// The most bytes that are handed out at once. More is asked for when all of them are sent: so a slow
/// reader is told from one that does not read.
const PIECE: usize = 64 << 10;

/// The answers under way on one connection.
#[derive(Default)]
pub(crate) struct Deliveries(Mutex<Vec<Weak<Mutex<State>>>>);

/// The body of one of them.
pub(crate) struct Delivery(Arc<Mutex<State>>);

struct State {
    /// `None`: it was given up.
    body: Option<Body>,
    /// What is still to be handed out of its last frame.
    rest: Bytes,
    /// Since when it waits to be asked for more; `None` while it is itself waited for.
    unread: Option<Instant>,
}

impl Deliveries {
    /// Begins to deliver `body`.
    pub(crate) fn begin(&self, body: Body) -> Delivery {
        let state = Arc::new(Mutex::new(State {
            body: Some(body),
            rest: Bytes::new(),
            unread: Some(Instant::now()),
        }));
        let mut all = self.0.lock();
        // Those that have come to their end make room.
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(&state));
        Delivery(state)
    }

    /// Gives up the answers that were left unread for `patience`, and says when to look again.
    pub(crate) fn give_up(&self, patience: Duration) -> Instant {
        let now = Instant::now();
        let mut next = now + patience;
        let all: Vec<_> = self.0.lock().iter().filter_map(Weak::upgrade).collect();
        for delivery in all {
            let mut state = delivery.lock();
            match state.unread.map(|since| since + patience) {
                Some(due) if due <= now => {
                    state.unread = None;
                    let body = state.body.take();
                    // Whatever follows from it needs none of this.
                    drop(state);
                    drop(body);
                }
                Some(due) => next = next.min(due),
                None => {}
            }
        }
        next
    }
}

impl http_body::Body for Delivery {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let state = &mut *self.0.lock();
        let Some(body) = &mut state.body else {
            return Poll::Ready(Some(Err("it was left unread for too long".into())));
        };
        let frame = match state.rest.is_empty() {
            true => Pin::new(body).poll_frame(cx),
            false => Poll::Ready(Some(Ok(Frame::data(mem::take(&mut state.rest))))),
        };
        state.unread = frame.is_ready().then(Instant::now);
        frame.map_ok(|frame| state.piece(frame))
    }

    fn is_end_stream(&self) -> bool {
        let state = self.0.lock();
        state.rest.is_empty() && state.body.as_ref().is_some_and(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.0.lock();
        let hint = state.body.as_ref().map(Body::size_hint).unwrap_or_default();
        let rest = state.rest.len() as u64;
        let mut whole = SizeHint::new();
        whole.set_lower(hint.lower().saturating_add(rest));
        if let Some(upper) = hint.upper() {
            whole.set_upper(upper.saturating_add(rest));
        }
        whole
    }
}

impl State {
    /// A frame, or as much of it as is handed out at once.
    fn piece(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        match frame.into_data() {
            Ok(mut data) => {
                self.rest = data.split_off(data.len().min(PIECE));
                Frame::data(data)
            }
            Err(trailers) => trailers,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, stream::poll_fn};
    use http_body_util::{BodyExt as _, StreamBody};
    use spin_runtime::backend::{empty, full};
    use tokio::sync::mpsc;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn what_nobody_reads_is_given_up() {
        let deliveries = Deliveries::default();
        let (pieces, mut channel) = mpsc::unbounded_channel();
        let channel = StreamBody::new(poll_fn(move |cx| channel.poll_recv(cx)));
        let mut read = deliveries.begin(channel.boxed_unsync());
        let unread = deliveries.begin(full("unread"));
        let say = |text: &'static str| pieces.send(Ok(Frame::data(text.into()))).is_ok();
        for _ in 0..5 {
            tokio::time::advance(PATIENCE / 5).await;
            assert!(say("piece"));
            assert!(read.frame().await.is_some_and(|piece| piece.is_ok()));
        }
        assert_eq!(deliveries.give_up(PATIENCE), Instant::now() + PATIENCE);
        // It breaks off, and does not look like a whole one.
        assert!(!http_body::Body::is_end_stream(&unread));
        assert!(unread.collect().await.is_err());

        // Who waits for the backend is not the one who does not read.
        assert!(read.frame().now_or_never().is_none());
        tokio::time::advance(PATIENCE * 10).await;
        deliveries.give_up(PATIENCE);
        assert!(say("late"));
        assert!(read.frame().await.is_some_and(|piece| piece.is_ok()));

        tokio::time::advance(PATIENCE / 2).await;
        let next = deliveries.give_up(PATIENCE);
        assert_eq!(next, Instant::now() + PATIENCE / 2);
        tokio::time::advance(PATIENCE / 2).await;
        deliveries.give_up(PATIENCE);
        assert!(read.frame().await.is_some_and(|piece| piece.is_err()));
    }

    #[tokio::test]
    async fn what_is_large_is_handed_out_in_pieces() {
        let content = Bytes::from(vec![7; PIECE * 2 + 1]);
        let mut left = content.len() as u64;
        let mut body = Deliveries::default().begin(full(content));
        for piece in [PIECE, PIECE, 1] {
            assert_eq!(http_body::Body::size_hint(&body).exact(), Some(left));
            assert!(!http_body::Body::is_end_stream(&body));
            let frame = body.frame().await.expect("a piece").expect("no error");
            assert_eq!(frame.data_ref().map(Bytes::len), Some(piece));
            left -= piece as u64;
        }
        assert!(http_body::Body::is_end_stream(&body));
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn answers_that_have_ended_are_forgotten() {
        let deliveries = Deliveries::default();
        let _kept = deliveries.begin(full("kept"));
        for _ in 0..100 {
            drop(deliveries.begin(empty()));
        }
        assert!(deliveries.0.lock().len() <= 2);
    }
}
