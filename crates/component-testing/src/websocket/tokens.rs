//! The WebSockets whose components handle typed frames, by their tokens.

use std::{collections::BTreeMap, future::ready, sync::Arc};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use grip::Item;
use parking_lot::Mutex;
use rand::{RngExt as _, rngs::StdRng};
use spin_runtime::websocket::{
    ChannelError, ChannelMessage, ConnectionLost, Frame, Pending, WebSockets,
};

use super::{
    client::{Client, ClientAction, Message},
    subscriptions::Subscriptions,
    typed_frames,
};
use crate::{
    channels::{Channels, Start},
    filter::Filters,
    publisher::Publisher,
    shuffle::Shuffle,
};

/// The most channels a WebSocket can subscribe to: the default of the host.
const MAX_SUBSCRIPTIONS: usize = 1000;

/// The table of tokens. Clones share it.
#[derive(Clone)]
pub(crate) struct SocketTokens(Arc<Table>);

struct Table {
    sockets: Mutex<BTreeMap<Arc<str>, TypedSocket>>,
    /// Creates tokens, which are those of the seed.
    rng: Mutex<StdRng>,
    /// The name of the host, which is a part of each token.
    host: [u8; 16],
    channels: Channels,
    publisher: Publisher,
    shuffle: Shuffle,
}

/// A WebSocket in the table. Clones share its state.
#[derive(Clone)]
struct TypedSocket {
    client: Client,
    subscriptions: Subscriptions,
}

/// Keeps a token valid until it is dropped.
pub(super) struct TokenGuard {
    tokens: SocketTokens,
    token: Arc<str>,
}

impl SocketTokens {
    /// Creates an empty table.
    pub(crate) fn new(
        mut rng: StdRng,
        channels: Channels,
        publisher: Publisher,
        shuffle: Shuffle,
    ) -> Self {
        Self(Arc::new(Table {
            sockets: Mutex::default(),
            host: rng.random(),
            rng: Mutex::new(rng),
            channels,
            publisher,
            shuffle,
        }))
    }

    /// Creates a token for the WebSocket of a client.
    pub(super) fn register(&self, client: Client) -> TokenGuard {
        let secret: [u8; 16] = self.0.rng.lock().random();
        let token = BASE64_URL_SAFE_NO_PAD.encode([secret, self.0.host].concat());
        let token: Arc<str> = token.into();
        let socket = TypedSocket {
            subscriptions: Subscriptions::new(client.clone()),
            client,
        };
        self.0.sockets.lock().insert(token.clone(), socket);
        TokenGuard {
            tokens: self.clone(),
            token,
        }
    }

    fn find(&self, token: &str) -> Result<TypedSocket, ConnectionLost> {
        let socket = self.0.sockets.lock().get(token).cloned();
        socket.ok_or(ConnectionLost)
    }

    fn add_subscription(&self, token: &str, channel: &str) -> Result<(), ChannelError> {
        let TypedSocket {
            client,
            subscriptions,
        } = self.find(token)?;
        if !client.is_connected() {
            return Err(ConnectionLost.into());
        }
        let subscribed = client.subscriptions();
        if subscribed.iter().any(|it| it == channel) {
            return Ok(());
        }
        if subscribed.len() == MAX_SUBSCRIPTIONS {
            return Err(ChannelError::TooManySubscriptions);
        }
        subscriptions.add(&self.0.channels, channel, Filters::default(), Start::Live);
        Ok(())
    }

    fn publish_message(
        &self,
        channel: String,
        message: ChannelMessage,
    ) -> Result<(), ChannelError> {
        let message = match message {
            ChannelMessage::Text(text) => grip::Message::Text(text.into()),
            ChannelMessage::Binary(data) => grip::Message::Binary(data.into()),
        };
        let item = Item::ws_message(channel, message);
        // The runtime does not name the component.
        let published = self.0.publisher.try_publish("", vec![item]);
        published.map_err(|failure| ChannelError::Other(failure.to_string()))
    }
}

impl TypedSocket {
    fn send(&self, frame: Frame) -> Result<(), ConnectionLost> {
        let client = &self.client;
        if !client.is_connected() {
            return Err(ConnectionLost);
        }
        match frame {
            Frame::Text(text) => client.receive(Message::Text(text)),
            Frame::Binary(data) => client.receive(Message::Binary(data.into())),
            // A client answers a ping itself, and shows neither.
            Frame::Ping(payload) => drop(client.act(ClientAction::Pong(payload.into()))),
            Frame::Pong(_) => {}
            Frame::Close(frame) => client.close(typed_frames::closed(frame)),
        }
        Ok(())
    }
}

impl WebSockets for SocketTokens {
    #[expect(
        clippy::async_yields_async,
        reason = "the caller waits for the order and for the result one after the other"
    )]
    fn send(
        &self,
        token: String,
        frame: Frame,
    ) -> Pending<'_, Pending<'static, Result<(), ConnectionLost>>> {
        Box::pin(async move {
            self.0.shuffle.delay().await;
            let sent = self.find(&token).and_then(|socket| socket.send(frame));
            let sent: Pending<'static, _> = Box::pin(ready(sent));
            sent
        })
    }

    fn subscribe(&self, token: String, channel: String) -> Pending<'_, Result<(), ChannelError>> {
        Box::pin(async move {
            self.0.shuffle.delay().await;
            self.add_subscription(&token, &channel)
        })
    }

    fn unsubscribe(&self, token: String, channel: String) -> Pending<'_, Result<(), ChannelError>> {
        Box::pin(async move {
            self.0.shuffle.delay().await;
            self.find(&token)?.subscriptions.remove(&channel);
            Ok(())
        })
    }

    fn publish(
        &self,
        channel: String,
        message: ChannelMessage,
    ) -> Pending<'_, Result<(), ChannelError>> {
        Box::pin(async move {
            self.0.shuffle.delay().await;
            self.publish_message(channel, message)
        })
    }
}

impl TokenGuard {
    pub(super) fn token(&self) -> &Arc<str> {
        &self.token
    }
}

impl Drop for TokenGuard {
    fn drop(&mut self) {
        let socket = self.tokens.0.sockets.lock().remove(&self.token);
        if let Some(socket) = socket {
            socket.subscriptions.clear();
        }
    }
}
