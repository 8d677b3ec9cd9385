//! A body that a future produces.
//!
//! The future is polled only while the body is read, in the task of the connection. A client that
//! does not read suspends it. A client that disconnects drops it.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame};
use parking_lot::Mutex;
use spin_runtime::backend::{Body, BodyError};

/// Sends data from the future to its body. It buffers one chunk.
#[derive(Clone, Default)]
pub(crate) struct BodySender(Arc<Mutex<Option<Bytes>>>);

impl BodySender {
    /// Waits until the previous chunk was read, then buffers the next. Empty chunks are skipped.
    pub(crate) fn send(&self, chunk: Bytes) -> SendChunk {
        SendChunk {
            sender: self.clone(),
            chunk: Some(chunk).filter(|chunk| !chunk.is_empty()),
        }
    }
}

/// The future of [`BodySender::send`].
pub(crate) struct SendChunk {
    sender: BodySender,
    chunk: Option<Bytes>,
}

impl Future for SendChunk {
    type Output = ();

    /// Needs no waker: the body takes the buffered chunk and then polls the future again.
    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut buffer = this.sender.0.lock();
        if this.chunk.is_none() {
            return Poll::Ready(());
        }
        if buffer.is_some() {
            return Poll::Pending;
        }
        *buffer = this.chunk.take();
        Poll::Ready(())
    }
}

/// Returns the body that the future of `make` sends data to.
///
/// The body ends when the future does. If the future fails, the body fails, and the connection is
/// closed: HTTP has no other way to report an error within a body.
pub(crate) fn from_future<F>(make: impl FnOnce(BodySender) -> F) -> Body
where
    F: Future<Output = Result<(), BodyError>> + Send + 'static,
{
    let buffer = BodySender::default();
    FutureBody {
        future: Some(Box::pin(make(buffer.clone()))),
        buffer,
    }
    .boxed_unsync()
}

type Producer = Pin<Box<dyn Future<Output = Result<(), BodyError>> + Send>>;

struct FutureBody {
    /// `None` once it has ended.
    future: Option<Producer>,
    buffer: BodySender,
}

impl HttpBody for FutureBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = match &mut self.future {
            Some(future) => future.as_mut().poll(cx),
            None => return Poll::Ready(None),
        };
        let chunk = self.buffer.0.lock().take();
        match polled {
            Poll::Pending => match chunk {
                Some(chunk) => Poll::Ready(Some(Ok(Frame::data(chunk)))),
                None => Poll::Pending,
            },
            Poll::Ready(result) => {
                self.future = None;
                match (chunk, result) {
                    (_, Err(error)) => Poll::Ready(Some(Err(error))),
                    (Some(chunk), Ok(())) => Poll::Ready(Some(Ok(Frame::data(chunk)))),
                    (None, Ok(())) => Poll::Ready(None),
                }
            }
        }
    }
}
