//! Receives the messages of pub/sub channels.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

use futures_util::future::BoxFuture;
use redis::{
    PushInfo, PushKind, RedisResult,
    aio::{AsyncPushSender, MultiplexedConnection, SendError},
    cluster_async::ClusterConnection,
    from_redis_value,
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::warn;

use super::{keys::hash_tag, redis::in_time};
use crate::config::Limits;

/// The messages that may wait to be handled, in bytes.
const MAX_QUEUED_BYTES: usize = Limits::DEFAULT.bus_queue_bytes;

/// The channels of one command.
const CHANGED_AT_ONCE: usize = 500;

/// What a subscriber receives.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A message on a channel.
    Message { channel: String, payload: String },
    /// The subscription to a channel is confirmed. What is published later is received.
    Subscribed { channel: String },
    /// The subscription to a channel has ended, as when a cluster moves the channel to another node.
    Unsubscribed { channel: String },
    /// Messages are lost, because a connection was closed or too many have waited.
    Lost,
}

/// Connections with subscriptions.
pub(super) struct Subscriber {
    connection: Connection,
    events: Events,
}

/// The connections of a subscriber.
#[derive(Clone)]
pub(super) enum Connection {
    /// A connection to one server.
    Single(MultiplexedConnection),
    /// Connections to the nodes of a cluster, with subscriptions to sharded channels.
    Cluster(ClusterConnection),
}

/// Changes subscriptions.
pub(super) type Request = BoxFuture<'static, RedisResult<()>>;

#[derive(Clone, Copy)]
enum Change {
    Subscribe,
    Unsubscribe,
}

/// The receiving end of a queue of events.
pub(super) struct Events {
    receiver: UnboundedReceiver<Event>,
    queued_bytes: Arc<AtomicUsize>,
}

/// The sending end of a queue of events.
pub(super) struct EventSender {
    sender: UnboundedSender<Event>,
    queued_bytes: Arc<AtomicUsize>,
    /// Events were dropped.
    is_lossy: AtomicBool,
}

/// Returns both ends of a queue of events, which is bounded by bytes.
pub(super) fn event_queue() -> (EventSender, Events) {
    let (sender, receiver) = unbounded_channel();
    let queued_bytes = Arc::<AtomicUsize>::default();
    let sender = EventSender {
        sender,
        queued_bytes: queued_bytes.clone(),
        is_lossy: AtomicBool::new(false),
    };
    let events = Events {
        receiver,
        queued_bytes,
    };
    (sender, events)
}

impl Subscriber {
    /// Creates a subscriber whose connection pushes to the queue of `events`.
    pub(super) fn new(connection: Connection, events: Events) -> Self {
        Self { connection, events }
    }

    /// Returns requests that subscribe to channels. An [`Event::Subscribed`] follows for each channel.
    pub(super) fn subscribe(&self, channels: Vec<String>) -> Vec<Request> {
        self.requests(channels, Change::Subscribe)
    }

    /// Returns requests that unsubscribe from channels.
    pub(super) fn unsubscribe(&self, channels: Vec<String>) -> Vec<Request> {
        self.requests(channels, Change::Unsubscribe)
    }

    /// Returns one request for each part of the bus that may fail on its own.
    fn requests(&self, channels: Vec<String>, change: Change) -> Vec<Request> {
        let groups = match &self.connection {
            Connection::Single(_) => vec![channels],
            Connection::Cluster(_) => by_hash_tag(channels),
        };
        let requests = groups.into_iter().map(|channels| -> Request {
            let mut connection = self.connection.clone();
            Box::pin(async move {
                for channels in channels.chunks(CHANGED_AT_ONCE) {
                    in_time(connection.apply(change, channels)).await?;
                }
                Ok(())
            })
        });
        requests.collect()
    }

    /// Waits for the next event.
    pub(super) async fn next(&mut self) -> Event {
        let Some(event) = self.events.receiver.recv().await else {
            return Event::Lost;
        };
        self.events.queued_bytes.fetch_sub(event.size(), Relaxed);
        event
    }
}

