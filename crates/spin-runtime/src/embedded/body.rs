//! Bodies between the host and guests.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use wasmtime_wasi_http::{Error, WasiBody};

use super::worker::{End, Worker};
use crate::backend::{Body, BodyError};

/// A body of the host's as a guest reads it.
pub fn to_guest(body: Body) -> WasiBody {
    if body.is_end_stream() {
        return http_body_util::Empty::new()
            .map_err(|never| match never {})
            .boxed_unsync();
    }
    body.map_err(|error| Error::InternalError(Some(error.to_string())))
        .boxed_unsync()
}

/// A body that a guest sends to another server, or to another component.
pub fn from_guest(body: WasiBody) -> Body {
    if body.is_end_stream() {
        return crate::backend::empty();
    }
    body.map_err(BodyError::from).boxed_unsync()
}

/// A guest's answer as the host reads it.
pub fn answer(body: WasiBody, worker: Arc<Worker>) -> Body {
    if body.is_end_stream() && !matches!(worker.end(), Some(End::Failed(_))) {
        return crate::backend::empty();
    }
    worker.body_begins();
    Answer {
        body,
        worker,
        left: None,
    }
    .boxed_unsync()
}

/// Keeps the instance alive while it is read, and tells a body that broke off from a complete one.
struct Answer {
    body: WasiBody,
    worker: Arc<Worker>,
    /// Bytes still to come, when the guest announced their number.
    left: Option<u64>,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let announced = self.body.size_hint().exact();
        if self.left.is_none() {
            self.left = announced;
        }
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        match frame {
            Some(Ok(frame)) => {
                self.worker.progress();
                if let (Some(left), Some(data)) = (&mut self.left, frame.data_ref()) {
                    *left = left.saturating_sub(data.len() as u64);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error.into()))),
            // An instance that ends takes its channels with it, which looks like the end of a body.
            None if self.left != Some(0) => match self.worker.end() {
                Some(End::Failed(error)) => {
                    let error = format!("the component failed within its answer: {error:#}");
                    self.left = Some(0);
                    Poll::Ready(Some(Err(error.into())))
                }
                _ => Poll::Ready(None),
            },
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
            && (self.left == Some(0) || !matches!(self.worker.end(), Some(End::Failed(_))))
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.worker.body_ends();
    }
}
