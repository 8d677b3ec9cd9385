//! The WebSockets whose components handle typed frames, by their tokens.

use std::{collections::HashMap, mem, pin::Pin, sync::Arc, time::Duration};

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use grip::{CloseFrame, Event, Message, event::is_close_code};
use parking_lot::Mutex;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use uuid::Uuid;

use crate::{
    config::Limits,
    metrics::{close_reason::CloseReason, registry::Metrics},
    net::frame,
    pubsub::{
        channels::{Channels, Start, Subscription},
        filter::Filters,
    },
    ws::{outbox::Outbox, session::close_frame},
};

/// The most channels a WebSocket can subscribe to.
const MAX_SUBSCRIPTIONS: usize = Limits::DEFAULT.max_subscriptions;

/// The table of tokens. Clones share it.
///
/// A token has 128 random bits, which are the secret, and the name of the host.
#[derive(Clone)]
pub(crate) struct SocketTokens(Arc<Table>);

struct Table {
    host: Uuid,
    sockets: Mutex<HashMap<Arc<str>, Arc<TypedSocket>>>,
    metrics: Arc<Metrics>,
}

/// A WebSocket in the table.
struct TypedSocket {
    outbox: Arc<Outbox>,
    /// `None` once the token has ended.
    subscriptions: Mutex<Option<Vec<Subscription>>>,
}

/// Keeps a token valid until it is dropped.
pub(crate) struct TokenGuard {
    tokens: SocketTokens,
    token: Arc<str>,
    socket: Arc<TypedSocket>,
}

/// A command of a component for a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SocketCommand {
    /// Send a message or a control frame, or close the connection. On the bus, this is the event of
    /// WebSocket-over-HTTP in base64.
    #[serde(serialize_with = "encode_event", deserialize_with = "decode_event")]
    Send(Event),
    Subscribe(String),
    Unsubscribe(String),
}

impl SocketCommand {
    /// Returns the size of what is sent, in bytes.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Send(event) => event.content_len(),
            Self::Subscribe(channel) | Self::Unsubscribe(channel) => channel.len(),
        }
    }
}

/// The result of a [`SocketCommand`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SocketAnswer {
    Done,
    /// The WebSocket is not open.
    Lost,
    TooManySubscriptions,
    /// Another host holds the WebSocket, and does not answer.
    NoAnswer,
}

fn encode_event<S: Serializer>(event: &Event, serializer: S) -> Result<S::Ok, S::Error> {
    let event = grip::event::encode_all([event]);
    serializer.serialize_str(&BASE64_STANDARD.encode(event))
}

fn decode_event<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Event, D::Error> {
    let text = String::deserialize(deserializer)?;
    let bytes = BASE64_STANDARD.decode(text).map_err(D::Error::custom)?;
    // The component that sends it has the limit.
    let limits = grip::Limits {
        content: bytes.len(),
        events: bytes.len(),
    };
    let events = grip::event::decode_all(bytes.into(), limits).map_err(D::Error::custom)?;
    let event = events.into_iter().next();
    event.ok_or_else(|| D::Error::custom("expected an event"))
}

/// Completes when a command has taken effect on all hosts.
pub(crate) type Confirmation = Pin<Box<dyn Future<Output = ()> + Send>>;

