//! The state of one WebSocket session, and how a backend's responses change it.
//!
//! A session has one task, its driver, which keeps everything in order: at most one request to
//! the backend is in flight, messages that arrive meanwhile are batched into the next request, and
//! the events of a response are applied in sequence.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use grip::{
    CloseFrame, ControlMessage, Event, Extension, Message, Presence,
    event::is_close_code,
    extension::MessageKind,
    header::{GRIP_USER_EXPIRED, SEC_WEBSOCKET_EXTENSIONS},
};
use http::{HeaderName, HeaderValue, Request};
use spin_runtime::backend::Body;

use crate::{
    config::Limits,
    metrics::close_reason::CloseReason,
    net::frame,
    pubsub::{
        channels::{Start, Subscription},
        filter::{Filters, Meta},
        sequencer::MAX_ID_BYTES,
    },
    state::{Services, sessions::SessionGuard},
    ws::{
        auto_responses::AutoResponses,
        identity::Identity,
        outbox::Outbox,
        scheduled::ScheduledMessages,
        typed_link::TypedLink,
        ws_over_http::{ConnectionInfo, EventsResponse},
    },
};

/// The most channels a session can subscribe to.
const MAX_SUBSCRIPTIONS: usize = Limits::DEFAULT.max_subscriptions;

/// The largest `info` of a member, as JSON.
const MAX_INFO_BYTES: usize = Limits::DEFAULT.max_presence_info_bytes;

/// Logs a warning with the fields that identify a session, which its span may not provide: the
/// span is disabled unless the level is debug.
macro_rules! warn_session {
    ($session:expr, $($args:tt)+) => {
        tracing::warn!(
            connection = ?$session.info.id,
            session = $session.session_id,
            route = $session.info.head.path(),
            $($args)+
        )
    };
}
pub(super) use warn_session;

/// A WebSocket connection with the settings that its backend has made.
pub(super) struct Session {
    pub(super) services: Arc<Services>,
    pub(super) info: ConnectionInfo,
    pub(super) outbox: Arc<Outbox>,
    memberships: Vec<Membership>,
    pub(super) identity: Identity,
    /// Metadata for the filters of the subscriptions.
    filter_meta: Meta,
    /// Set if a component handles typed frames. Otherwise, the backend gets requests.
    pub(super) typed: Option<Box<TypedLink>>,
    /// How to tell content from control messages; `None` when the backend did not enable GRIP.
    grip: Option<Extension>,
    /// The idle time after which the backend is sent an empty request.
    pub(super) keep_alive_interval: Option<Duration>,
    /// Keep-alive and delayed messages for the client, if any.
    pub(super) scheduled: Option<Box<ScheduledMessages>>,
    /// The client's messages that the host answers, if any.
    auto_responses: Option<Box<AutoResponses>>,
    /// The backend's name for the session, for logs.
    pub(super) session_id: Option<Box<str>>,
    pub(super) attachment: Attachment,
    /// What follows a subscription that the bus has not confirmed yet.
    deferred: Option<Box<Deferred>>,
    /// The client has sent a close frame.
    pub(super) is_closed_by_client: bool,
    /// Dropped last, so that the session is counted until everything else is released.
    _guard: SessionGuard,
}

/// Events of a response after a subscription that is not confirmed yet. They may announce the
/// subscription to the client.
struct Deferred {
    events: std::vec::IntoIter<Event>,
    joined: Pin<Box<dyn Future<Output = ()> + Send>>,
}

struct Membership {
    subscription: Subscription,
    /// The names of the subscription's filters.
    filters: Vec<String>,
}

/// The backend's relation to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attachment {
    /// The backend receives the client's events.
    Attached,
    /// The backend has asked to be detached.
    DetachRequested,
    /// The backend is being sent a final CLOSE. Its response does not affect the client.
    Detaching,
    /// The backend receives nothing more: it is detached, or has failed.
    Detached,
    /// The backend has asked to drop the client without a close handshake.
    DropRequested,
}

