//! Bodies that pass between the host and guests.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use wasmtime_wasi_http::{Error, WasiBody};

use super::worker::{Exit, Worker};
use crate::backend::{Body, BodyError};

/// Converts a body of the host for a guest.
pub(crate) fn to_guest(body: Body) -> WasiBody {
    if body.is_end_stream() {
        return http_body_util::Empty::new()
            .map_err(|never| match never {})
            .boxed_unsync();
    }
    body.map_err(|error| Error::InternalError(Some(error.to_string())))
        .boxed_unsync()
}

/// Converts a body that a guest sends to a server or to another component.
pub(crate) fn from_guest(body: WasiBody) -> Body {
    if body.is_end_stream() {
        return crate::backend::empty();
    }
    body.map_err(BodyError::from).boxed_unsync()
}

/// Converts the response body of a guest, whose instance runs until the body is dropped.
pub(crate) fn response(body: WasiBody, worker: Arc<Worker>) -> Body {
    if body.is_end_stream() && !worker.has_failed() {
        return crate::backend::empty();
    }
    worker.open_body();
    ResponseBody {
        body,
        worker,
        remaining: None,
    }
    .boxed_unsync()
}

/// Keeps the instance running and turns a failure of the guest into an error of the body.
struct ResponseBody {
    body: WasiBody,
    worker: Arc<Worker>,
    /// The remaining bytes, if the guest has declared the length.
    remaining: Option<u64>,
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let declared = self.body.size_hint().exact();
        if self.remaining.is_none() {
            self.remaining = declared;
        }
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        match frame {
            Some(Ok(frame)) => {
                self.worker.progress();
                if let (Some(remaining), Some(data)) = (&mut self.remaining, frame.data_ref()) {
                    *remaining = remaining.saturating_sub(data.len() as u64);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error.into()))),
            // When an instance exits, its streams close, which looks like the end of the body.
            None if self.remaining != Some(0) => match self.worker.exit() {
                Some(Exit::Failed(error)) => {
                    let error = format!("component failed during its response: {error:#}");
                    self.remaining = Some(0);
                    Poll::Ready(Some(Err(error.into())))
                }
                _ => Poll::Ready(None),
            },
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream() && (self.remaining == Some(0) || !self.worker.has_failed())
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.worker.close_body();
    }
}