impl Connection {
    async fn apply(&mut self, change: Change, channels: &[String]) -> RedisResult<()> {
        match (self, change) {
            (Self::Single(server), Change::Subscribe) => server.subscribe(channels).await,
            (Self::Single(server), Change::Unsubscribe) => server.unsubscribe(channels).await,
            (Self::Cluster(cluster), Change::Subscribe) => cluster.ssubscribe(channels).await,
            (Self::Cluster(cluster), Change::Unsubscribe) => cluster.sunsubscribe(channels).await,
        }
    }
}

/// Groups pub/sub channels by their hash tags.
fn by_hash_tag(channels: Vec<String>) -> Vec<Vec<String>> {
    let mut groups = BTreeMap::<Option<String>, Vec<String>>::new();
    for channel in channels {
        let tag = hash_tag(&channel).map(str::to_owned);
        groups.entry(tag).or_default().push(channel);
    }
    groups.into_values().collect()
}

impl Event {
    fn parse(push: PushInfo) -> Option<Self> {
        let mut values = push.data.into_iter();
        let mut text = || values.next().and_then(|value| from_redis_value(value).ok());
        match push.kind {
            PushKind::Message | PushKind::SMessage => Some(Self::Message {
                channel: text()?,
                payload: text()?,
            }),
            PushKind::Subscribe | PushKind::SSubscribe => {
                Some(Self::Subscribed { channel: text()? })
            }
            PushKind::Unsubscribe | PushKind::SUnsubscribe => {
                Some(Self::Unsubscribed { channel: text()? })
            }
            PushKind::Disconnection => Some(Self::Lost),
            _ => None,
        }
    }

    /// Returns the bytes that this occupies in the queue.
    fn size(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Message { channel, payload } => channel.len() + payload.len(),
                Self::Subscribed { channel } | Self::Unsubscribed { channel } => channel.len(),
                Self::Lost => 0,
            }
    }
}

impl AsyncPushSender for EventSender {
    fn send(&self, push: PushInfo) -> Result<(), SendError> {
        if self.is_lossy.load(Relaxed) {
            return Ok(());
        }
        let Some(mut event) = Event::parse(push) else {
            return Ok(());
        };
        if self.queued_bytes.load(Relaxed) + event.size() > MAX_QUEUED_BYTES {
            warn!("bus: messages arrive faster than they are delivered, connecting again");
            event = Event::Lost;
            self.is_lossy.store(true, Relaxed);
        }
        self.queued_bytes.fetch_add(event.size(), Relaxed);
        self.sender.send(event).map_err(|_| SendError)
    }
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::*;

    fn push(kind: PushKind, data: &[&str]) -> PushInfo {
        let data = data
            .iter()
            .map(|text| Value::BulkString(text.as_bytes().to_vec()));
        PushInfo {
            kind,
            data: data.collect(),
        }
    }

    #[test]
    fn pushes_become_events() {
        let (sender, mut events) = event_queue();
        for push in [
            push(PushKind::Subscribe, &["a", "1"]),
            push(PushKind::Message, &["a", "text"]),
            push(PushKind::Invalidate, &["a"]),
            push(PushKind::Disconnection, &[]),
        ] {
            sender.send(push).unwrap();
        }
        let (channel, payload) = ("a".to_owned(), "text".to_owned());
        for expected in [
            Event::Subscribed {
                channel: channel.clone(),
            },
            Event::Message { channel, payload },
            Event::Lost,
        ] {
            assert_eq!(events.receiver.try_recv(), Ok(expected));
        }
    }

    #[test]
    fn channels_are_grouped_by_hash_tags() {
        let channels = ["{a}1", "b", "{c}", "{a}2"].map(str::to_owned);
        let groups = by_hash_tag(channels.into());
        assert_eq!(groups, [vec!["b"], vec!["{a}1", "{a}2"], vec!["{c}"]]);
    }

    #[test]
    fn a_full_queue_loses_messages_and_reports_it_once() {
        let (sender, mut events) = event_queue();
        let text = "x".repeat(MAX_QUEUED_BYTES / 2);
        for _ in 0..4 {
            sender.send(push(PushKind::Message, &["a", &text])).unwrap();
        }
        let received: Vec<_> = std::iter::from_fn(|| events.receiver.try_recv().ok()).collect();
        assert_eq!(received.len(), 2);
        assert!(matches!(received[0], Event::Message { .. }));
        assert_eq!(received[1], Event::Lost);
    }
}
