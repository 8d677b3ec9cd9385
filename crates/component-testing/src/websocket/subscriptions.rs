//! The subscriptions of a session, which deliver items to its client.

use std::{collections::BTreeMap, sync::Arc};

use grip::{Item, publish::WsAction};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::client::{Client, Closed, Message};
use crate::{
    channels::{Channels, Start, Subscriber, Subscription},
    filter::{Filters, Meta},
};

/// The code with which a publication closes a WebSocket, unless it has one.
const NORMAL_CLOSURE: u16 = 1000;

/// The subscriptions of a session. Clones share them.
#[derive(Clone)]
pub(super) struct Subscriptions(Arc<Shared>);

struct Shared {
    client: Client,
    state: Mutex<State>,
    /// Wakes the session when it has something to do.
    wake: Notify,
}

#[derive(Default)]
struct State {
    meta: Meta,
    by_channel: BTreeMap<String, (Subscription, Filters)>,
    /// A publication asks for a request to the component.
    refresh: bool,
    /// The client has received something.
    has_sent: bool,
}

impl Subscriptions {
    pub(super) fn new(client: Client) -> Self {
        Self(Arc::new(Shared {
            client,
            state: Mutex::default(),
            wake: Notify::new(),
        }))
    }

    /// Subscribes to a channel, or replaces the filters of a subscription. Returns whether the
    /// channel has all items from `start` on. They are then delivered.
    pub(super) fn add(
        &self,
        channels: &Channels,
        channel: &str,
        filters: Filters,
        start: Start<'_>,
    ) -> bool {
        if let Some((_, existing)) = self.0.state.lock().by_channel.get_mut(channel) {
            *existing = filters;
            return true;
        }
        let (subscription, items) = channels.subscribe(channel, start, self.0.clone());
        let entry = (subscription, filters);
        let mut state = self.0.state.lock();
        state.by_channel.insert(channel.to_owned(), entry);
        drop(state);
        self.report();
        let is_complete = items.is_some();
        for item in items.into_iter().flatten() {
            self.0.receive(&item);
        }
        is_complete
    }

    pub(super) fn remove(&self, channel: &str) {
        let removed = self.0.state.lock().by_channel.remove(channel);
        drop(removed);
        self.report();
    }

    pub(super) fn clear(&self) {
        let removed = std::mem::take(&mut self.0.state.lock().by_channel);
        drop(removed);
    }

    /// Sets metadata for filters. An empty value removes the name.
    pub(super) fn set_meta(&self, name: String, value: Option<String>) {
        let mut state = self.0.state.lock();
        match value.filter(|value| !value.is_empty()) {
            Some(value) => state.meta.insert(name, value),
            None => state.meta.remove(&name),
        };
    }

    /// Waits until a publication concerns the session.
    pub(super) async fn changed(&self) {
        self.0.wake.notified().await;
    }

    /// Returns whether a publication has asked for a request since the last call.
    pub(super) fn take_refresh(&self) -> bool {
        std::mem::take(&mut self.0.state.lock().refresh)
    }

    /// Returns whether the client has received something since the last call.
    pub(super) fn take_sent(&self) -> bool {
        std::mem::take(&mut self.0.state.lock().has_sent)
    }

    /// Shows the channels to the test.
    fn report(&self) {
        let channels = self.0.state.lock().by_channel.keys().cloned().collect();
        self.0.client.set_subscriptions(channels);
    }
}

impl Shared {
    /// Sends a message of a publication, rewritten for the client.
    fn send(&self, state: &mut State, item: &Item, message: &grip::Message) {
        let Some((_, filters)) = state.by_channel.get(&item.channel) else {
            return;
        };
        let message = match message {
            grip::Message::Text(text) => filters
                .rewrite(text.as_bytes(), &state.meta)
                .map(|text| Message::Text(String::from_utf8_lossy(&text).into_owned())),
            grip::Message::Binary(data) => filters.rewrite(data, &state.meta).map(Message::Binary),
            // A client does not show them.
            grip::Message::Ping(_) | grip::Message::Pong(_) => {
                state.has_sent = true;
                return;
            }
        };
        match message {
            Ok(message) => {
                state.has_sent = true;
                self.client.receive(message);
            }
            Err(error) => {
                tracing::warn!(channel = item.channel, %error, "publication not delivered");
            }
        }
    }
}

impl Subscriber for Shared {
    fn receive(&self, item: &Arc<Item>) {
        let Some(format) = &item.ws_message else {
            return;
        };
        let mut state = self.state.lock();
        let is_subscribed = |channel: &str| state.by_channel.contains_key(channel);
        let filters = state
            .by_channel
            .get(&item.channel)
            .map(|(_, filters)| filters);
        if !filters.is_some_and(|filters| filters.accept(&item.meta, &state.meta, is_subscribed)) {
            return;
        }
        match &format.action {
            WsAction::Send(message) => self.send(&mut state, item, message),
            WsAction::Close { code, reason } => self.client.close(Closed::Frame {
                code: Some(code.unwrap_or(NORMAL_CLOSURE)),
                reason: reason.clone().unwrap_or_default(),
            }),
            WsAction::Refresh => state.refresh = true,
            WsAction::Hint => return,
        }
        drop(state);
        self.wake.notify_one();
    }
}
