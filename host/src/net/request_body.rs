//! The body of a client's request: bounds how slowly it may arrive, says why it ended early, and
//! removes trailers that pose as headers.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{Request, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use spin_runtime::backend::{self, Body, BodyError, RequestBodyError, UnfinishedBody};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use crate::{
    config::Limits, http::trailers::remove_unsafe_trailers, net::connection::ConnectionHandle,
};

const IDLE_TIMEOUT: Duration = Limits::DEFAULT.request_body_idle_timeout;
const MIN_BYTES: usize = Limits::DEFAULT.min_request_body_bytes;
const PREFETCH_BYTES: usize = Limits::DEFAULT.request_body_prefetch_bytes;

/// The time of waiting after which [`MIN_BYTES`] must have arrived.
const WINDOW: Duration = Duration::from_secs(60);

/// How long a body of unknown or large size may pause before it is passed on. A client may wait for
/// the start of the response before it sends more.
const PREFETCH_PAUSE: Duration = Duration::from_millis(100);

/// Receives the start of a request's body, or all of it if it is small, so that the backend is not
/// occupied before there is something to read.
///
/// If there is more, the extensions of the request contain [`UnfinishedBody`]. The rest fails too if
/// it exceeds the limit.
///
/// # Errors
/// Fails if the body ends early, arrives too slowly, or exceeds `max_bytes`.
pub(crate) async fn prefetch(
    request: Request<Incoming>,
    max_bytes: u64,
) -> Result<Request<Body>, RequestBodyError> {
    if request.body().is_end_stream() {
        return Ok(request.map(|_| backend::empty()));
    }
    // Refused before the client has sent it.
    if request.body().size_hint().lower() > max_bytes {
        return Err(RequestBodyError::TooLarge { max_bytes });
    }
    // An HTTP/2 connection carries other requests too.
    let connection = match request.version() {
        Version::HTTP_2 => None,
        _ => ConnectionHandle::of(&request),
    };
    let (mut parts, incoming) = request.into_parts();
    let body = RequestBody::new(incoming, max_bytes, connection);
    let (body, unfinished) = prefetch_body(body).await?;
    if let Some(unfinished) = unfinished {
        parts.extensions.insert(unfinished);
    }
    Ok(Request::from_parts(parts, body))
}

/// Returns the body, and whether a part of it was received if it is not complete.
async fn prefetch_body<B>(
    mut body: RequestBody<B>,
) -> Result<(Body, Option<UnfinishedBody>), RequestBodyError>
where
    B: HttpBody<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BodyError>,
{
    let is_small = |length: u64| length <= PREFETCH_BYTES as u64;
    let may_pause = body
        .size_hint()
        .exact()
        .is_none_or(|length| !is_small(length));
    let mut frames = VecDeque::new();
    let mut bytes = 0;
    while bytes < PREFETCH_BYTES {
        let next = std::future::poll_fn(|cx| body.poll_next(cx));
        let next = if may_pause {
            match timeout(PREFETCH_PAUSE, next).await {
                Ok(next) => next,
                Err(_) => break,
            }
        } else {
            next.await
        };
        let Some(frame) = next else {
            return Ok((joined(frames), None));
        };
        let frame = frame?;
        bytes += frame.data_ref().map_or(0, Bytes::len);
        frames.push_back(frame);
        if body.is_end_stream() {
            return Ok((joined(frames), None));
        }
    }
    let unfinished = UnfinishedBody {
        has_started: !frames.is_empty(),
    };
    let body = Prefetched {
        frames,
        rest: Some(body),
    };
    Ok((body.boxed_unsync(), Some(unfinished)))
}

/// Returns a complete body. Without trailers, it is one piece whose length is known.
fn joined(frames: VecDeque<Frame<Bytes>>) -> Body {
    if frames.iter().any(|frame| !frame.is_data()) {
        let rest: Option<RequestBody<Incoming>> = None;
        return Prefetched { frames, rest }.boxed_unsync();
    }
    let mut pieces = frames
        .into_iter()
        .filter_map(|frame| frame.into_data().ok());
    let first = pieces.next().unwrap_or_default();
    let Some(second) = pieces.next() else {
        return backend::full(first);
    };
    let mut all = BytesMut::from(&first[..]);
    all.extend_from_slice(&second);
    pieces.for_each(|piece| all.extend_from_slice(&piece));
    backend::full(all.freeze())
}

/// A body whose first frames were received before.
struct Prefetched<B> {
    frames: VecDeque<Frame<Bytes>>,
    rest: Option<RequestBody<B>>,
}