impl Session {
    /// Creates a session from the backend's response to OPEN, without the OPEN event itself.
    ///
    /// The response is applied before this returns, so a client whose handshake succeeds is
    /// already subscribed.
    pub(super) fn new(
        services: Arc<Services>,
        info: ConnectionInfo,
        outbox: Arc<Outbox>,
        guard: SessionGuard,
        response: EventsResponse,
    ) -> Self {
        let grip = response
            .headers
            .get_all(SEC_WEBSOCKET_EXTENSIONS)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .find_map(Extension::parse);
        let mut session = Self {
            services,
            info,
            outbox,
            memberships: Vec::new(),
            identity: Identity::default(),
            filter_meta: Meta::default(),
            typed: None,
            grip,
            keep_alive_interval: None,
            scheduled: None,
            auto_responses: None,
            session_id: None,
            attachment: Attachment::Attached,
            deferred: None,
            is_closed_by_client: false,
            _guard: guard,
        };
        session.apply(response);
        session
    }

    /// Creates a session whose events a component handles as typed frames.
    pub(super) fn typed(
        services: Arc<Services>,
        info: ConnectionInfo,
        outbox: Arc<Outbox>,
        guard: SessionGuard,
        link: TypedLink,
    ) -> Self {
        Self {
            typed: Some(Box::new(link)),
            ..Self::new(services, info, outbox, guard, EventsResponse::default())
        }
    }

    /// Builds a request with events, of which the first `replayed` bytes of content were sent before.
    pub(super) fn request(&self, events: &[Event], replayed: usize) -> Request<Body> {
        let mut request = self.info.request(&self.services.signer, events, replayed);
        if let Some(user) = self.identity.expired_user() {
            // An id that cannot be in a header is left out: the request has that of the connection.
            let id = HeaderValue::from_bytes(user.as_bytes());
            let id = id.unwrap_or(HeaderValue::from_static(""));
            let name = HeaderName::from_static(GRIP_USER_EXPIRED);
            request.headers_mut().insert(name, id);
        }
        request
    }

    /// Applies the headers and events of a backend's response, in order.
    pub(super) fn apply(&mut self, response: EventsResponse) {
        if let Some(interval) = response.keep_alive() {
            self.keep_alive_interval = interval;
        }
        if let Err(error) = self.info.update_meta(&response.headers) {
            warn_session!(self, %error, "Set-Meta header ignored");
        }
        self.apply_events(response.events.into_iter());
    }

    /// Waits until the events of the last response are applied, as far as they depend on the bus.
    pub(super) async fn applied(&mut self) {
        while let Some(mut deferred) = self.deferred.take() {
            deferred.joined.as_mut().await;
            self.apply_events(deferred.events);
        }
    }

    /// Returns whether events of the last response are still to be applied.
    pub(super) fn is_deferred(&self) -> bool {
        self.deferred.is_some()
    }

