//! The bodies of responses, while they are sent to a client.
//!
//! The client of an HTTP/2 connection may stop reading one response and go on with others. Whatever
//! produces the response is then blocked: an instance of a component or a connection to an upstream
//! is occupied. Nothing wakes a body that is not polled, so the connection looks for bodies that were
//! not polled for a while.

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
use tokio_util::sync::CancellationToken;

use crate::http::trailers::remove_unsafe_trailers;

/// The most bytes returned by one poll. The next poll happens when they were sent, which
/// distinguishes a slow reader from one that does not read.
const MAX_FRAME_BYTES: usize = 64 * 1024;

tokio::task_local! {
    /// The HTTP/2 stream that the current task serves.
    static STREAM: StreamHandle;
}

/// Resets an HTTP/2 stream.
#[derive(Clone, Default)]
pub(crate) struct StreamHandle {
    /// Ends the task that sends the response.
    response: CancellationToken,
    /// Ends the task that sends what an upgraded stream writes. hyper keeps it until the client has
    /// read everything, even if the upgraded stream was dropped.
    upgraded: CancellationToken,
}

impl StreamHandle {
    /// Returns the stream that the current task serves, if any.
    pub(crate) fn current() -> Option<Self> {
        STREAM.try_with(Clone::clone).ok()
    }

    /// Resets the stream after `timeout`, if it was upgraded and is still open.
    pub(crate) async fn reset_upgraded_after(self, timeout: Duration) {
        tokio::time::sleep(timeout).await;
        self.upgraded.cancel();
    }
}

/// Runs the tasks of HTTP/2 connections, each of which serves a stream.
#[derive(Clone, Copy)]
pub(crate) struct StreamExecutor;

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, future: F) {
        // The task of an upgraded stream is spawned by the one that has sent the response.
        let (stream, reset) = match StreamHandle::current() {
            Some(stream) => (stream.clone(), stream.upgraded),
            None => {
                let stream = StreamHandle::default();
                (stream.clone(), stream.response)
            }
        };
        // Dropping the future of a stream resets the stream.
        let future = async move {
            reset.run_until_cancelled(future).await;
        };
        tokio::spawn(STREAM.scope(stream, future));
    }
}

/// The responses in progress on an HTTP/2 connection.
#[derive(Default)]
pub(crate) struct Streams(Mutex<Vec<Weak<Stream>>>);

/// A response in progress on an HTTP/2 connection.
struct Stream {
    /// Since when the body has not been polled; `None` while a poll is pending.
    unread_since: Mutex<Option<Instant>>,
    reset: CancellationToken,
}

impl Streams {
    /// Starts to track the response of the current task.
    fn track(&self) -> Arc<Stream> {
        let stream = Arc::new(Stream {
            unread_since: Mutex::new(Some(Instant::now())),
            reset: StreamHandle::current().unwrap_or_default().response,
        });
        let mut tracked = self.0.lock();
        tracked.retain(|other| other.strong_count() > 0);
        tracked.push(Arc::downgrade(&stream));
        stream
    }

    /// Resets the streams that were not read for `timeout`, and returns when to check again.
    pub(crate) fn reset_unread(&self, timeout: Duration) -> Instant {
        let now = Instant::now();
        let mut next_check = now + timeout;
        for stream in self.0.lock().iter().filter_map(Weak::upgrade) {
            let deadline = stream.unread_since.lock().map(|since| since + timeout);
            match deadline {
                Some(deadline) if deadline <= now => stream.reset.cancel(),
                Some(deadline) => next_check = next_check.min(deadline),
                None => {}
            }
        }
        next_check
    }
}

/// The body of a response, without trailers that pose as headers. `G` is dropped with it.
pub(crate) struct ResponseBody<G> {
    body: Body,
    /// Records when the body is polled, if the connection is HTTP/2.
    stream: Option<Arc<Stream>>,
    /// The remainder of the last frame.
    rest: Bytes,
    _guard: G,
}

impl<G> ResponseBody<G> {
    /// Creates the body of a response on an HTTP/2 connection if there are `streams`, and otherwise
    /// on an HTTP/1 connection. For HTTP/2, must be called in the task of the stream.
    pub(crate) fn new(body: Body, streams: Option<&Streams>, guard: G) -> Self {
        Self {
            body,
            stream: streams.map(Streams::track),
            rest: Bytes::new(),
            _guard: guard,
        }
    }

