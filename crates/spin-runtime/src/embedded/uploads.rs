//! Requests whose body is still arriving.
//!
//! Such a request occupies an instance until its client has sent the body. These requests therefore
//! share a part of a component's capacity, and each client has a smaller part.

use std::{
    collections::HashMap,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use wasmtime_wasi_http::{Error, WasiBody};

use super::{capacity::WaitingRequests, worker::SharedRequest};
use crate::{
    backend::{Body, BodyError, RequestBodyError},
    limits::Limits,
};

/// The slots of a component for requests whose body is still arriving.
pub(crate) struct UploadSlots {
    slots: Arc<Semaphore>,
    slots_per_client: usize,
    /// The requests that wait for a slot.
    waiting: WaitingRequests,
    /// The requests of one client that may wait for its slots.
    max_waiting: usize,
    clients: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
}

/// A slot, which is free again when this is dropped.
pub(crate) struct UploadSlot {
    _slot: OwnedSemaphorePermit,
    _client_slot: Option<ClientSlot>,
}

/// A slot of a client, or the wait for it.
struct ClientSlot {
    client: IpAddr,
    slots: Arc<UploadSlots>,
    permit: Option<OwnedSemaphorePermit>,
}

impl UploadSlots {
    /// Creates the slots of a component that serves at most `max_requests` at the same time.
    pub(crate) fn new(max_requests: usize, limits: &Limits) -> Arc<Self> {
        let share = |percent: usize| (max_requests.saturating_mul(percent) / 100).max(1);
        let slots = share(limits.upload_percent).min(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            slots: Arc::new(Semaphore::new(slots)),
            slots_per_client: share(limits.upload_percent_per_client).min(slots),
            waiting: WaitingRequests::new(limits.waiting_requests),
            max_waiting: limits.waiting_requests,
            clients: Mutex::default(),
        })
    }

    /// Waits for a slot. `client` has a limit of its own. Returns `None` if too many requests wait.
    pub(crate) async fn acquire(self: &Arc<Self>, client: Option<IpAddr>) -> Option<UploadSlot> {
        let client_slot = match client {
            Some(client) => Some(self.acquire_of_client(client).await?),
            None => None,
        };
        let _waiting = self.waiting.try_add(self.slots.available_permits())?;
        Some(UploadSlot {
            _slot: self.slots.clone().acquire_owned().await.ok()?,
            _client_slot: client_slot,
        })
    }

    async fn acquire_of_client(self: &Arc<Self>, client: IpAddr) -> Option<ClientSlot> {
        let slots = self
            .clients
            .lock()
            .entry(client)
            .or_insert_with(|| Arc::new(Semaphore::new(self.slots_per_client)))
            .clone();
        // Occupied slots, and requests that wait for one, hold a reference too.
        if Arc::strong_count(&slots) > self.slots_per_client + self.max_waiting {
            return None;
        }
        let mut slot = ClientSlot {
            client,
            slots: self.clone(),
            permit: None,
        };
        slot.permit = Some(slots.acquire_owned().await.ok()?);
        Some(slot)
    }
}

impl Drop for ClientSlot {
    fn drop(&mut self) {
        self.permit = None;
        let mut clients = self.slots.clients.lock();
        // Occupied slots, and requests that wait for one, hold a reference too.
        if clients.get(&self.client).map(Arc::strong_count) == Some(1) {
            clients.remove(&self.client);
        }
    }
}

/// How the body of a request is arriving.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct UploadProgress {
    /// When a part of it was last read.
    pub(crate) last_read: Option<Instant>,
    /// Whether the guest waits for a part of it.
    pub(crate) is_awaited: bool,
    /// Why it ended early.
    pub(crate) error: Option<RequestBodyError>,
}

/// The body of a request, of which a part may have been received already.
pub(crate) struct StartedBody {
    first: Option<Frame<Bytes>>,
    rest: Body,
}

impl From<Body> for StartedBody {
    fn from(body: Body) -> Self {
        Self {
            first: None,
            rest: body,
        }
    }
}

impl StartedBody {
    /// Receives the first part.
    ///
    /// # Errors
    /// Fails if the body ends early.
    pub(crate) async fn start(&mut self) -> Result<(), RequestBodyError> {
        let first = self.rest.frame().await.transpose();
        self.first = first.map_err(|error| cause(&error))?;
        Ok(())
    }
}

/// Converts the body of a request for a guest. It occupies `slot` until it has arrived, and its
/// progress is recorded in `request`.
pub(crate) fn to_guest(
    body: StartedBody,
    request: Arc<SharedRequest>,
    slot: Option<UploadSlot>,
) -> WasiBody {
    if body.first.is_none() && body.rest.is_end_stream() {
        return http_body_util::Empty::new()
            .map_err(|never| match never {})
            .boxed_unsync();
    }
    RequestBody {
        body,
        request,
        slot,
    }
    .boxed_unsync()
}

struct RequestBody {
    body: StartedBody,
    request: Arc<SharedRequest>,
    slot: Option<UploadSlot>,
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = match self.body.first.take() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => Pin::new(&mut self.body.rest).poll_frame(cx),
        };
        let error = match &frame {
            Poll::Ready(Some(Err(error))) => Some(cause(error)),
            _ => None,
        };
        self.request.record_upload(frame.is_ready(), error);
        if error.is_some() || matches!(frame, Poll::Ready(None)) || self.is_end_stream() {
            self.slot = None;
        }
        frame.map_err(|error| Error::InternalError(Some(error.to_string())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.first.is_none() && self.body.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body.first {
            Some(_) => SizeHint::new(),
            None => self.body.rest.size_hint(),
        }
    }
}

fn cause(error: &BodyError) -> RequestBodyError {
    let error = error.downcast_ref::<RequestBodyError>();
    error.copied().unwrap_or(RequestBodyError::Incomplete)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn ip(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([203, 0, 113, last]))
    }

    #[tokio::test]
    async fn uploads_leave_capacity_for_other_requests_and_clients() {
        let limits = Limits {
            upload_percent: 50,
            upload_percent_per_client: 20,
            ..Limits::DEFAULT
        };
        let slots = UploadSlots::new(10, &limits);
        let acquire = |client| slots.acquire(client).now_or_never().flatten();
        let mut held = vec![acquire(ip(1)), acquire(ip(1))];
        assert!(held.iter().all(Option::is_some));
        assert!(acquire(ip(1)).is_none(), "the client's share");
        held.extend([acquire(ip(2)), acquire(ip(2)), acquire(ip(3))]);
        assert!(held.iter().all(Option::is_some));
        assert!(acquire(ip(4)).is_none(), "the share of all uploads");
        drop(held.remove(0));
        let again = acquire(ip(4));
        assert!(again.is_some());
        drop((held, again));
        assert!(slots.clients.lock().is_empty());
    }

    #[tokio::test]
    async fn a_proxy_has_no_share_of_its_own() {
        let slots = UploadSlots::new(10, &Limits::DEFAULT);
        let held: Vec<_> = (0..5)
            .map(|_| slots.acquire(None).now_or_never().flatten())
            .collect();
        assert!(held.iter().all(Option::is_some));
        assert!(slots.acquire(None).now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_component_always_has_a_slot() {
        let slots = UploadSlots::new(1, &Limits::DEFAULT);
        assert!(slots.acquire(ip(1)).now_or_never().flatten().is_some());
    }
}
