//! A session: one WebSocket from its opening to its end.
//!
//! One task a session keeps the order of everything that happens to it: at most
//! one request is under way to the backend, what the client sends meanwhile goes
//! together into the next, and what the backend answers is done in its order.
//!
//! Here is what a backend says and what that does; what happens when is in [`live`].

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use grip::{
    CloseFrame, ControlMessage, Event, Extension, Message, extension::MessageKind,
    header::SEC_WEBSOCKET_EXTENSIONS,
};
use tracing::warn;

use crate::ws::timers::Timers;
use crate::{
    metrics::close_reason::CloseReason,
    net::frame,
    pubsub::{
        channels::Subscription,
        filter::{Filters, Meta},
    },
    state::{Services, sessions::SessionGuard},
    ws::{
        outbox::Outbox,
        ws_over_http::{Identity, Reply},
    },
};

/// The most channels a session can be subscribed to.
const MAX_SUBSCRIPTIONS: usize = 1000;

/// A session, with what the backend has said so far.
pub(crate) struct Session {
    pub(super) services: Arc<Services>,
    pub(super) identity: Identity,
    pub(super) outbox: Arc<Outbox>,
    memberships: Vec<Membership>,
    /// What the filters of the subscriptions look at.
    pub(super) meta: Meta,
    /// Which messages of the backend are content and which control; `None`: all are content.
    pub(super) grip: Option<Extension>,
    /// After how long without a request the backend is sent an empty one.
    pub(super) keep_alive: Option<Duration>,
    /// What the client is sent later, if anything.
    pub(super) timers: Option<Box<Timers>>,
    /// What the backend calls the session.
    pub(super) name: Option<Box<str>>,
    pub(super) link: Link,
    /// Last, so that the session is counted until all else of it is gone.
    _registration: SessionGuard,
}

/// A subscription with the names of its filters.
struct Membership {
    subscription: Subscription,
    filters: Vec<String>,
}

/// What the backend has to do with the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// It is told what happens.
    Up,
    /// It wants to hear no more.
    Detaching,
    /// It is told a CLOSE as the last, and what it answers is nothing to the client.
    Leaving,
    /// It is told nothing any more: the connection is detached, or the backend failed.
    Down,
    /// It wants the client to be dropped.
    Dropped,
}

impl Session {
    /// A session whose backend has answered its OPEN with `reply`, from which the OPEN
    /// event itself is taken out. What the reply says is in force when this returns:
    /// a client that sees its handshake succeed is subscribed.
    pub(crate) fn new(
        services: Arc<Services>,
        identity: Identity,
        outbox: Arc<Outbox>,
        registration: SessionGuard,
        reply: Reply,
    ) -> Self {
        let grip = reply
            .headers
            .get_all(SEC_WEBSOCKET_EXTENSIONS)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .find_map(Extension::parse);
        let mut session = Self {
            services,
            identity,
            outbox,
            memberships: Vec::new(),
            meta: Meta::default(),
            grip,
            keep_alive: None,
            timers: None,
            name: None,
            link: Link::Up,
            _registration: registration,
        };
        session.act(reply);
        session
    }

    /// Does what the backend's reply says, in its order.
    pub(super) fn act(&mut self, reply: Reply) {
        if let Some(interval) = reply.keep_alive() {
            self.keep_alive = interval;
        }
        if let Err(error) = self.identity.remember(&reply.headers) {
            self.warn(&format!("Set-Meta: {error}"));
        }
        for event in reply.events {
            match event {
                Event::Text(content) => self.message(content.into_bytes(), frame::text),
                Event::Binary(content) => self.message(content, frame::binary),
                Event::Ping(content) => self.outbox.send(&frame::ping(content)),
                Event::Pong(content) => self.outbox.send(&frame::pong(content)),
                // Nothing counts that comes behind one of these.
                Event::Close(close) => {
                    return self.outbox.close(close_frame(close), CloseReason::Backend);
                }
                Event::Disconnect => return self.link = Link::Dropped,
                Event::Open => return self.fail("OPEN for a connection that is open"),
            }
        }
    }

    /// Closes the client, for the backend cannot go on; it is told no more.
    pub(super) fn fail(&mut self, why: &str) {
        self.warn(&format!("the backend failed: {why}"));
        self.link = Link::Down;
        self.outbox.close(
            frame::close(frame::FAILED, "the backend failed"),
            CloseReason::Failed,
        );
    }

