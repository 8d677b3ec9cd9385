//! The byte stream of a connection: checks the framing of requests, records whether the client reads,
//! and ends the connection so that the client gets the last response.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use http::StatusCode;
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep};

use crate::{
    config::Limits,
    http::{
        framing::{Framing, Malformed, Problem},
        validate::{HEAD_TOO_LARGE, Refusal},
    },
};

/// How long a client may continue to send a request body after the response.
const LINGER_TIMEOUT: Duration = Limits::DEFAULT.close_timeout;

/// The most bytes that are read at once while they are checked.
const READ_BYTES: usize = 16 * 1024;

/// What a stream shares with the connection that it belongs to.
#[derive(Default)]
pub(super) struct IoState {
    /// Since when the client has not read anything that was sent.
    pub(super) blocked_since: Mutex<Option<Instant>>,
    /// The body of an HTTP/1 request was not received to its end.
    pub(super) is_receiving: AtomicBool,
    /// A response of the host, rather than one of hyper, is in progress.
    pub(super) is_responding: AtomicBool,
    /// The connection was upgraded to another protocol, so nothing more is HTTP.
    pub(super) is_upgraded: AtomicBool,
    /// The last response refuses its request.
    pub(super) is_refused: AtomicBool,
    /// The requests that hyper has received.
    pub(super) requests: AtomicU64,
    /// The first request that hyper would accept although it is malformed.
    problem: OnceLock<Problem>,
}

impl IoState {
    /// Counts a request that hyper has received, and returns what is wrong with its head.
    pub(super) fn receive_request(&self) -> Option<Malformed> {
        let number = self.requests.fetch_add(1, Relaxed) + 1;
        let problem = self.problem.get();
        problem
            .filter(|problem| problem.request == number && !problem.is_body)
            .map(|problem| problem.text)
    }

    /// Records whether the client accepted what was written.
    fn record_write<T>(&self, written: Poll<T>) -> Poll<T> {
        let mut blocked_since = self.blocked_since.lock();
        if written.is_pending() {
            blocked_since.get_or_insert_with(Instant::now);
        } else {
            *blocked_since = None;
        }
        written
    }
}

/// The byte stream of a connection.
pub(crate) struct Io<S> {
    stream: S,
    state: Arc<IoState>,
    framing: Framing,
    /// The rest of a response that is sent instead of hyper's.
    substitute: Bytes,
    /// Limits the time for the rest of a request after the response was sent.
    linger: Option<Pin<Box<Sleep>>>,
}

impl<S> Io<S> {
    pub(super) fn new(stream: S, state: Arc<IoState>) -> Self {
        Self {
            stream,
            state,
            framing: Framing::default(),
            substitute: Bytes::new(),
            linger: None,
        }
    }

    /// Returns the underlying stream.
    pub(crate) fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: Read + Unpin> Read for Io<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.state.is_upgraded.load(Relaxed) {
            return Pin::new(&mut this.stream).poll_read(cx, into);
        }
        if !this.framing.is_checking() {
            return match this.state.problem.get() {
                Some(problem) if problem.is_body => Poll::Ready(Err(malformed_body())),
                _ => Pin::new(&mut this.stream).poll_read(cx, into),
            };
        }
        let mut buffer = [MaybeUninit::uninit(); READ_BYTES];
        let length = into.remaining().min(READ_BYTES);
        let mut buffer = ReadBuf::uninit(&mut buffer[..length]);
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer.unfilled()))?;
        let mut bytes = buffer.filled();
        if let Err((problem, valid)) = this.framing.check(bytes) {
            let problem = *this.state.problem.get_or_init(|| problem);
            // The handler refuses a malformed head, once hyper has received it.
            if problem.is_body {
                bytes = &bytes[..valid];
                if bytes.is_empty() {
                    return Poll::Ready(Err(malformed_body()));
                }
            }
        }
        into.put_slice(bytes);
        Poll::Ready(Ok(()))
    }
}

