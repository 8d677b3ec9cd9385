//! What a client has received, and what it does. A transport reads and writes it.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

/// The code with which clients are closed whose component has failed.
const INTERNAL_ERROR: u16 = 1011;

/// A message that a client sends or receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Bytes),
}

impl Message {
    /// Returns the text, unless the message is binary.
    pub fn into_text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text),
            Self::Binary(_) => None,
        }
    }
}

/// How a WebSocket was closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// With a close frame.
    Frame {
        /// The code, if there is one.
        code: Option<u16>,
        /// The reason, which may be empty.
        reason: String,
    },
    /// Without a close frame: the connection was dropped.
    Dropped,
}

impl Closed {
    /// Returns the code of the close frame.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Frame { code, .. } => *code,
            Self::Dropped => None,
        }
    }

    /// Returns how the host closes a client whose component has failed.
    pub(super) fn failed() -> Self {
        Self::Frame {
            code: Some(INTERNAL_ERROR),
            reason: "the backend failed".to_owned(),
        }
    }
}

/// What a client does.
#[derive(Debug)]
pub(crate) enum ClientAction {
    Send(Message),
    /// Answers a ping.
    Pong(Bytes),
    Close {
        code: u16,
        reason: String,
    },
    Disconnect,
}

impl ClientAction {
    /// Returns how the action closes the WebSocket, if it does.
    pub(super) fn closes(&self) -> Option<Closed> {
        match self {
            Self::Send(_) | Self::Pong(_) => None,
            Self::Close { code, reason } => Some(Closed::Frame {
                code: Some(*code),
                reason: reason.clone(),
            }),
            Self::Disconnect => Some(Closed::Dropped),
        }
    }
}

/// A client. Clones share its state.
#[derive(Clone, Default)]
pub(crate) struct Client(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    acted: Notify,
}

#[derive(Default)]
struct State {
    received: Vec<Message>,
    /// The number of messages that the test has taken.
    taken: usize,
    closed: Option<Closed>,
    /// The client has closed the WebSocket or dropped the connection.
    is_closing: bool,
    /// The client has dropped the connection.
    is_disconnected: bool,
    subscriptions: Vec<String>,
    actions: VecDeque<PendingAction>,
}

impl State {
    fn is_connected(&self) -> bool {
        self.closed.is_none() && !self.is_disconnected
    }

    /// Returns the actions, unless there may be some later.
    fn take_actions(&mut self) -> Option<Vec<PendingAction>> {
        let is_ready = self.closed.is_some() || !self.actions.is_empty();
        is_ready.then(|| self.actions.drain(..).collect())
    }
}

/// An action that the transport has yet to handle.
pub(super) struct PendingAction {
    pub(super) action: ClientAction,
    /// Dropped when the component has handled the action.
    pub(super) handled: oneshot::Sender<()>,
}

impl Client {
    /// Queues an action. Ignores it if the WebSocket is closed. The receiver fails when the component
    /// has handled it.
    pub(super) fn act(&self, action: ClientAction) -> oneshot::Receiver<()> {
        let (handled, receiver) = oneshot::channel();
        let mut state = self.0.state.lock();
        if state.closed.is_none() && !state.is_closing {
            let closes = action.closes();
            state.is_closing = closes.is_some();
            state.is_disconnected = closes == Some(Closed::Dropped);
            state.actions.push_back(PendingAction { action, handled });
            self.0.acted.notify_one();
        }
        receiver
    }

    /// Waits for actions, and returns all of them. Returns none once the WebSocket is closed.
    pub(super) async fn actions(&self) -> Vec<PendingAction> {
        loop {
            let acted = self.0.acted.notified();
            if let Some(actions) = self.0.state.lock().take_actions() {
                return actions;
            }
            acted.await;
        }
    }

    /// Returns whether the client can receive messages.
    pub(super) fn is_connected(&self) -> bool {
        self.0.state.lock().is_connected()
    }

    /// Receives a message, if the client can.
    pub(super) fn receive(&self, message: Message) {
        let mut state = self.0.state.lock();
        if state.is_connected() {
            state.received.push(message);
        }
    }

    /// Closes the WebSocket, if it is open.
    pub(super) fn close(&self, closed: Closed) {
        let mut state = self.0.state.lock();
        if state.closed.is_none() {
            state.closed = Some(closed);
            state.actions.clear();
            self.0.acted.notify_one();
        }
    }

    pub(super) fn set_subscriptions(&self, channels: Vec<String>) {
        self.0.state.lock().subscriptions = channels;
    }

    pub(super) fn received(&self) -> Vec<Message> {
        self.0.state.lock().received.clone()
    }

    pub(super) fn take_received(&self) -> Vec<Message> {
        let mut state = self.0.state.lock();
        let messages = state.received[state.taken..].to_vec();
        state.taken = state.received.len();
        messages
    }

    pub(super) fn closed(&self) -> Option<Closed> {
        self.0.state.lock().closed.clone()
    }

    pub(super) fn subscriptions(&self) -> Vec<String> {
        self.0.state.lock().subscriptions.clone()
    }
}