    fn message(&mut self, content: Bytes, encode: fn(Bytes) -> Bytes) {
        let Some(grip) = &self.grip else {
            return self.say(encode(content));
        };
        match grip.classify(&content) {
            MessageKind::Content(inner) => self.say(encode(content.slice_ref(inner))),
            MessageKind::Unprefixed => self.warn("a message without prefix was dropped"),
            MessageKind::Control(json) => match ControlMessage::parse(json) {
                Ok(message) => self.control(message),
                Err(error) => self.warn(&format!("dropped: {error}")),
            },
        }
    }

    fn say(&self, frame: Bytes) {
        self.services.metrics.replied.add(1, frame.len());
        self.outbox.send(&frame);
    }

    fn control(&mut self, message: ControlMessage) {
        match message {
            ControlMessage::Subscribe { channel, filters } => self.subscribe(&channel, filters),
            ControlMessage::Unsubscribe { channel } => {
                self.memberships
                    .retain(|known| known.subscription.channel() != channel);
            }
            ControlMessage::Detach if self.link == Link::Up => self.link = Link::Detaching,
            ControlMessage::Detach => {}
            ControlMessage::Session { id } => self.name = Some(id.into()),
            ControlMessage::SetMeta { name, value } => {
                if let Err(error) = self.meta.set(&name, value.as_deref()) {
                    self.warn(&format!("set-meta {name:?}: {error}"));
                }
            }
            ControlMessage::KeepAlive {
                message: Some(message),
                timeout,
                mode,
            } => {
                let frame = encode(message);
                let timers = self.timers.get_or_insert_with(Box::default);
                timers.keep_alive(frame, mode, timeout, &self.outbox);
            }
            ControlMessage::KeepAlive { message: None, .. } => {
                self.with_timers(|timers, outbox| timers.stop_keep_alive(outbox));
            }
            ControlMessage::SendDelayed { message, timeout } => {
                let frame = encode(message);
                let timers = self.timers.get_or_insert_with(Box::default);
                timers.delay(frame, timeout, &self.outbox);
            }
            ControlMessage::FlushDelayed => self.with_timers(Timers::flush),
        }
    }

    fn subscribe(&mut self, channel: &str, names: Vec<String>) {
        let mut known = self.memberships.iter();
        let known = known.position(|known| known.subscription.channel() == channel);
        match known {
            Some(known) if self.memberships[known].filters == names => return,
            None if self.memberships.len() == MAX_SUBSCRIPTIONS => {
                return self.warn(&format!("no more than {MAX_SUBSCRIPTIONS} channels"));
            }
            _ => {}
        }
        let filters = match Filters::parse(&names, &mut self.meta) {
            Ok(filters) => filters,
            Err(error) => return self.warn(&format!("subscribe {channel:?}: {error}")),
        };
        if let Some(known) = known {
            let membership = &mut self.memberships[known];
            membership.subscription.exchange_filters(filters);
            membership.filters = names;
            return;
        }
        let channels = &self.services.channels;
        let subscription = channels.subscribe(channel, self.outbox.clone(), filters);
        self.memberships.push(Membership {
            subscription,
            filters: names,
        });
    }

    /// Changes the timers, if there are any, and gives them up when nothing is left to send.
    fn with_timers(&mut self, change: impl FnOnce(&mut Timers, &Outbox)) {
        if let Some(timers) = &mut self.timers {
            change(timers, &self.outbox);
            if timers.is_empty() {
                self.timers = None;
            }
        }
    }

    pub(super) fn warn(&self, what: &str) {
        let route = self.identity.head.path();
        warn!(connection = ?self.identity.id, session = self.name, route, "{what}");
    }
}

fn encode(message: Message) -> Bytes {
    match message {
        Message::Text(text) => frame::text(text.into_bytes()),
        Message::Binary(data) => frame::binary(data),
        Message::Ping(data) => frame::ping(data),
        Message::Pong(data) => frame::pong(data),
    }
}

pub(super) fn close_frame(close: Option<CloseFrame>) -> Bytes {
    match close {
        Some(close) => frame::close(close.code, &close.reason),
        None => frame::close_without_code(),
    }
}
