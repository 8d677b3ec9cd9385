//! Tracks the progress of request bodies.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use spin_runtime::backend::{Body, BodyError};
use tokio::time::Instant;

/// Records when a body was last read. Clones share the record.
#[derive(Clone, Default)]
pub(crate) struct Progress(Arc<Mutex<Option<Instant>>>);

impl Progress {
    /// Returns the body, with its progress tracked.
    pub(crate) fn track(&self, body: Body) -> Body {
        if http_body::Body::is_end_stream(&body) {
            return body;
        }
        let progress = self.clone();
        TrackedBody { body, progress }.boxed_unsync()
    }

    /// Returns when the last frame, or the end, was read. `None` if nothing was read yet.
    pub(crate) fn last(&self) -> Option<Instant> {
        *self.0.lock()
    }
}

struct TrackedBody {
    body: Body,
    progress: Progress,
}

impl http_body::Body for TrackedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if frame.is_ready() {
            *self.progress.0.lock() = Some(Instant::now());
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