    /// Returns as much of a frame as one poll may return, and keeps the rest.
    fn prepare(&mut self, mut frame: Frame<Bytes>) -> Frame<Bytes> {
        if let Some(trailers) = frame.trailers_mut() {
            remove_unsafe_trailers(trailers);
        }
        if self.stream.is_none() {
            return frame;
        }
        match frame.into_data() {
            Ok(mut data) => {
                self.rest = data.split_off(data.len().min(MAX_FRAME_BYTES));
                Frame::data(data)
            }
            Err(trailers) => trailers,
        }
    }
}

impl<G: Unpin> http_body::Body for ResponseBody<G> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = if self.rest.is_empty() {
            Pin::new(&mut self.body).poll_frame(cx)
        } else {
            Poll::Ready(Some(Ok(Frame::data(mem::take(&mut self.rest)))))
        };
        if let Some(stream) = &self.stream {
            *stream.unread_since.lock() = frame.is_ready().then(Instant::now);
        }
        frame.map_ok(|frame| self.prepare(frame))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.body.size_hint();
        let rest = self.rest.len() as u64;
        let mut total = SizeHint::new();
        total.set_lower(hint.lower().saturating_add(rest));
        if let Some(upper) = hint.upper() {
            total.set_upper(upper.saturating_add(rest));
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, stream};
    use http::{HeaderMap, HeaderValue};
    use http_body_util::{BodyExt as _, StreamBody};
    use spin_runtime::backend::{empty, full};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    fn response(body: Body, streams: &Streams) -> ResponseBody<()> {
        ResponseBody::new(body, Some(streams), ())
    }

    #[tokio::test(start_paused = true)]
    async fn streams_that_are_not_read_are_reset() {
        let streams = Streams::default();
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        let frames = StreamBody::new(stream::poll_fn(move |cx| receiver.poll_recv(cx)));
        let mut read = response(frames.boxed_unsync(), &streams);
        let unread = response(full("unread"), &streams);
        let is_reset = |body: &ResponseBody<()>| {
            let stream = body.stream.as_ref().expect("HTTP/2");
            stream.reset.is_cancelled()
        };
        let send = |text: &'static str| sender.send(Ok(Frame::data(text.into()))).is_ok();
        for _ in 0..5 {
            assert!(!is_reset(&unread));
            tokio::time::advance(TIMEOUT / 5).await;
            assert!(send("frame"));
            assert!(read.frame().await.is_some_and(|frame| frame.is_ok()));
        }
        assert_eq!(streams.reset_unread(TIMEOUT), Instant::now() + TIMEOUT);
        assert!(is_reset(&unread) && !is_reset(&read));

        // Waiting for the backend does not count as not reading.
        assert!(read.frame().now_or_never().is_none());
        tokio::time::advance(TIMEOUT * 10).await;
        streams.reset_unread(TIMEOUT);
        assert!(!is_reset(&read));
        assert!(send("late"));
        assert!(read.frame().await.is_some_and(|frame| frame.is_ok()));

        tokio::time::advance(TIMEOUT / 2).await;
        drop(unread);
        assert_eq!(streams.reset_unread(TIMEOUT), Instant::now() + TIMEOUT / 2);
        tokio::time::advance(TIMEOUT / 2).await;
        streams.reset_unread(TIMEOUT);
        assert!(is_reset(&read));
    }

    #[tokio::test]
    async fn large_frames_are_split() {
        let content = Bytes::from(vec![7; MAX_FRAME_BYTES * 2 + 1]);
        let mut remaining = content.len() as u64;
        let mut body = response(full(content), &Streams::default());
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
    async fn finished_responses_are_not_tracked() {
        let streams = Streams::default();
        let _open = response(full("open"), &streams);
        for _ in 0..100 {
            drop(response(empty(), &streams));
        }
        assert!(streams.0.lock().len() <= 2);
    }

    #[tokio::test]
    async fn trailers_cannot_pose_as_headers() {
        let mut trailers = HeaderMap::new();
        for name in [
            "grip-channel",
            "set-meta-user",
            "set-cookie",
            "server-timing",
        ] {
            trailers.insert(name, HeaderValue::from_static("1"));
        }
        let frames = stream::iter([Ok::<_, BodyError>(Frame::trailers(trailers))]);
        let body = response(StreamBody::new(frames).boxed_unsync(), &Streams::default());
        let collected = body.collect().await.expect("complete body");
        let names: Vec<_> = collected.trailers().expect("trailers").keys().collect();
        assert_eq!(names, ["server-timing"]);
    }
}
