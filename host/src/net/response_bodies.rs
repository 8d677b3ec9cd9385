//! The response bodies of an HTTP/2 connection, whose client may stop reading one of them and go on
//! with others.
//!
//! While a body is not read, whatever produces it is blocked: an instance of a component or a
//! connection to an upstream is occupied. Nothing wakes a body that is not polled, so the connection
//! looks for bodies that were not polled for a while.

use std::{
    mem,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use spin_runtime::backend::{Body, BodyError};
use tokio::time::Instant;

/// The most bytes returned by one poll. The next poll happens when they were sent, which
/// distinguishes a slow reader from one that does not read.
const MAX_FRAME_BYTES: usize = 64 * 1024;

/// The response bodies in progress on a connection.
#[derive(Default)]
pub(crate) struct ResponseBodies(Mutex<Vec<Weak<Mutex<State>>>>);

/// A body that records when it is polled.
pub(crate) struct TrackedBody(Arc<Mutex<State>>);

struct State {
    /// `None` after the body was dropped because it was not read.
    body: Option<Body>,
    /// The remainder of the last frame.
    rest: Bytes,
    /// Since when the body has not been polled; `None` while a poll is pending.
    unread_since: Option<Instant>,
}

impl ResponseBodies {
    /// Starts to track a body.
    pub(crate) fn track(&self, body: Body) -> TrackedBody {
        let state = Arc::new(Mutex::new(State {
            body: Some(body),
            rest: Bytes::new(),
            unread_since: Some(Instant::now()),
        }));
        let mut tracked = self.0.lock();
        tracked.retain(|other| other.strong_count() > 0);
        tracked.push(Arc::downgrade(&state));
        TrackedBody(state)
    }

    /// Drops the bodies that were not read for `timeout`, and returns when to check again.
    pub(crate) fn drop_unread(&self, timeout: Duration) -> Instant {
        let now = Instant::now();
        let mut next_check = now + timeout;
        let tracked: Vec<_> = self.0.lock().iter().filter_map(Weak::upgrade).collect();
        for state in tracked {
            let mut state = state.lock();
            match state.unread_since.map(|since| since + timeout) {
                Some(deadline) if deadline <= now => {
                    state.unread_since = None;
                    let body = state.body.take();
                    // Dropped without the lock, since its destructor is not ours.
                    drop(state);
                    drop(body);
                }
                Some(deadline) => next_check = next_check.min(deadline),
                None => {}
            }
        }
        next_check
    }
}

impl http_body::Body for TrackedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let state = &mut *self.0.lock();
        let Some(body) = &mut state.body else {
            let error = "the response was not read for too long";
            return Poll::Ready(Some(Err(error.into())));
        };
        let frame = if state.rest.is_empty() {
            Pin::new(body).poll_frame(cx)
        } else {
            Poll::Ready(Some(Ok(Frame::data(mem::take(&mut state.rest)))))
        };
        state.unread_since = frame.is_ready().then(Instant::now);
        frame.map_ok(|frame| state.split(frame))
    }

    fn is_end_stream(&self) -> bool {
        let state = self.0.lock();
        state.rest.is_empty() && state.body.as_ref().is_some_and(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.0.lock();
        let hint = state.body.as_ref().map(Body::size_hint).unwrap_or_default();
        let rest = state.rest.len() as u64;
        let mut total = SizeHint::new();
        total.set_lower(hint.lower().saturating_add(rest));
        if let Some(upper) = hint.upper() {
            total.set_upper(upper.saturating_add(rest));
        }
        total
    }
}

impl State {
    /// Returns as much of a frame as one poll may return, and keeps the rest.
    fn split(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        match frame.into_data() {
            Ok(mut data) => {
                self.rest = data.split_off(data.len().min(MAX_FRAME_BYTES));
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

    const TIMEOUT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn unread_bodies_are_dropped() {
        let bodies = ResponseBodies::default();
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let stream = StreamBody::new(poll_fn(move |cx| receiver.poll_recv(cx)));
        let mut read = bodies.track(stream.boxed_unsync());
        let unread = bodies.track(full("unread"));
        let send = |text: &'static str| sender.send(Ok(Frame::data(text.into()))).is_ok();
        for _ in 0..5 {
            tokio::time::advance(TIMEOUT / 5).await;
            assert!(send("frame"));
            assert!(read.frame().await.is_some_and(|frame| frame.is_ok()));
        }
        assert_eq!(bodies.drop_unread(TIMEOUT), Instant::now() + TIMEOUT);
        // The body ends with an error, and does not look complete.
        assert!(!http_body::Body::is_end_stream(&unread));
        assert!(unread.collect().await.is_err());

        // Waiting for the backend does not count as not reading.
        assert!(read.frame().now_or_never().is_none());
        tokio::time::advance(TIMEOUT * 10).await;
        bodies.drop_unread(TIMEOUT);
        assert!(send("late"));
        assert!(read.frame().await.is_some_and(|frame| frame.is_ok()));

        tokio::time::advance(TIMEOUT / 2).await;
        let next_check = bodies.drop_unread(TIMEOUT);
        assert_eq!(next_check, Instant::now() + TIMEOUT / 2);
        tokio::time::advance(TIMEOUT / 2).await;
        bodies.drop_unread(TIMEOUT);
        assert!(read.frame().await.is_some_and(|frame| frame.is_err()));
    }

    #[tokio::test]
    async fn large_frames_are_split() {
        let content = Bytes::from(vec![7; MAX_FRAME_BYTES * 2 + 1]);
        let mut remaining = content.len() as u64;
        let mut body = ResponseBodies::default().track(full(content));
        for expected in [MAX_FRAME_BYTES, MAX_FRAME_BYTES, 1] {
            assert_eq!(http_body::Body::size_hint(&body).exact(), Some(remaining));
            assert!(!http_body::Body::is_end_stream(&body));
            let frame = body.frame().await.expect("more").expect("valid frame");
            assert_eq!(frame.data_ref().map(Bytes::len), Some(expected));
            remaining -= expected as u64;
        }
        assert!(http_body::Body::is_end_stream(&body));
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn finished_bodies_are_not_tracked() {
        let bodies = ResponseBodies::default();
        let _open = bodies.track(full("open"));
        for _ in 0..100 {
            drop(bodies.track(empty()));
        }
        assert!(bodies.0.lock().len() <= 2);
    }
}
