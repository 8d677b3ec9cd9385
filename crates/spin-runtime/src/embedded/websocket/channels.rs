//! `socket-host:websocket/channels`: subscribes WebSockets to channels, and publishes.

use wasmtime::{
    Result,
    component::{HasData, Linker},
};

use super::bindings::socket_host::websocket::channels as wit;
use crate::{
    embedded::guest::Guest,
    limits::Limits,
    websocket::{ChannelError, ChannelMessage, WebSockets},
};

/// The longest name of a channel, in bytes.
const MAX_NAME_BYTES: usize = Limits::DEFAULT.channel_name_bytes;

/// The largest message, in bytes.
const MAX_MESSAGE_BYTES: usize = Limits::DEFAULT.channel_message_bytes;

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
        let subscribed = match check_name(&channel) {
            Ok(()) => self.0.subscribe(token, channel).await,
            invalid => invalid,
        };
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
        let published = match check_name(&channel).and_then(|()| check_size(&message)) {
            Ok(()) => self.0.publish(channel, message).await,
            invalid => invalid,
        };
        Ok(published.map_err(Into::into))
    }
}

fn check_name(channel: &str) -> Result<(), ChannelError> {
    if !(1..=MAX_NAME_BYTES).contains(&channel.len()) {
        let error = format!("expected the name of a channel, of 1 to {MAX_NAME_BYTES} bytes");
        return Err(ChannelError::Other(error));
    }
    Ok(())
}

fn check_size(message: &ChannelMessage) -> Result<(), ChannelError> {
    let bytes = match message {
        ChannelMessage::Text(text) => text.len(),
        ChannelMessage::Binary(data) => data.len(),
    };
    if bytes > MAX_MESSAGE_BYTES {
        let error = format!("expected a message of at most {MAX_MESSAGE_BYTES} bytes");
        return Err(ChannelError::Other(error));
    }
    Ok(())
}
