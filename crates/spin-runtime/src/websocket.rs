//! Typed WebSockets, as components use them and as their host provides them.
//!
//! The interfaces are those of Spin's
//! [SIP-016](https://github.com/spinframework/spin/blob/main/docs/content/sips/016-inbound-websockets.md).
//! A component handles upgrade requests and frames, and sends frames to any WebSocket by its token. A
//! [`Backend`](crate::backend::Backend) calls the component, and [`WebSockets`] holds the connections.

use std::{
    future::{Future, ready},
    pin::Pin,
    sync::Arc,
};

use http::{HeaderMap, Response};

use crate::backend::{BackendError, Body, Caller};

/// A pending result.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A message or a control frame. A message in fragments is one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Vec<u8>),
    /// A ping with its payload.
    Ping(Vec<u8>),
    /// A pong with its payload.
    Pong(Vec<u8>),
    /// The last frame. Without contents, it has no code.
    Close(Option<CloseFrame>),
}

/// The contents of a close frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseFrame {
    /// The code (RFC 6455, section 7.4), including 1005 and 1006, which are never sent.
    pub code: u16,
    /// The reason, which may be empty.
    pub reason: String,
}

/// A frame that a client has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedFrame {
    /// The number of the frame in the order of its WebSocket, from 0.
    pub sequence_number: u64,
    /// The frame.
    pub frame: Frame,
}

/// A text or binary message for the subscribers of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelMessage {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Vec<u8>),
}

/// A component's response to an upgrade request.
pub struct Opening {
    /// The id of the component, which gets the frames too.
    pub component: Arc<str>,
    /// Accepts the WebSocket with status 101, and refuses it with any other one.
    pub response: Response<Body>,
    /// The rest of the call, which may go on after the response. It has to be polled.
    pub call: Pending<'static, Result<(), BackendError>>,
}

/// Frames of a WebSocket for its component.
#[derive(Debug)]
pub struct FramesCall {
    /// The id of the component.
    pub component: Arc<str>,
    /// The token of the WebSocket.
    pub token: Arc<str>,
    /// The frames, in order. Not empty.
    pub frames: Vec<ReceivedFrame>,
    /// The client.
    pub caller: Caller,
    /// The headers that name the trace of the call (W3C Trace Context), if it has one. Requests of the
    /// component inherit them.
    pub trace: HeaderMap,
}

/// The client of a WebSocket has disconnected, or there never was such a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("connection lost")]
pub struct ConnectionLost;

/// Why an operation on a channel failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// The WebSocket is not open.
    #[error(transparent)]
    ConnectionLost(#[from] ConnectionLost),
    /// The WebSocket has as many subscriptions as it may have.
    #[error("too many subscriptions")]
    TooManySubscriptions,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// Holds the WebSockets to which components send frames.
pub trait WebSockets: Send + Sync + 'static {
    /// Sends a frame to the WebSocket with this token.
    ///
    /// The first future is ready when the frame has its place in the order of frames, and the second
    /// one when the frame was sent.
    fn send(
        &self,
        token: String,
        frame: Frame,
    ) -> Pending<'_, Pending<'static, Result<(), ConnectionLost>>>;

    /// Subscribes a WebSocket to a channel, whose name the caller has checked.
    fn subscribe(&self, token: String, channel: String) -> Pending<'_, Result<(), ChannelError>>;

    /// Ends a subscription, if there is one.
    fn unsubscribe(&self, token: String, channel: String) -> Pending<'_, Result<(), ChannelError>>;

    /// Sends a message to the subscribers of a channel. The caller has checked its name, and the size of
    /// the message.
    fn publish(
        &self,
        channel: String,
        message: ChannelMessage,
    ) -> Pending<'_, Result<(), ChannelError>>;
}

/// The WebSockets of a program that holds none: all connections are lost.
#[derive(Clone, Copy, Debug)]
pub struct NoWebSockets;

impl WebSockets for NoWebSockets {
    fn send(
        &self,
        _token: String,
        _frame: Frame,
    ) -> Pending<'_, Pending<'static, Result<(), ConnectionLost>>> {
        let lost: Pending<'static, _> = Box::pin(ready(Err(ConnectionLost)));
        Box::pin(ready(lost))
    }

    fn subscribe(&self, _token: String, _channel: String) -> Pending<'_, Result<(), ChannelError>> {
        Box::pin(ready(Err(ConnectionLost.into())))
    }

    fn unsubscribe(
        &self,
        _token: String,
        _channel: String,
    ) -> Pending<'_, Result<(), ChannelError>> {
        Box::pin(ready(Err(ConnectionLost.into())))
    }

    fn publish(
        &self,
        _channel: String,
        _message: ChannelMessage,
    ) -> Pending<'_, Result<(), ChannelError>> {
        let error = "nothing holds WebSockets here".to_owned();
        Box::pin(ready(Err(ChannelError::Other(error))))
    }
}
