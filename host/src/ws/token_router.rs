//! Executes what components want of WebSockets, on the host that a token names.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use grip::{Item, Message, publish::WsAction};
use spin_runtime::websocket::{
    ChannelError, ChannelMessage, ConnectionLost, Frame, Pending, WebSockets,
};

use crate::{
    bus::Bus,
    pubsub::channels::Channels,
    state::publisher::Publisher,
    ws::{
        tokens::{SocketAnswer, SocketCommand, SocketTokens},
        typed_frames,
    },
};

/// The WebSockets of all hosts that share a bus, for components.
///
/// The runtime needs it before what it leads to exists. Until then there are no WebSockets.
#[derive(Default)]
pub(crate) struct TokenRouter(OnceLock<SocketLinks>);

/// What a [`TokenRouter`] leads to.
pub(crate) struct SocketLinks {
    pub(crate) tokens: SocketTokens,
    pub(crate) channels: Channels,
    pub(crate) bus: Option<Arc<Bus>>,
    pub(crate) publisher: Publisher,
}

impl TokenRouter {
    /// Sets what it leads to, once.
    pub(crate) fn connect(&self, links: SocketLinks) {
        // Only fails if it is connected already.
        let _ = self.0.set(links);
    }

    /// Executes a command. The first future is ready when the command has its place among those for the
    /// same WebSocket, and the second one when there is an answer.
    async fn execute(
        &self,
        token: String,
        command: SocketCommand,
    ) -> Pending<'static, SocketAnswer> {
        let lost: Pending<'static, _> = Box::pin(async { SocketAnswer::Lost });
        let (Some(links), Some(host)) = (self.0.get(), SocketTokens::host_of(&token)) else {
            return lost;
        };
        if host == links.tokens.host() {
            let bus = links.bus.as_ref();
            let timeout = bus.map_or(Duration::ZERO, |bus| bus.confirmation_timeout());
            let executed = links
                .tokens
                .execute(&token, command, &links.channels, timeout);
            let (answer, confirmation) = executed;
            return Box::pin(async move {
                if let Some(confirmation) = confirmation {
                    confirmation.await;
                }
                answer
            });
        }
        match &links.bus {
            Some(bus) => bus.ask_for_socket(host, token, command).await,
            None => lost,
        }
    }

    async fn change(&self, token: String, command: SocketCommand) -> Result<(), ChannelError> {
        match self.execute(token, command).await.await {
            SocketAnswer::Done => Ok(()),
            SocketAnswer::Lost => Err(ConnectionLost.into()),
            SocketAnswer::TooManySubscriptions => Err(ChannelError::TooManySubscriptions),
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
        Box::pin(async move {
            check_name(&channel)?;
            self.change(token, SocketCommand::Subscribe(channel)).await
        })
    }

    fn unsubscribe(&self, token: String, channel: String) -> Pending<'_, Result<(), ChannelError>> {
        Box::pin(self.change(token, SocketCommand::Unsubscribe(channel)))
    }

    fn publish(
        &self,
        channel: String,
        message: ChannelMessage,
    ) -> Pending<'_, Result<(), ChannelError>> {
        Box::pin(async move {
            check_name(&channel)?;
            let Some(links) = self.0.get() else {
                return Err(ChannelError::Other("the host is starting".into()));
            };
            let message = match message {
                ChannelMessage::Text(text) => Message::Text(text.into()),
                ChannelMessage::Binary(data) => Message::Binary(data.into()),
            };
            let item = Item {
                ws_message: Some(WsAction::Send(message).into()),
                ..Item::new(channel)
            };
            let published = links.publisher.publish(vec![item]).await;
            published.map_err(|error| ChannelError::Other(error.to_string()))
        })
    }
}

fn check_name(channel: &str) -> Result<(), ChannelError> {
    if channel.is_empty() {
        let error = "the name of a channel must not be empty";
        return Err(ChannelError::Other(error.into()));
    }
    Ok(())
}