    /// Applies the deferred events once their subscription is confirmed. Returns `Pending` if there are
    /// none.
    pub(super) fn poll_deferred(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deferred) = &mut self.deferred else {
            return Poll::Pending;
        };
        ready!(deferred.joined.as_mut().poll(cx));
        if let Some(deferred) = self.deferred.take() {
            self.apply_events(deferred.events);
        }
        Poll::Ready(())
    }

    fn apply_events(&mut self, mut events: std::vec::IntoIter<Event>) {
        while let Some(event) = events.next() {
            let subscribed = self.memberships.len();
            match event {
                Event::Text(content) => self.handle_message(Message::Text(content)),
                Event::Binary(content) => self.handle_message(Message::Binary(content)),
                Event::Ping(content) => self.outbox.send(&frame::ping(content)),
                Event::Pong(content) => self.outbox.send(&frame::pong(content)),
                // Events after one that closes or detaches the session are ignored.
                Event::Close(Some(close)) if close.code == 0 => {
                    // `@fanoutio/grip` sends 0 if no code is given. The client's own close is then
                    // answered with its own code.
                    if !self.is_closed_by_client {
                        self.outbox.close(close_frame(None), CloseReason::Backend);
                    }
                    return;
                }
                Event::Close(Some(close)) if !is_close_code(close.code) => {
                    let code = close.code;
                    return self.fail(&format!(
                        "CLOSE event with code {code}, which cannot be sent"
                    ));
                }
                Event::Close(close) => {
                    self.outbox.close(close_frame(close), CloseReason::Backend);
                    return;
                }
                Event::Disconnect => return self.attachment = Attachment::DropRequested,
                Event::Open => return self.fail("OPEN event for an open connection"),
            }
            if self.memberships.len() > subscribed
                && let Some(joined) = self.unconfirmed()
            {
                self.deferred = Some(Box::new(Deferred { events, joined }));
                return;
            }
        }
    }

    /// Returns a future that completes when the newest subscription is confirmed, if it is not yet, or
    /// after a while.
    fn unconfirmed(&self) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
        let subscription = &self.memberships.last()?.subscription;
        if subscription.is_joined() {
            return None;
        }
        let time = self.services.confirmation_timeout();
        Some(Box::pin(subscription.confirmed(time)))
    }

    /// Closes the client with 1011 and detaches the backend.
    pub(super) fn fail(&mut self, error: &str) {
        warn_session!(self, error, "backend failed, closing with 1011");
        self.attachment = Attachment::Detached;
        self.outbox.close(
            frame::close(frame::INTERNAL_ERROR, "the backend failed"),
            CloseReason::Failed,
        );
    }

    fn handle_message(&mut self, message: Message) {
        let Some(grip) = &self.grip else {
            return self.send(message);
        };
        match grip.classify(message.content()) {
            MessageKind::Content(inner) => {
                let start = message.content().len() - inner.len();
                self.send(match &message {
                    // The prefix is a text, so what follows it is one.
                    Message::Text(text) => Message::Text(text.slice_ref(&text[start..])),
                    message => Message::Binary(message.content().slice(start..)),
                });
            }
            MessageKind::Unprefixed => warn_session!(self, "message without GRIP prefix dropped"),
            MessageKind::Control(json) => match ControlMessage::parse(json) {
                Ok(message) => self.handle_control(message),
                Err(error) => warn_session!(self, %error, "invalid control message dropped"),
            },
        }
    }

    /// Answers a message of the client, if the backend has left that to the host. Returns whether it has.
    pub(super) fn auto_respond(&self, event: &Event) -> bool {
        let (Some(responses), Event::Text(text)) = (&self.auto_responses, event) else {
            return false;
        };
        let Some(response) = responses.find(text) else {
            return false;
        };
        let bytes = self.outbox.send_frames(response);
        self.services.metrics.replied.add(1, bytes);
        true
    }

    fn set_auto_response(&mut self, request: &str, response: Option<String>) {
        let responses = self.auto_responses.get_or_insert_default();
        if let Err(error) = responses.set(request, response.unwrap_or_default()) {
            warn_session!(self, %error, "auto-response ignored");
        }
        if self.auto_responses.as_ref().is_some_and(|it| it.is_empty()) {
            self.auto_responses = None;
        }
    }

    /// Sends a message of the backend, and counts it.
    fn send(&self, message: Message) {
        let bytes = self.outbox.send_message(message);
        self.services.metrics.replied.add(1, bytes);
    }

    fn handle_control(&mut self, message: ControlMessage) {
        match message {
            ControlMessage::Subscribe {
                channel,
                filters,
                prev_id,
                recover,
                presence,
            } => {
                let start = match (prev_id, recover) {
                    (Some(id), _) => Start::After(id.into()),
                    (None, Some(count)) => Start::Newest(count),
                    (None, None) => Start::Live,
                };
                self.subscribe(&channel, filters, start);
                if let Some(presence) = presence {
                    self.join(&channel, presence);
                }
            }
            ControlMessage::Unsubscribe { channel } => {
                self.memberships
                    .retain(|membership| membership.subscription.channel() != channel);
                self.identity.leave(&channel);
            }
            ControlMessage::Presence { channel, presence } => self.join(&channel, presence),
            ControlMessage::User { id, expires } => self.bind(&id, expires),
            ControlMessage::Detach if self.attachment == Attachment::Attached => {
                self.attachment = Attachment::DetachRequested;
            }
            ControlMessage::Detach => {}
            ControlMessage::Session { id } => self.session_id = Some(id.into()),
            ControlMessage::SetMeta { name, value } => {
                if let Err(error) = self.filter_meta.set(&name, value.as_deref()) {
                    warn_session!(self, name, %error, "set-meta ignored");
                }
            }
            ControlMessage::KeepAlive {
                message: Some(message),
                timeout,
                mode,
            } => {
                let scheduled = self.scheduled.get_or_insert_with(Box::default);
                scheduled.start_keep_alive(message, mode, timeout, &self.outbox);
            }
            ControlMessage::KeepAlive { message: None, .. } => {
                self.update_scheduled(|scheduled, outbox| scheduled.stop_keep_alive(outbox));
            }
            ControlMessage::SendDelayed { message, timeout } => {
                let scheduled = self.scheduled.get_or_insert_with(Box::default);
                scheduled.send_delayed(message, timeout, &self.outbox);
            }
            ControlMessage::AutoResponse { request, response } => {
                self.set_auto_response(&request, response);
            }
            ControlMessage::FlushDelayed => self.update_scheduled(ScheduledMessages::flush_delayed),
        }
    }

    /// Delivers what the client had no room for.
    pub(super) fn catch_up(&self) {
        for membership in &self.memberships {
            membership.subscription.catch_up();
        }
        if let Some(link) = &self.typed {
            link.catch_up();
        }
    }

    /// Makes the client a member of a channel.
    fn join(&mut self, channel: &str, presence: Presence) {
        let bytes = serde_json::json!(presence.info).to_string().len();
        if bytes > MAX_INFO_BYTES {
            let limit = MAX_INFO_BYTES;
            warn_session!(self, channel, bytes, limit, "presence ignored: too large");
            return;
        }
        if self.identity.channels() == MAX_SUBSCRIPTIONS && !self.identity.is_member(channel) {
            let limit = MAX_SUBSCRIPTIONS;
            warn_session!(self, channel, limit, "presence ignored: too many channels");
            return;
        }
        let connection = String::from_utf8_lossy(self.info.id.as_bytes());
        let id = self.identity.user().unwrap_or(&connection);
        let member = self.services.members.join(channel, id, presence);
        self.identity.join(member);
    }

    /// Binds the session to a user, for `expires` seconds if that is limited.
    fn bind(&mut self, id: &str, expires: Option<u32>) {
        if id.len() > MAX_ID_BYTES {
            let limit = MAX_ID_BYTES;
            warn_session!(self, limit, "user ignored: the id is too long");
            return;
        }
        // At least a second, or the backend would be asked again at once.
        let lifetime = expires.map(|seconds| Duration::from_secs(seconds.max(1).into()));
        if self.identity.renew(id, lifetime) {
            return;
        }
        let connection = String::from_utf8_lossy(self.info.id.as_bytes());
        let (path, client) = (self.info.head.path(), self.outbox.clone());
        let users = &self.services.users;
        let user = users.bind(id, &connection, path, client, lifetime);
        self.identity.bind(user, lifetime);
    }

    /// Closes the client if the binding to its user has expired.
    pub(super) fn close_expired(&self) {
        if self.identity.expired_user().is_some() {
            self.outbox.close(
                frame::close(frame::POLICY_VIOLATION, "the session has expired"),
                CloseReason::Expired,
            );
        }
    }

    fn subscribe(&mut self, channel: &str, names: Vec<String>, start: Start) {
        let index = self
            .memberships
            .iter()
            .position(|membership| membership.subscription.channel() == channel);
        match index {
            Some(index) if self.memberships[index].filters == names => return,
            None if self.memberships.len() == MAX_SUBSCRIPTIONS => {
                warn_session!(
                    self,
                    channel,
                    limit = MAX_SUBSCRIPTIONS,
                    "subscription refused: too many channels"
                );
                return;
            }
            _ => {}
        }
        let filters = match Filters::parse(&names, &mut self.filter_meta) {
            Ok(filters) => filters,
            Err(error) => {
                warn_session!(self, channel, %error, "subscription refused");
                return;
            }
        };
        if let Some(index) = index {
            let membership = &mut self.memberships[index];
            membership.subscription.replace_filters(filters);
            membership.filters = names;
            return;
        }
        let channels = &self.services.channels;
        let subscription = channels.subscribe_from(channel, self.outbox.clone(), filters, start);
        self.memberships.push(Membership {
            subscription,
            filters: names,
        });
    }

    /// Changes the scheduled messages, if any, and frees them when there are none left.
    fn update_scheduled(&mut self, update: impl FnOnce(&mut ScheduledMessages, &Outbox)) {
        if let Some(scheduled) = &mut self.scheduled {
            update(scheduled, &self.outbox);
            if scheduled.is_empty() {
                self.scheduled = None;
            }
        }
    }
}

pub(super) fn close_frame(close: Option<CloseFrame>) -> Bytes {
    match close {
        Some(close) => frame::close(close.code, &close.reason),
        None => frame::close_without_code(),
    }
}
