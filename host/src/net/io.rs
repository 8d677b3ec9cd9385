//! The byte stream of a connection: records whether the client reads, and ends the connection so that
//! the client gets the last response.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep};

use crate::{config::Limits, http::validate::HEAD_TOO_LARGE};

/// How long a client may continue to send a request body after the response.
const LINGER_TIMEOUT: Duration = Limits::DEFAULT.close_timeout;

/// What a stream shares with the connection that it belongs to.
#[derive(Default)]
pub(super) struct IoState {
    /// Since when the client has not read anything that was sent.
    pub(super) blocked_since: Mutex<Option<Instant>>,
    /// The body of an HTTP/1 request was not received to its end.
    pub(super) is_receiving: AtomicBool,
    /// A response of the host, rather than one of hyper, is in progress.
    pub(super) is_responding: AtomicBool,
}

impl IoState {
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
        into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
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

    /// Ends the sending side. If the client is still sending a request body, discards it for a
    /// while: closing at once would reset the connection, and the client could lose the response.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            if !self.state.is_receiving.load(Relaxed) {
                return Poll::Ready(Ok(()));
            }
        }
        let this = &mut *self;
        let linger = this
            .linger
            .get_or_insert_with(|| Box::pin(sleep(LINGER_TIMEOUT)));
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
    /// Sends a response with a text instead of the empty one that hyper sends for a head that exceeds
    /// its limits. Returns `None` for other responses.
    fn poll_substitute(
        &mut self,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Option<Poll<io::Result<usize>>> {
        if !from.starts_with(b"HTTP/1.1 431 ") || self.state.is_responding.load(Relaxed) {
            return None;
        }
        let is_empty =
            from.ends_with(b"\r\n\r\n") && from.windows(EMPTY.len()).any(|window| window == EMPTY);
        if !is_empty {
            return None;
        }
        if self.substitute.is_empty() {
            let text = HEAD_TOO_LARGE.1;
            let length = text.len() + 1;
            self.substitute = format!(
                "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\
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

/// The length of a response without a body, as hyper writes it.
const EMPTY: &[u8] = b"\r\ncontent-length: 0\r\n";
