//! The WebSocket clients of a test.
//!
//! A [`WebSocket`] is the end of the client. What the host does with its messages is a *transport*:
//! [`grip_session`] sends them to the component as POST requests, and [`typed_session`] passes them as
//! typed frames. [`handshake`] selects one of them. The frames of components reach clients through
//! [`tokens`].

mod client;
mod grip_session;
mod handshake;
mod metadata;
mod scheduled;
mod subscriptions;
mod tokens;
mod typed_frames;
mod typed_session;
mod ws_over_http;

use std::{fmt, rc::Rc};

use bytes::Bytes;
use http::HeaderMap;

use self::client::{Client, ClientAction};
pub use self::client::{Closed, Message};
pub(crate) use self::{
    handshake::{Opened, open},
    tokens::SocketTokens,
};
use crate::runtime::Runtime;

/// A WebSocket to the application, at the end of the client.
///
/// It stays open when it is dropped.
pub struct WebSocket {
    runtime: Rc<Runtime>,
    client: Client,
    headers: HeaderMap,
}

impl WebSocket {
    pub(crate) fn new(runtime: Rc<Runtime>, opened: Opened) -> Self {
        let Opened { client, headers } = opened;
        Self {
            runtime,
            client,
            headers,
        }
    }

    /// Returns the headers that the component has added to the response of the handshake.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Sends a text message, and waits until the component has handled it.
    pub fn send(&self, text: impl Into<String>) {
        self.perform(ClientAction::Send(Message::Text(text.into())));
    }

    /// Sends a binary message, and waits until the component has handled it.
    pub fn send_binary(&self, data: impl Into<Bytes>) {
        self.perform(ClientAction::Send(Message::Binary(data.into())));
    }

    /// Sends a text message, which the component gets with the next call that lets it run, such as
    /// [`TestApp::settle`](crate::TestApp::settle). Several clients can thus send at the same time.
    pub fn enqueue(&self, text: impl Into<String>) {
        let action = ClientAction::Send(Message::Text(text.into()));
        drop(self.client.act(action));
    }

    /// Closes the WebSocket with a code, and waits until the component has handled it.
    pub fn close(&self, code: u16, reason: &str) {
        self.perform(ClientAction::Close {
            code,
            reason: reason.to_owned(),
        });
    }

    /// Drops the connection without closing it, and waits until the component has handled it.
    pub fn disconnect(&self) {
        self.perform(ClientAction::Disconnect);
    }

    /// Returns all messages that the client has received.
    pub fn received(&self) -> Vec<Message> {
        self.client.received()
    }

    /// Returns the texts of all messages that the client has received.
    pub fn texts(&self) -> Vec<String> {
        let messages = self.client.received().into_iter();
        messages.filter_map(Message::into_text).collect()
    }

    /// Returns the messages that the client has received since the last call.
    pub fn take_received(&self) -> Vec<Message> {
        self.client.take_received()
    }

    /// Returns the texts of the messages that the client has received since the last call.
    pub fn take_texts(&self) -> Vec<String> {
        let messages = self.client.take_received().into_iter();
        messages.filter_map(Message::into_text).collect()
    }

    /// Returns how the WebSocket was closed, or `None` while it is open.
    pub fn closed(&self) -> Option<Closed> {
        self.client.closed()
    }

    /// Returns the channels that the component has subscribed the client to.
    pub fn subscriptions(&self) -> Vec<String> {
        self.client.subscriptions()
    }

    fn perform(&self, action: ClientAction) {
        let handled = self.client.act(action);
        self.runtime.run(async {
            // Dropped unsent when the WebSocket has closed in the meantime.
            let _ = handled.await;
        });
    }
}

impl fmt::Debug for WebSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocket")
            .field("received", &self.received())
            .field("closed", &self.closed())
            .field("subscriptions", &self.subscriptions())
            .finish_non_exhaustive()
    }
}
