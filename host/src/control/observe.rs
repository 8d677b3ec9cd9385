//! Sends clients of the control port what is published to a channel, as server-sent events.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::json;
use spin_runtime::backend::{Body, BodyError};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Interval, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{parameters::number, unavailable};
use crate::{
    config::Limits,
    pubsub::{channels::Subscription, publication::Publication, shard::HoldSubscriber},
    state::Services,
};

/// The items that wait for a client.
const MAX_ITEMS: usize = Limits::DEFAULT.max_observed_items;

/// How often a client gets a comment, so that connections that have broken are noticed.
const COMMENT_INTERVAL: Duration = Duration::from_secs(15);

/// The clients that observe channels.
pub(super) struct Observers(Arc<Semaphore>);

/// Puts items into the queue of a client.
struct Observer {
    queue: mpsc::Sender<Arc<Publication>>,
    dropped: Arc<AtomicUsize>,
}

/// What a response sends.
struct Events {
    queue: mpsc::Receiver<Arc<Publication>>,
    /// The items that were dropped since the client was notified of that.
    dropped: Arc<AtomicUsize>,
    comments: Interval,
    stop: CancellationToken,
    _subscription: Subscription,
    _permit: OwnedSemaphorePermit,
}

impl Default for Observers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(Limits::DEFAULT.max_observers)))
    }
}

impl Observers {
    /// Responds with the items of a channel until `stop`: the newest ones of its history that the request
    /// asks for, and then what is published.
    pub(super) async fn respond<B>(
        &self,
        services: &Services,
        request: &Request<B>,
        channel: &str,
        stop: CancellationToken,
    ) -> Response<Body> {
        let recent = match number(request, "recent", 0, MAX_ITEMS) {
            Ok(recent) => recent,
            Err(refusal) => return *refusal,
        };
        let Ok(permit) = self.0.clone().try_acquire_owned() else {
            return unavailable("too many clients observe channels, try again later");
        };
        // Reads the history from the bus first, which another subscription then has.
        let joining = services.channels.observe(channel, Arc::new(Joining), 0);
        let timeout = services.confirmation_timeout();
        joining.confirmed(timeout).await;
        let (sender, queue) = mpsc::channel(MAX_ITEMS);
        let dropped = Arc::new(AtomicUsize::new(0));
        let observer = Observer {
            queue: sender,
            dropped: dropped.clone(),
        };
        let observer = Arc::new(observer);
        let subscription = services.channels.observe(channel, observer, recent as u64);
        let mut comments = interval(COMMENT_INTERVAL);
        comments.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let events = Events {
            queue,
            dropped,
            comments,
            stop,
            _subscription: subscription,
            _permit: permit,
        };
        let frames = stream::unfold(events, async |mut events| {
            let event = events.next().await?;
            Some((Ok::<_, BodyError>(Frame::data(event)), events))
        });
        let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
        *response.status_mut() = StatusCode::OK;
        let headers = response.headers_mut();
        let event_stream = HeaderValue::from_static("text/event-stream");
        headers.insert(header::CONTENT_TYPE, event_stream);
        let no_store = HeaderValue::from_static("no-store");
        headers.insert(header::CACHE_CONTROL, no_store);
        response
    }
}

impl Events {
    /// Waits for the next event. Returns `None` if there are no more.
    async fn next(&mut self) -> Option<Bytes> {
        // Those before the ones that were dropped are still in the queue.
        if self.queue.is_empty() {
            let dropped = self.dropped.swap(0, Relaxed);
            if dropped > 0 {
                let data = json!({ "dropped": dropped });
                return Some(format!("event: dropped\ndata: {data}\n\n").into());
            }
        }
        tokio::select! {
            publication = self.queue.recv() => {
                let item = json!(publication?.item());
                Some(format!("data: {item}\n\n").into())
            }
            // The first one is sent at once, and with it the head of the response.
            _ = self.comments.tick() => Some(Bytes::from_static(b":\n\n")),
            () = self.stop.cancelled() => None,
        }
    }
}

impl HoldSubscriber for Observer {
    fn deliver(&self, publication: &Arc<Publication>) {
        // An item without a form is not valid, such as one whose hint concerns no client.
        if publication.is_empty() {
            return;
        }
        if self.queue.try_send(publication.clone()).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }
}

/// Makes the channel join the bus.
struct Joining;

impl HoldSubscriber for Joining {
    fn deliver(&self, _: &Arc<Publication>) {}
}