impl<B> HttpBody for Prefetched<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(frame) = self.frames.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        match &mut self.rest {
            Some(rest) => rest.poll_next(cx).map_err(BodyError::from),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && self.rest.as_ref().is_none_or(RequestBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let prefetched: usize = self
            .frames
            .iter()
            .filter_map(|frame| frame.data_ref().map(Bytes::len))
            .sum();
        let rest = self
            .rest
            .as_ref()
            .map_or(SizeHint::with_exact(0), RequestBody::size_hint);
        let mut total = SizeHint::new();
        total.set_lower(rest.lower().saturating_add(prefetched as u64));
        // A body with trailers must be sent in chunks.
        if self.frames.iter().all(Frame::is_data)
            && let Some(upper) = rest.upper()
        {
            total.set_upper(upper.saturating_add(prefetched as u64));
        }
        total
    }
}

/// A body that is received from a client.
struct RequestBody<B> {
    body: B,
    max_bytes: u64,
    received: u64,
    pace: Pace,
    /// Notified at the end of the body.
    connection: Option<ConnectionHandle>,
}

impl<B> RequestBody<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    fn new(body: B, max_bytes: u64, connection: Option<ConnectionHandle>) -> Self {
        if let Some(connection) = &connection {
            connection.set_receiving(true);
        }
        Self {
            body,
            max_bytes,
            received: 0,
            pace: Pace::default(),
            connection,
        }
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let frame = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                ready!(self.pace.poll_idle(cx));
                return Poll::Ready(Some(Err(RequestBodyError::TooSlow)));
            }
        };
        let frame = match frame {
            None => None,
            Some(Err(error)) => Some(Err(cause(&*error.into()))),
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    remove_unsafe_trailers(trailers);
                }
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                let is_slow = self.pace.record(bytes);
                self.received = self.received.saturating_add(bytes as u64);
                let max_bytes = self.max_bytes;
                Some(if self.received > max_bytes {
                    Err(RequestBodyError::TooLarge { max_bytes })
                } else if is_slow {
                    Err(RequestBodyError::TooSlow)
                } else {
                    Ok(frame)
                })
            }
        };
        if let Some(connection) = &self.connection
            && (frame.is_none() || self.body.is_end_stream())
        {
            connection.set_receiving(false);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Returns why receiving failed.
fn cause(error: &(dyn std::error::Error + 'static)) -> RequestBodyError {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    let is_malformed = causes.any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| {
            matches!(
                error.kind(),
                io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData
            )
        })
    });
    if is_malformed {
        RequestBodyError::Malformed
    } else {
        RequestBodyError::Incomplete
    }
}

/// Measures how fast a body arrives while it is awaited.
#[derive(Default)]
struct Pace {
    timer: Option<Pin<Box<Sleep>>>,
    /// The start of the current wait.
    waiting_since: Option<Instant>,
    /// The time of waiting and the bytes received, since the start of the window.
    waited: Duration,
    bytes: usize,
}

impl Pace {
    /// Waits until nothing has arrived for [`IDLE_TIMEOUT`].
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.waiting_since.is_none() {
            let now = Instant::now();
            self.waiting_since = Some(now);
            let deadline = now + IDLE_TIMEOUT;
            match &mut self.timer {
                Some(timer) => timer.as_mut().reset(deadline),
                None => self.timer = Some(Box::pin(sleep_until(deadline))),
            }
        }
        match &mut self.timer {
            Some(timer) => timer.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    /// Records that bytes have arrived, and returns whether that took too long on average.
    fn record(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        if let Some(since) = self.waiting_since.take() {
            self.waited += since.elapsed();
        }
        if self.waited < WINDOW {
            return false;
        }
        self.waited = Duration::ZERO;
        std::mem::take(&mut self.bytes) < MIN_BYTES
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt as _, stream};
    use http_body_util::StreamBody;
    use tokio::time::sleep;

    use super::*;

    /// A body of pieces, each of which arrives after a time.
    fn body(
        pieces: Vec<(Duration, Frame<Bytes>)>,
    ) -> RequestBody<impl HttpBody<Data = Bytes, Error = BodyError> + Unpin + Send + 'static> {
        let frames = stream::iter(pieces).then(async |(pause, frame)| {
            sleep(pause).await;
            Ok::<_, BodyError>(frame)
        });
        RequestBody::new(StreamBody::new(Box::pin(frames)), u64::MAX, None)
    }

