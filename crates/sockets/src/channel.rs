//! Channels: names that clients are subscribed to.

use grip::{Item, publish::HttpResponse};

use crate::{IntoMessage, Message, Result, platform, server_sent_event::data_event};

/// A channel, to whose subscribers messages are sent.
///
/// A message reaches WebSockets as it is, streams as the `data` of an event, and long polls as a
/// response. Binary messages do not reach streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    name: String,
}

/// Returns the channel with this name.
///
/// ```
/// use sockets::channel;
///
/// # async fn publish() -> sockets::Result {
/// channel("news").publish("It is raining").await
/// # }
/// ```
pub fn channel(name: impl Into<String>) -> Channel {
    Channel { name: name.into() }
}

impl Channel {
    /// Sends a message to all subscribers. The host has accepted it when this returns.
    pub async fn publish(&self, message: impl IntoMessage) -> Result {
        let item = publication(&self.name, message.into_message()?);
        Ok(publish(vec![item]).await?)
    }
}

/// Publishes GRIP items, which can have ids, filters and formats of their own.
pub async fn publish(items: Vec<Item>) -> Result<(), PublishError> {
    platform::publish(items).await
}

/// Returns the item that sends a message to all kinds of subscribers.
fn publication(channel: &str, message: Message) -> Item {
    let content = message.content.content().clone();
    let response = HttpResponse::ok(message.content_type, content);
    let item = Item::ws_message(channel, message.content.clone()).and_response(response);
    match &message.content {
        grip::Message::Text(text) => item.and_stream(data_event(text)),
        _ => item,
    }
}

/// The host has not accepted a message for the subscribers of a channel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("publishing failed: {0}")]
pub struct PublishError(pub String);
