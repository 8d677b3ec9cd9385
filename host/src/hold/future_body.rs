//! A body that is made by a future, which runs only while the body is read.
//!
//! There is no task beside the connection's own: a client that does not read stops the
//! future, and one that is gone drops it with all it holds.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use parking_lot::Mutex;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame};

use spin_runtime::backend::{Body, BodyError};

/// Where the future puts what goes out next.
#[derive(Clone, Default)]
pub(crate) struct Outlet(Arc<Mutex<Option<Bytes>>>);

impl Outlet {
    /// Waits until there is room and puts `bytes` there.
    pub(crate) fn put(&self, bytes: Bytes) -> Put {
        Put {
            outlet: self.clone(),
            bytes: Some(bytes).filter(|bytes| !bytes.is_empty()),
        }
    }
}

/// See [`Outlet::put`].
pub(crate) struct Put {
    outlet: Outlet,
    bytes: Option<Bytes>,
}

impl Future for Put {
    type Output = ();

    /// No waker is kept: whoever takes what is there polls the future again.
    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut slot = this.outlet.0.lock();
        if this.bytes.is_none() {
            return Poll::Ready(());
        }
        if slot.is_some() {
            return Poll::Pending;
        }
        *slot = this.bytes.take();
        Poll::Ready(())
    }
}

/// A body of what the future puts into its outlet. It ends with the future; when that fails,
/// the connection is cut off, as there is no other way to say it within a body.
pub(crate) fn body<F>(make: impl FnOnce(Outlet) -> F) -> Body
where
    F: Future<Output = Result<(), BodyError>> + Send + 'static,
{
    let outlet = Outlet::default();
    Driven {
        future: Some(Box::pin(make(outlet.clone()))),
        outlet,
    }
    .boxed_unsync()
}

type Driver = Pin<Box<dyn Future<Output = Result<(), BodyError>> + Send>>;

struct Driven {
    future: Option<Driver>,
    outlet: Outlet,
}

impl HttpBody for Driven {
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
        let waiting = self.outlet.0.lock().take();
        match polled {
            Poll::Pending => match waiting {
                Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                None => Poll::Pending,
            },
            Poll::Ready(result) => {
                self.future = None;
                match (waiting, result) {
                    (_, Err(error)) => Poll::Ready(Some(Err(error))),
                    (Some(bytes), Ok(())) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                    (None, Ok(())) => Poll::Ready(None),
                }
            }
        }
    }
}
