//! Stores a response while it is sent to the client whose request has caused it.
//!
//! A task reads the body at the speed of the backend. A client that reads slowly, or disconnects,
//! keeps nobody waiting.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use spin_runtime::backend::{Body, BodyError};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::{Instant, timeout_at},
};
use tracing::{Instrument as _, debug};

use super::{
    entry::{Entry, Head},
    fetch::Fetch,
    resources::Resources,
};
use crate::config::Limits;

/// The time for a body to arrive.
const FILL_TIMEOUT: Duration = Limits::DEFAULT.cache_fill_timeout;

/// A part of a body, on its way to the client.
enum Part {
    Frame(Frame<Bytes>),
    Failed(BodyError),
    /// The rest of a body that is not stored.
    Rest(Body),
    End,
}

/// Memory of the cache that is reserved for an entry.
struct Reservation {
    resources: Arc<Resources>,
    bytes: usize,
}

impl Reservation {
    /// Reserves more memory. Returns whether there is enough.
    fn grow(&mut self, bytes: usize) -> bool {
        let has_room = self.resources.store.reserve(bytes);
        if has_room {
            self.bytes += bytes;
        }
        has_room
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.resources.store.release(self.bytes);
    }
}

/// A response that is being stored.
pub(super) struct Fill {
    fetch: Fetch,
    head: Head,
    content: BytesMut,
    /// The length of the content, if it is known.
    length: Option<usize>,
    max_bytes: usize,
    reservation: Reservation,
}

impl Fill {
    /// Prepares to store a response whose content has this length, if that is known. Returns the
    /// fetch if the response is too large.
    pub(super) fn new(fetch: Fetch, head: Head, length: Option<u64>) -> Result<Self, Box<Fetch>> {
        let max_bytes = fetch.resources.max_response_bytes;
        let length = match length.map(usize::try_from) {
            Some(Ok(length)) if length <= max_bytes => Some(length),
            Some(_) => return Err(Box::new(fetch)),
            None if fetch.resources.too_large.contains(&fetch.key) => return Err(Box::new(fetch)),
            None => None,
        };
        let mut reservation = Reservation {
            resources: fetch.resources.clone(),
            bytes: 0,
        };
        if !reservation.grow(head.bytes(&fetch.key) + length.unwrap_or(0)) {
            return Err(Box::new(fetch));
        }
        Ok(Self {
            fetch,
            head,
            content: BytesMut::with_capacity(length.unwrap_or(0)),
            length,
            max_bytes,
            reservation,
        })
    }

    /// Stores the content of `body`, and returns a body with the same frames.
    pub(super) fn start(self, body: Body) -> Body {
        let remaining = self.length;
        let (sender, parts) = unbounded_channel();
        let stop = self.fetch.resources.stop.clone();
        let run = async move {
            stop.run_until_cancelled(self.run(body, sender)).await;
        };
        tokio::spawn(run.in_current_span());
        StreamedBody {
            parts,
            rest: None,
            remaining,
            has_ended: false,
        }
        .boxed_unsync()
    }

    /// Reads the body. The client may be gone, so sending to it may fail.
    async fn run(mut self, mut body: Body, client: UnboundedSender<Part>) {
        let deadline = Instant::now() + FILL_TIMEOUT;
        let last = loop {
            if self.is_full() {
                break None;
            }
            let Ok(frame) = timeout_at(deadline, body.frame()).await else {
                debug!("response not stored: the body did not end in time");
                self.decline();
                let _ = client.send(Part::Rest(body));
                return;
            };
            match frame {
                None => {
                    if self.length.is_none() {
                        self.complete();
                    } else {
                        self.fail();
                    }
                    let _ = client.send(Part::End);
                    return;
                }
                Some(Err(error)) => {
                    self.fail();
                    let _ = client.send(Part::Failed(error));
                    return;
                }
                Some(Ok(frame)) => {
                    // Trailers would be missing in responses from the cache.
                    if !frame.data_ref().is_some_and(|data| self.push(data)) {
                        self.decline();
                        let _ = client.send(Part::Frame(frame));
                        let _ = client.send(Part::Rest(body));
                        return;
                    }
                    if self.is_full() {
                        break Some(frame);
                    }
                    let _ = client.send(Part::Frame(frame));
                }
            }
        };
        // Stored before the client has the whole response, so that its next request finds it.
        self.complete();
        if let Some(frame) = last {
            let _ = client.send(Part::Frame(frame));
        }
        let _ = client.send(Part::Rest(body));
    }

    /// Returns whether the content has its declared length.
    fn is_full(&self) -> bool {
        self.length == Some(self.content.len())
    }

    /// Appends data. Returns `false` if the response becomes too large.
    fn push(&mut self, data: &[u8]) -> bool {
        let length = self.content.len() + data.len();
        let has_room = match self.length {
            Some(expected) => length <= expected,
            None => length <= self.max_bytes && self.reservation.grow(data.len()),
        };
        if has_room {
            self.content.extend_from_slice(data);
        } else {
            let fetch = &self.fetch;
            fetch.resources.too_large.insert(&fetch.key);
        }
        has_room
    }

    fn complete(self) {
        let Self {
            fetch,
            head,
            content,
            reservation,
            ..
        } = self;
        // Without the unused end of the buffer.
        let content = if content.len() == content.capacity() {
            content.freeze()
        } else {
            Bytes::copy_from_slice(&content)
        };
        // The entry counts from now on.
        drop(reservation);
        fetch.complete(|key| Entry::new(key, head, content));
    }

    fn decline(self) {
        self.fetch.decline();
    }

    fn fail(self) {
        self.fetch.fail();
    }
}

/// The body for the client.
struct StreamedBody {
    parts: UnboundedReceiver<Part>,
    /// The rest of the body, once it is not stored any more.
    rest: Option<Body>,
    /// The remaining length, if it is known.
    remaining: Option<usize>,
    has_ended: bool,
}

impl HttpBody for StreamedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            if self.has_ended {
                return Poll::Ready(None);
            }
            if let Some(rest) = &mut self.rest {
                return Pin::new(rest).poll_frame(cx);
            }
            let part = ready!(self.parts.poll_recv(cx));
            match part {
                Some(Part::Frame(frame)) => {
                    if let (Some(remaining), Some(data)) = (&mut self.remaining, frame.data_ref()) {
                        *remaining = remaining.saturating_sub(data.len());
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Some(Part::Rest(rest)) => self.rest = Some(rest),
                Some(Part::End) => self.has_ended = true,
                Some(Part::Failed(error)) => {
                    self.has_ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
                // The host is dropped, or the task has panicked.
                None => {
                    self.has_ended = true;
                    return Poll::Ready(Some(Err("the response ended early".into())));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended || self.rest.as_ref().is_some_and(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.rest, self.remaining) {
            (Some(rest), _) => rest.size_hint(),
            (None, Some(remaining)) => SizeHint::with_exact(remaining as u64),
            (None, None) => SizeHint::default(),
        }
    }
}
