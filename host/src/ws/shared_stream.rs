//! A byte stream that one task reads and several tasks write, such as a TLS connection or an HTTP/2
//! stream.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::timeout,
};

use crate::{config::Limits, ws::outbox::Connection};

/// The time limit for shutting a connection down, since its client may not read.
const CLOSE_TIMEOUT: Duration = Limits::DEFAULT.close_timeout;

/// A stream behind a lock. The stream is always polled with the same waker, which wakes all tasks that
/// wait for it.
pub(crate) struct SharedStream<S> {
    stream: Mutex<S>,
    waiting: Arc<Waiting>,
    waker: Waker,
}

/// The tasks that wait for the stream, and whether they have to.
#[derive(Default)]
struct Waiting {
    /// Reading has made no progress since the last time that the stream woke its waker.
    read_blocked: AtomicBool,
    /// Like `read_blocked`, for writing and flushing.
    write_blocked: AtomicBool,
    /// The stream's own buffer contains bytes that were not flushed yet.
    is_unflushed: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    /// Wakes both sides, since a TLS stream may have to read in order to write.
    fn wake_by_ref(self: &Arc<Self>) {
        self.read_blocked.store(false, SeqCst);
        self.write_blocked.store(false, SeqCst);
        self.reader.wake();
        self.writer.wake();
    }
}

impl<S> SharedStream<S> {
    pub(crate) fn new(stream: S) -> Self {
        let waiting = Arc::new(Waiting::default());
        Self {
            stream: Mutex::new(stream),
            waker: Waker::from(waiting.clone()),
            waiting,
        }
    }

    /// Polls the stream. Records in `blocked` whether it made no progress.
    fn poll<T>(
        &self,
        blocked: &AtomicBool,
        poll: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>>
    where
        S: Unpin,
    {
        let mut stream = self.stream.lock();
        // Set first: the stream may wake its waker as soon as it is polled.
        blocked.store(true, SeqCst);
        let polled = poll(
            Pin::new(&mut *stream),
            &mut Context::from_waker(&self.waker),
        );
        if polled.is_ready() {
            blocked.store(false, SeqCst);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> SharedStream<S> {
    /// Flushes the stream's own buffer.
    fn flush(&self) -> Poll<io::Result<()>> {
        let waiting = &*self.waiting;
        waiting.is_unflushed.store(true, SeqCst);
        let flushed = self.poll(&waiting.write_blocked, |stream, cx| stream.poll_flush(cx));
        if flushed.is_ready() {
            waiting.is_unflushed.store(false, SeqCst);
        }
        flushed
    }
}

fn ready_unless(blocked: &AtomicBool) -> Poll<io::Result<()>> {
    if blocked.load(SeqCst) {
        Poll::Pending
    } else {
        Poll::Ready(Ok(()))
    }
}

/// Returns a `WouldBlock` error instead of waiting.
fn or_would_block<T>(polled: Poll<io::Result<T>>) -> io::Result<T> {
    match polled {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl<S> Connection for SharedStream<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(buffer);
        or_would_block(self.poll(&self.waiting.read_blocked, |stream, cx| {
            stream.poll_read(cx, &mut buffer)
        }))?;
        Ok(buffer.filled().len())
    }

    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let polled = self.poll(&self.waiting.write_blocked, |stream, cx| match slices {
            [slice] => stream.poll_write(cx, slice),
            slices => stream.poll_write_vectored(cx, slices),
        });
        let written = or_would_block(polled)?;
        match self.flush() {
            Poll::Ready(result) => result.map(|()| written),
            // The session flushes the rest.
            Poll::Pending => Ok(written),
        }
    }

    fn is_flushed(&self) -> bool {
        !self.waiting.is_unflushed.load(SeqCst)
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.waiting.reader.register(cx.waker());
        ready_unless(&self.waiting.read_blocked)
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.waiting.writer.register(cx.waker());
        ready_unless(&self.waiting.write_blocked)
    }

    fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.waiting.writer.register(cx.waker());
        self.flush()
    }

    /// Sends the client a TLS `close_notify` alert or the end of the HTTP/2 stream.
    fn shutdown(self: Arc<Self>) {
        tokio::spawn(async move {
            let shutdown = poll_fn(|cx| {
                self.waiting.writer.register(cx.waker());
                self.poll(&self.waiting.write_blocked, |stream, cx| {
                    stream.poll_shutdown(cx)
                })
            });
            let _ = timeout(CLOSE_TIMEOUT, shutdown).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufWriter, duplex};

    use super::*;

    #[tokio::test]
    async fn readers_are_woken_by_input() {
        let (mut client, stream) = duplex(100);
        let stream = Arc::new(SharedStream::new(stream));
        let mut buffer = [0; 10];
        let blocked = stream.try_read(&mut buffer).unwrap_err();
        assert_eq!(blocked.kind(), io::ErrorKind::WouldBlock);
        let reading = tokio::spawn(async move {
            poll_fn(|cx| stream.poll_readable(cx)).await.unwrap();
            stream.try_read(&mut [0; 10]).unwrap()
        });
        tokio::task::yield_now().await;
        client.write_all(b"hello").await.unwrap();
        assert_eq!(reading.await.unwrap(), 5);
    }

    #[tokio::test]
    async fn writers_are_woken_by_space() {
        let (mut client, stream) = duplex(4);
        let stream = SharedStream::new(stream);
        let write = |bytes| stream.try_write(&[IoSlice::new(bytes)]);
        assert_eq!(write(b"hello").unwrap(), 4);
        let blocked = write(b"o").unwrap_err();
        assert_eq!(blocked.kind(), io::ErrorKind::WouldBlock);
        let mut buffer = [0; 4];
        let writable = poll_fn(|cx| stream.poll_writable(cx));
        let (writable, read) = tokio::join!(writable, client.read_exact(&mut buffer));
        writable.unwrap();
        read.unwrap();
        assert_eq!(write(b"o").unwrap(), 1);
    }

    #[tokio::test]
    async fn buffered_bytes_are_flushed_later() {
        let (mut client, stream) = duplex(4);
        // As TLS does, it accepts more than its connection.
        let stream = Arc::new(SharedStream::new(tokio::io::join(
            tokio::io::empty(),
            BufWriter::new(stream),
        )));
        assert_eq!(
            stream.try_write(&[IoSlice::new(b"hello world")]).unwrap(),
            11
        );
        assert!(!stream.is_flushed());
        let flushing = stream.clone();
        let flushing = tokio::spawn(async move { poll_fn(|cx| flushing.poll_flush(cx)).await });
        let mut buffer = [0; 11];
        client.read_exact(&mut buffer).await.unwrap();
        flushing.await.unwrap().unwrap();
        assert!(stream.is_flushed());
        assert_eq!(&buffer, b"hello world");
        stream.shutdown();
        assert_eq!(client.read(&mut buffer).await.unwrap(), 0);
    }
}