impl SocketTokens {
    /// Creates an empty table.
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Table {
            host: Uuid::new_v4(),
            sockets: Mutex::default(),
            metrics,
        }))
    }

    /// Returns the name of this host in tokens.
    pub(crate) fn host(&self) -> Uuid {
        self.0.host
    }

    /// Returns the host that a token names.
    pub(crate) fn host_of(token: &str) -> Option<Uuid> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
        Uuid::from_slice(bytes.get(16..)?).ok()
    }

    /// Creates a token for a WebSocket.
    pub(super) fn register(&self, outbox: Arc<Outbox>) -> TokenGuard {
        let secret: [u8; 16] = rand::random();
        let bytes = [secret, self.0.host.into_bytes()].concat();
        let token: Arc<str> = BASE64_URL_SAFE_NO_PAD.encode(bytes).into();
        let socket = Arc::new(TypedSocket {
            outbox,
            subscriptions: Mutex::new(Some(Vec::new())),
        });
        let mut sockets = self.0.sockets.lock();
        sockets.insert(token.clone(), socket.clone());
        TokenGuard {
            tokens: self.clone(),
            token,
            socket,
        }
    }

    /// Executes a command for a WebSocket of this host. Subscriptions take effect at once here, and on
    /// other hosts after the confirmation, which waits for `timeout` at most.
    pub(crate) fn execute(
        &self,
        token: &str,
        command: SocketCommand,
        channels: &Channels,
        timeout: Duration,
    ) -> (SocketAnswer, Option<Confirmation>) {
        let socket = self.0.sockets.lock().get(token).cloned();
        let Some(socket) = socket else {
            return (SocketAnswer::Lost, None);
        };
        match command {
            SocketCommand::Send(event) => (self.send(&socket.outbox, event), None),
            SocketCommand::Subscribe(channel) => socket.subscribe(&channel, channels, timeout),
            SocketCommand::Unsubscribe(channel) => (socket.unsubscribe(&channel), None),
        }
    }

    fn send(&self, outbox: &Outbox, event: Event) -> SocketAnswer {
        let replied = &self.0.metrics.replied;
        let sent = match event {
            Event::Text(content) => outbox.try_send_message(Message::Text(content)),
            Event::Binary(content) => outbox.try_send_message(Message::Binary(content)),
            Event::Ping(content) => outbox.try_send(&frame::ping(content)),
            Event::Pong(content) => outbox.try_send(&frame::pong(content)),
            Event::Close(close) => {
                let close = close.filter(|CloseFrame { code, .. }| is_close_code(*code));
                return answer(outbox.close(close_frame(close), CloseReason::Backend));
            }
            Event::Disconnect => {
                return answer(outbox.disconnect(CloseReason::Backend));
            }
            Event::Open => None,
        };
        match sent {
            Some(bytes) => {
                replied.add(1, bytes);
                SocketAnswer::Done
            }
            None => SocketAnswer::Lost,
        }
    }
}

/// Returns the answer to a command that had an effect or came too late.
fn answer(had_effect: bool) -> SocketAnswer {
    if had_effect {
        SocketAnswer::Done
    } else {
        SocketAnswer::Lost
    }
}

impl TypedSocket {
    fn subscribe(
        &self,
        channel: &str,
        channels: &Channels,
        timeout: Duration,
    ) -> (SocketAnswer, Option<Confirmation>) {
        let mut subscriptions = self.subscriptions.lock();
        let Some(subscriptions) = &mut *subscriptions else {
            return (SocketAnswer::Lost, None);
        };
        if self.outbox.has_ended() {
            return (SocketAnswer::Lost, None);
        }
        let confirmation = |subscription: &Subscription| -> Option<Confirmation> {
            let is_joined = subscription.is_joined();
            (!is_joined).then(|| Box::pin(subscription.confirmed(timeout)) as Confirmation)
        };
        if let Some(subscription) = subscriptions.iter().find(|it| it.channel() == channel) {
            return (SocketAnswer::Done, confirmation(subscription));
        }
        if subscriptions.len() == MAX_SUBSCRIPTIONS {
            return (SocketAnswer::TooManySubscriptions, None);
        }
        let (outbox, filters) = (self.outbox.clone(), Filters::default());
        let subscription = channels.subscribe_from(channel, outbox, filters, Start::Live);
        let confirmation = confirmation(&subscription);
        subscriptions.push(subscription);
        (SocketAnswer::Done, confirmation)
    }

    fn unsubscribe(&self, channel: &str) -> SocketAnswer {
        match &mut *self.subscriptions.lock() {
            Some(subscriptions) => {
                subscriptions.retain(|subscription| subscription.channel() != channel);
                SocketAnswer::Done
            }
            None => SocketAnswer::Lost,
        }
    }
}

impl TokenGuard {
    pub(super) fn token(&self) -> &Arc<str> {
        &self.token
    }

    /// Delivers what the client had no room for.
    pub(super) fn catch_up(&self) {
        for subscription in self.socket.subscriptions.lock().iter().flatten() {
            subscription.catch_up();
        }
    }
}

impl Drop for TokenGuard {
    fn drop(&mut self) {
        self.tokens.0.sockets.lock().remove(&self.token);
        let subscriptions = mem::take(&mut *self.socket.subscriptions.lock());
        drop(subscriptions);
    }
}
