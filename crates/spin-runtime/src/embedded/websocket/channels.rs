//! `socket-host:websocket/channels`: subscribes WebSockets to channels, and publishes.

use wasmtime::{
    Result,
    component::{HasData, Linker},
};

use super::bindings::socket_host::websocket::channels as wit;
use crate::{
    embedded::guest::Guest,
    websocket::{ChannelError, ChannelMessage, WebSockets},
};

/// Adds the interface to a linker.
pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> Result<()> {
    wit::add_to_linker::<_, Channels>(linker, |guest| View(&*guest.component.websockets))
}

/// The part of a [`Guest`] that the interface accesses.
pub(super) struct View<'a>(&'a dyn WebSockets);

/// Tells Wasmtime the type of the [`View`].
struct Channels;

impl HasData for Channels {
    type Data<'a> = View<'a>;
}

impl From<ChannelError> for wit::Error {
    fn from(error: ChannelError) -> Self {
        match error {
            ChannelError::ConnectionLost(_) => Self::ConnectionLost,
            ChannelError::TooManySubscriptions => Self::TooManySubscriptions,
            ChannelError::Other(text) => Self::Other(text),
        }
    }
}

impl wit::Host for View<'_> {
    async fn subscribe(
        &mut self,
        token: String,
        channel: String,
    ) -> Result<Result<(), wit::Error>> {
        let subscribed = self.0.subscribe(token, channel).await;
        Ok(subscribed.map_err(Into::into))
    }

    async fn unsubscribe(
        &mut self,
        token: String,
        channel: String,
    ) -> Result<Result<(), wit::Error>> {
        let unsubscribed = self.0.unsubscribe(token, channel).await;
        Ok(unsubscribed.map_err(Into::into))
    }

    async fn publish(
        &mut self,
        channel: String,
        message: wit::Message,
    ) -> Result<Result<(), wit::Error>> {
        let message = match message {
            wit::Message::Text(text) => ChannelMessage::Text(text),
            wit::Message::Binary(data) => ChannelMessage::Binary(data),
        };
        let published = self.0.publish(channel, message).await;
        Ok(published.map_err(Into::into))
    }
}
