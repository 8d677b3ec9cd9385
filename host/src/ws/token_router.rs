//! Executes what components want of WebSockets, on the host that a token names.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use grip::{Item, Message};
use spin_runtime::websocket::{
    ChannelError, ChannelMessage, ConnectionLost, Frame, Pending, WebSockets,
};
use tracing::warn;

use crate::{
    bus::Bus,
    config::Limits,
    pubsub::channels::Channels,
    state::publisher::Publisher,
    ws::{
        tokens::{SocketAnswer, SocketCommand, SocketTokens},
        typed_frames,
    },
};

/// The largest content of a frame for a WebSocket of another host, in bytes. Redis disconnects a host for
/// which too much waits.
const MAX_FORWARDED_BYTES: usize = Limits::DEFAULT.max_publish_bytes;

/// The WebSockets of all hosts that share a bus, for components.
///
/// The runtime is created before the channels and the bus, so these are set later. Until then, there are
/// no WebSockets.
#[derive(Default)]
pub(crate) struct TokenRouter(OnceLock<RouterParts>);

/// The parts of a host that a [`TokenRouter`] needs.
pub(crate) struct RouterParts {
    pub(crate) tokens: SocketTokens,
    pub(crate) channels: Channels,
    pub(crate) bus: Option<Arc<Bus>>,
    pub(crate) publisher: Publisher,
}

impl TokenRouter {
    /// Sets the parts, once.
    pub(crate) fn set_parts(&self, parts: RouterParts) {
        // Only fails if they are set already.
        let _ = self.0.set(parts);
    }

    /// Executes a command. The first future is ready when the command has its place among those for the
    /// same WebSocket, and the second one when there is an answer.
    async fn execute(
        &self,
        token: String,
        command: SocketCommand,
    ) -> Pending<'static, SocketAnswer> {
        let lost: Pending<'static, _> = Box::pin(async { SocketAnswer::Lost });
        let (Some(parts), Some(host)) = (self.0.get(), SocketTokens::host_of(&token)) else {
            return lost;
        };
        if host == parts.tokens.host() {
            let bus = parts.bus.as_ref();
            let timeout = bus.map_or(Duration::ZERO, |bus| bus.confirmation_timeout());
            let executed = parts
                .tokens
                .execute(&token, command, &parts.channels, timeout);
            let (answer, confirmation) = executed;
            return Box::pin(async move {
                if let Some(confirmation) = confirmation {
                    confirmation.await;
                }
                answer
            });
        }
        if command.size() > MAX_FORWARDED_BYTES {
            warn!(
                limit = MAX_FORWARDED_BYTES,
                "frame for another host dropped: too large"
            );
            return lost;
        }
        match &parts.bus {
            Some(bus) => bus.ask_for_socket(host, token, command).await,
            None => lost,
        }
    }

    async fn update_subscription(
        &self,
        token: String,
        command: SocketCommand,
    ) -> Result<(), ChannelError> {
        match self.execute(token, command).await.await {
            SocketAnswer::Done => Ok(()),
            SocketAnswer::Lost => Err(ConnectionLost.into()),
            SocketAnswer::TooManySubscriptions => Err(ChannelError::TooManySubscriptions),
            SocketAnswer::NoAnswer => {
                let error = "the host that holds the WebSocket does not answer";
                Err(ChannelError::Other(error.into()))
            }
        }
    }
}

impl WebSockets for TokenRouter {
    #[expect(
        clippy::async_yields_async,
        reason = "the caller waits for the order and for the result one after the other"
    )]
    fn send(
        &self,
        token: String,
        frame: Frame,
    ) -> Pending<'_, Pending<'static, Result<(), ConnectionLost>>> {
        let command = SocketCommand::Send(typed_frames::to_event(frame));
        Box::pin(async move {
            let answer = self.execute(token, command).await;
            let sent: Pending<'static, _> = Box::pin(async move {
                match answer.await {
                    SocketAnswer::Done => Ok(()),
                    _ => Err(ConnectionLost),
                }
            });
            sent
        })
    }

    fn subscribe(&self, token: String, channel: String) -> Pending<'_, Result<(), ChannelError>> {
        Box::pin(self.update_subscription(token, SocketCommand::Subscribe(channel)))
    }

    fn unsubscribe(&self, token: String, channel: String) -> Pending<'_, Result<(), ChannelError>> {
        Box::pin(self.update_subscription(token, SocketCommand::Unsubscribe(channel)))
    }

    fn publish(
        &self,
        channel: String,
        message: ChannelMessage,
    ) -> Pending<'_, Result<(), ChannelError>> {
        Box::pin(async move {
            let Some(parts) = self.0.get() else {
                return Err(ChannelError::Other("the host is starting".into()));
            };
            let message = match message {
                ChannelMessage::Text(text) => Message::Text(text.into()),
                ChannelMessage::Binary(data) => Message::Binary(data.into()),
            };
            let item = Item::ws_message(channel, message);
            let published = parts.publisher.publish(vec![item]).await;
            published.map_err(|error| ChannelError::Other(error.to_string()))
        })
    }
}