impl<S: Read + Write + Unpin> Write for Io<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(written) = self.poll_substitute(cx, from) {
            return written;
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, from);
        self.state.record_write(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [first, ..] = from
            && let Some(written) = self.poll_substitute(cx, first)
        {
            return written;
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, from);
        self.state.record_write(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Ends the sending side. If the client may still be sending, discards that for a while: closing
    /// at once would reset the connection, and the client could lose the response.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            let state = &self.state;
            let may_send = state.is_receiving.load(Relaxed)
                || state.is_refused.load(Relaxed)
                || self.framing.has_more_than(state.requests.load(Relaxed));
            if !may_send || state.is_upgraded.load(Relaxed) {
                return Poll::Ready(Ok(()));
            }
        }
        let this = &mut *self;
        let linger = this
            .linger
            .get_or_insert_with(|| Box::pin(sleep(LINGER_TIMEOUT)));
        if linger.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        loop {
            let mut discarded = [0; 8 * 1024];
            let mut discarded = ReadBuf::new(&mut discarded);
            match Pin::new(&mut this.stream).poll_read(cx, discarded.unfilled()) {
                Poll::Ready(Ok(())) if discarded.filled().is_empty() => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Ok(())),
                Poll::Pending => return linger.as_mut().poll(cx).map(Ok),
            }
        }
    }
}

impl<S: Write + Unpin> Io<S> {
    /// Sends a response with a text instead of the empty one that hyper sends for a head that it
    /// refuses. Returns `None` for other responses.
    fn poll_substitute(
        &mut self,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Option<Poll<io::Result<usize>>> {
        let refusal = match from.get(..EMPTY_400.len()) {
            Some(EMPTY_400) => MALFORMED,
            Some(EMPTY_431) => HEAD_TOO_LARGE,
            _ => return None,
        };
        let state = &self.state;
        let received = state.requests.load(Relaxed);
        if state.is_responding.load(Relaxed)
            || state.is_upgraded.load(Relaxed)
            || !self.framing.has_more_than(received)
            || !is_of_hyper(from)
        {
            return None;
        }
        if self.substitute.is_empty() {
            let problem = self.state.problem.get();
            let Refusal(status, text) = match problem {
                Some(problem) if problem.request == received + 1 && !problem.is_body => {
                    Refusal(StatusCode::BAD_REQUEST, problem.text.0)
                }
                _ => refusal,
            };
            let length = text.len() + 1;
            self.substitute = format!(
                "HTTP/1.1 {status}\r\nconnection: close\r\n\
                 content-type: text/plain; charset=utf-8\r\ncontent-length: {length}\r\n\r\n{text}\n"
            )
            .into();
        }
        while !self.substitute.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.substitute) {
                Poll::Ready(Ok(0)) => {
                    return Some(Poll::Ready(Err(io::ErrorKind::WriteZero.into())));
                }
                Poll::Ready(Ok(written)) => self.substitute.advance(written),
                Poll::Ready(Err(error)) => return Some(Poll::Ready(Err(error))),
                Poll::Pending => return Some(Poll::Pending),
            }
        }
        Some(Poll::Ready(Ok(from.len())))
    }
}

/// Returns the error with which reading a malformed body ends.
fn malformed_body() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

/// The refusal of a head that hyper cannot parse.
const MALFORMED: Refusal = Refusal(StatusCode::BAD_REQUEST, "malformed request");

/// The starts of hyper's own responses.
const EMPTY_400: &[u8] = b"HTTP/1.1 400 ";
const EMPTY_431: &[u8] = b"HTTP/1.1 431 ";

/// Returns whether a head is that of a response which hyper sends by itself: it closes the connection,
/// and has no body and no other fields.
fn is_of_hyper(head: &[u8]) -> bool {
    let Some(head) = std::str::from_utf8(head)
        .ok()
        .and_then(|head| head.strip_suffix("\r\n\r\n"))
    else {
        return false;
    };
    let fields = head
        .split("\r\n")
        .skip(1)
        .filter(|field| !field.starts_with("date: "));
    let mut fields: Vec<_> = fields.collect();
    fields.sort_unstable();
    fields == ["connection: close", "content-length: 0"]
}