    fn piece(pause: Duration, bytes: usize) -> (Duration, Frame<Bytes>) {
        (pause, Frame::data(Bytes::from(vec![b'x'; bytes])))
    }

    const SECOND: Duration = Duration::from_secs(1);
    const NEVER: Duration = Duration::from_secs(1_000_000);

    #[tokio::test(start_paused = true)]
    async fn small_bodies_are_received_first() {
        let pieces = [Duration::ZERO, PREFETCH_PAUSE / 2].map(|pause| piece(pause, 3));
        let (body, unfinished) = prefetch_body(body(pieces.into())).await.unwrap();
        assert!(unfinished.is_none());
        assert_eq!(body.size_hint().exact(), Some(6));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_pauses_is_passed_on() {
        for (first, has_started) in [(Duration::ZERO, true), (SECOND, false)] {
            let pieces = [first, SECOND, SECOND].map(|pause| piece(pause, 3));
            let start = Instant::now();
            let (body, unfinished) = prefetch_body(body(pieces.into())).await.unwrap();
            assert_eq!(start.elapsed(), PREFETCH_PAUSE);
            assert_eq!(unfinished.map(|body| body.has_started), Some(has_started));
            assert_eq!(body.collect().await.unwrap().to_bytes().len(), 9);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_body_is_passed_on() {
        let pieces = [Duration::ZERO; 4].map(|pause| piece(pause, PREFETCH_BYTES / 2));
        let (body, unfinished) = prefetch_body(body(pieces.into())).await.unwrap();
        assert!(unfinished.is_some_and(|body| body.has_started));
        let received = body.collect().await.unwrap().to_bytes();
        assert_eq!(received.len(), PREFETCH_BYTES * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_that_stall_or_trickle_are_too_slow() {
        let (never, _) = prefetch_body(body(vec![piece(NEVER, 1)])).await.unwrap();
        assert!(never.collect().await.is_err());

        let stalled = body(vec![piece(Duration::ZERO, 3), piece(NEVER, 3)]);
        let (stalled, _) = prefetch_body(stalled).await.unwrap();
        let error = stalled.collect().await.unwrap_err();
        assert!(error.is::<RequestBodyError>(), "{error}");

        let trickle = |bytes| body((0..100).map(|_| piece(10 * SECOND, bytes)).collect());
        let (slow, _) = prefetch_body(trickle(1)).await.unwrap();
        assert!(slow.collect().await.is_err());
        let (fast, _) = prefetch_body(trickle(MIN_BYTES / 5)).await.unwrap();
        assert!(fast.collect().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_the_backend_does_not_read_does_not_count() {
        let pieces = (0..100).map(|_| piece(Duration::ZERO, PREFETCH_BYTES));
        let (mut body, _) = prefetch_body(body(pieces.collect())).await.unwrap();
        let mut frames = 0;
        while let Some(frame) = body.frame().await {
            frame.unwrap();
            frames += 1;
            sleep(WINDOW * 2).await;
        }
        assert_eq!(frames, 100);
    }

    #[tokio::test]
    async fn trailers_cannot_pose_as_headers() {
        let mut trailers = http::HeaderMap::new();
        for name in ["grip-sig", "x-forwarded-for", "content-length", "x-sum"] {
            trailers.insert(name, http::HeaderValue::from_static("1"));
        }
        let pieces = vec![
            piece(Duration::ZERO, 1),
            (Duration::ZERO, Frame::trailers(trailers)),
        ];
        let (body, _) = prefetch_body(body(pieces)).await.unwrap();
        assert_eq!(body.size_hint().exact(), None, "it is sent in chunks");
        let collected = body.collect().await.unwrap();
        let names: Vec<_> = collected.trailers().unwrap().keys().collect();
        assert_eq!(names, ["x-sum"]);
    }

    #[test]
    fn malformed_bodies_are_distinguished_from_incomplete_ones() {
        let of_kind = |kind: io::ErrorKind| cause(&io::Error::from(kind));
        assert_eq!(
            of_kind(io::ErrorKind::InvalidInput),
            RequestBodyError::Malformed
        );
        assert_eq!(
            of_kind(io::ErrorKind::InvalidData),
            RequestBodyError::Malformed
        );
        assert_eq!(
            of_kind(io::ErrorKind::UnexpectedEof),
            RequestBodyError::Incomplete
        );
        assert_eq!(
            of_kind(io::ErrorKind::ConnectionReset),
            RequestBodyError::Incomplete
        );
    }
}
