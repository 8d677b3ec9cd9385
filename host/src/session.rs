//! A session: one WebSocket from its opening to its end.
//!
//! One task a session keeps the order of everything that happens to it: at most
//! one request is under way to the backend, what the client sends meanwhile goes
//! together into the next, and what the backend answers is done in its order.

use std::{
    future::{Future, poll_fn},
    mem,
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use grip::{
    ByteString, CloseFrame, ControlMessage, Event, Extension, extension::Sort,
    header::SEC_WEBSOCKET_EXTENSIONS,
};
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};
use tracing::{debug, warn};
use tungstenite::Message;

use crate::{
    channels::{Channels, Subscription},
    exchange::{ExchangeError, Identity, Reply, exchange},
    filter::{Filters, Meta},
    frame,
    outbox::{Connection, DropReason, Order, Outbox},
    sessions::{Registration, Sessions},
    signer::Signer,
    socket::{Socket, close_for},
};
use runtime::{backend::Backend, manifest::WebSocketLimits};

/// How long a client may take to answer a close frame, and to take what was sent before it.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// What an event counts for beside its content, so that many empty messages are bounded too.
const EVENT_BYTES: usize = 64;

/// The most channels a session can be subscribed to.
const MAX_SUBSCRIPTIONS: usize = 1000;

/// What all sessions of a host share.
pub struct Services {
    /// Where events go.
    pub backend: Arc<dyn Backend>,
    /// What sessions subscribe to.
    pub channels: Channels,
    /// Where sessions are counted.
    pub sessions: Arc<Sessions>,
    /// What signs the requests.
    pub signer: Signer,
    /// The bounds of each session.
    pub limits: WebSocketLimits,
}

/// A session before its handshake is through, with what the backend has said so far.
pub struct Session {
    services: Arc<Services>,
    identity: Identity,
    outbox: Arc<Outbox>,
    subscriptions: Vec<Subscription>,
    /// What the filters of the subscriptions look at.
    meta: Meta,
    /// Which messages of the backend are content and which control; `None`: all are content.
    grip: Option<Extension>,
    keep_alive: Option<Duration>,
    /// The backend wants to hear no more of this connection.
    detached: bool,
    /// The backend asked to drop the client.
    dropped: bool,
    /// Last, so that the session is counted until all else of it is gone.
    _registration: Registration,
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Messages flow.
    Open,
    /// We sent a close frame and wait for the client's; what else it says is ignored.
    Closing,
    /// It broke the protocol: we sent a close frame and wait until it is gone.
    Broken,
    /// The client's side has ended, and the backend is told so.
    Ended,
}

type Exchange = Pin<Box<dyn Future<Output = Result<Reply, ExchangeError>> + Send>>;

/// A session with its socket.
struct Live {
    session: Session,
    socket: Socket,
    phase: Phase,
    /// The request under way.
    exchange: Option<Exchange>,
    /// What the next request tells.
    pending: Vec<Event>,
    pending_bytes: usize,
    /// The next request goes out even with nothing to tell.
    refresh: bool,
    /// The close frame of a client that closes.
    farewell: Option<Bytes>,
    /// The end of the keep-alive interval or of the patience with a close.
    alarm: Option<Pin<Box<Sleep>>>,
}

enum Happening {
    Order(Order),
    Reply(Result<Reply, ExchangeError>),
    Message(Result<Message, Box<tungstenite::Error>>),
    /// A client that was to be closed is gone.
    Gone,
    Alarm,
}

/// Whether the session goes on.
type Goes = std::ops::ControlFlow<()>;

impl Session {
    /// A session whose backend has answered its OPEN with `reply`, from which the OPEN
    /// event itself is taken out. What the reply says is in force when this returns:
    /// a client that sees its handshake succeed is subscribed.
    pub fn new(
        services: Arc<Services>,
        identity: Identity,
        outbox: Arc<Outbox>,
        registration: Registration,
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
            subscriptions: Vec::new(),
            meta: Meta::default(),
            grip,
            keep_alive: None,
            detached: false,
            dropped: false,
            _registration: registration,
        };
        session.act(reply);
        session
    }

    /// Serves the socket until it is closed. `early` is what came behind the handshake.
    pub async fn run(self, connection: Arc<dyn Connection>, early: Bytes) {
        let socket = Socket::new(
            connection.clone(),
            self.outbox.clone(),
            early,
            self.services.limits.max_message_size,
        );
        self.outbox.attach(connection);
        let mut live = Live {
            session: self,
            socket,
            phase: Phase::Open,
            exchange: None,
            pending: Vec::new(),
            pending_bytes: 0,
            refresh: false,
            farewell: None,
            alarm: None,
        };
        live.rest();
        while live.step().await.is_continue() {}
        live.finish().await;
    }

    /// Ends a session whose client was gone before its handshake was through.
    pub async fn abandon(self) {
        let request = self
            .identity
            .request(&self.services.signer, &[Event::Disconnect]);
        if let Err(error) = exchange(self.services.backend.clone(), request).await {
            self.warn(&format!("the backend failed: {error}"));
        }
    }

    /// Does what the backend's reply says, in its order.
    fn act(&mut self, reply: Reply) {
        self.keep_alive = reply.keep_alive();
        self.identity.remember(&reply.headers);
        for event in reply.events {
            match event {
                Event::Text(content) => self.message(content.into_bytes(), frame::text),
                Event::Binary(content) => self.message(content, frame::binary),
                Event::Ping(content) => self.outbox.send(frame::ping(content)),
                Event::Pong(content) => self.outbox.send(frame::pong(content)),
                Event::Close(close) => self.outbox.close(close_frame(close)),
                Event::Disconnect => self.dropped = true,
                Event::Open => {
                    self.warn("the backend opened a connection that is open");
                    self.outbox
                        .close(frame::close(frame::FAILED, "the backend failed"));
                }
            }
        }
    }

    fn message(&mut self, content: Bytes, encode: fn(Bytes) -> Bytes) {
        let Some(grip) = &self.grip else {
            return self.outbox.send(encode(content));
        };
        match grip.sort(&content) {
            Sort::Content(inner) => self.outbox.send(encode(content.slice_ref(inner))),
            Sort::Neither => self.warn("a message without prefix was dropped"),
            Sort::Control(json) => match ControlMessage::parse(json) {
                Ok(message) => self.control(message),
                Err(error) => self.warn(&format!("control message: {error}")),
            },
        }
    }

    fn control(&mut self, message: ControlMessage) {
        match message {
            ControlMessage::Subscribe { channel, filters } => {
                let filters = match Filters::parse(&filters, &mut self.meta) {
                    Ok(filters) => filters,
                    Err(error) => return self.warn(&format!("subscribe {channel:?}: {error}")),
                };
                if self
                    .subscriptions
                    .iter()
                    .any(|known| known.channel() == channel)
                {
                    return;
                }
                if self.subscriptions.len() == MAX_SUBSCRIPTIONS {
                    return self.warn(&format!("no more than {MAX_SUBSCRIPTIONS} channels"));
                }
                let subscription =
                    self.services
                        .channels
                        .subscribe(&channel, self.outbox.clone(), filters);
                self.subscriptions.push(subscription);
            }
            ControlMessage::Unsubscribe { channel } => {
                self.subscriptions
                    .retain(|known| known.channel() != channel);
            }
            ControlMessage::Detach => self.detached = true,
            ControlMessage::SetMeta { name, value } => {
                if let Err(error) = self.meta.set(&name, value.as_deref()) {
                    self.warn(&format!("set-meta {name:?}: {error}"));
                }
            }
            other => self.warn(&format!(
                "control message is not supported yet: {}",
                other.to_json()
            )),
        }
    }

    fn warn(&self, what: &str) {
        warn!(connection = ?self.identity.id, route = self.identity.head.path(), "{what}");
    }
}

impl Live {
    /// Waits for one thing to happen and deals with it.
    async fn step(&mut self) -> Goes {
        match self.next().await {
            Happening::Order(order) => self.obey(order),
            Happening::Reply(reply) => self.hear_backend(reply),
            Happening::Message(message) => self.hear_client(message),
            Happening::Gone => self.end(Event::Disconnect),
            Happening::Alarm if self.phase == Phase::Open => {
                self.refresh = true;
                self.tell()
            }
            // The client had its time to answer our close.
            Happening::Alarm => self.end(Event::Disconnect),
        }
    }

    async fn next(&mut self) -> Happening {
        poll_fn(|cx| {
            if let Poll::Ready(order) = self.session.outbox.poll_order(cx) {
                // Once the client's side has ended only the backend is waited for.
                if self.phase != Phase::Ended {
                    return Poll::Ready(Happening::Order(order));
                }
            }
            if let Some(exchange) = &mut self.exchange
                && let Poll::Ready(reply) = exchange.as_mut().poll(cx)
            {
                self.exchange = None;
                return Poll::Ready(Happening::Reply(reply));
            }
            match self.phase {
                // A client that sends faster than the backend answers is not read: TCP holds it back.
                Phase::Open
                    if self.pending_bytes >= self.session.services.limits.max_incoming_buffer => {}
                Phase::Open | Phase::Closing => {
                    if let Poll::Ready(message) = self.socket.poll_message(cx) {
                        return Poll::Ready(Happening::Message(message.map_err(Box::new)));
                    }
                }
                Phase::Broken => {
                    if self.socket.poll_gone(cx).is_ready() {
                        return Poll::Ready(Happening::Gone);
                    }
                }
                Phase::Ended => {}
            }
            if let Some(alarm) = &mut self.alarm
                && alarm.as_mut().poll(cx).is_ready()
            {
                self.alarm = None;
                return Poll::Ready(Happening::Alarm);
            }
            Poll::Pending
        })
        .await
    }

    fn obey(&mut self, order: Order) -> Goes {
        match order {
            Order::Refresh => {
                self.refresh = true;
                self.tell()
            }
            Order::Close => {
                if self.session.outbox.overflowed() {
                    self.session.warn("the client does not keep up: closed");
                }
                self.await_close(Phase::Closing);
                Goes::Continue(())
            }
            Order::Drop(reason) => {
                if reason == DropReason::Silent {
                    self.session.warn("the client is silent: dropped");
                }
                self.end(Event::Disconnect)
            }
        }
    }

    fn hear_client(&mut self, message: Result<Message, Box<tungstenite::Error>>) -> Goes {
        let sessions = &self.session.services.sessions;
        self.session.outbox.heard_at(sessions.now());
        let message = match message {
            Ok(message) => message,
            Err(error) => {
                return match close_for(&error) {
                    Some((code, reason)) => {
                        debug!(connection = ?self.session.identity.id, code, "{error}");
                        self.session.outbox.close(frame::close(code, &reason));
                        self.await_close(Phase::Broken);
                        Goes::Continue(())
                    }
                    None => self.end(Event::Disconnect),
                };
            }
        };
        match message {
            Message::Close(close) => {
                let close =
                    close.map(|close| CloseFrame::new(close.code.into(), close.reason.as_str()));
                self.farewell = Some(close_frame(close.clone()));
                self.end(Event::Close(close))
            }
            Message::Text(content) if self.phase == Phase::Open => {
                match ByteString::try_from(Bytes::from(content)) {
                    Ok(content) => self.offer(Event::Text(content)),
                    // tungstenite has checked it.
                    Err(_) => Goes::Continue(()),
                }
            }
            Message::Binary(content) if self.phase == Phase::Open => {
                self.offer(Event::Binary(content))
            }
            // Pings are answered here, and pongs say what was noted above.
            _ => Goes::Continue(()),
        }
    }

    fn hear_backend(&mut self, reply: Result<Reply, ExchangeError>) -> Goes {
        match reply {
            Ok(reply) => self.session.act(reply),
            Err(error) => {
                self.session.warn(&format!("the backend failed: {error}"));
                if self.phase == Phase::Ended {
                    return Goes::Break(());
                }
                self.session
                    .outbox
                    .close(frame::close(frame::FAILED, "the backend failed"));
            }
        }
        if self.session.dropped {
            return Goes::Break(());
        }
        self.tell()
    }

    fn offer(&mut self, event: Event) -> Goes {
        if self.session.detached {
            return Goes::Continue(());
        }
        self.pending_bytes += event.content_len() + EVENT_BYTES;
        self.pending.push(event);
        self.tell()
    }

    /// The client's side is over: the backend is told how, and then it is the end.
    fn end(&mut self, how: Event) -> Goes {
        self.phase = Phase::Ended;
        self.alarm = None;
        self.refresh = false;
        self.offer(how)?;
        self.tell()
    }

    /// Starts the next request, when none is under way and there is a reason for one.
    fn tell(&mut self) -> Goes {
        if self.exchange.is_some() {
            return Goes::Continue(());
        }
        let refresh = mem::take(&mut self.refresh);
        if (self.pending.is_empty() && !refresh) || self.session.detached {
            if self.phase == Phase::Ended {
                return Goes::Break(());
            }
            self.rest();
            return Goes::Continue(());
        }
        let events = mem::take(&mut self.pending);
        self.pending_bytes = 0;
        let request = self
            .session
            .identity
            .request(&self.session.services.signer, &events);
        self.exchange = Some(Box::pin(exchange(
            self.session.services.backend.clone(),
            request,
        )));
        Goes::Continue(())
    }

    /// Nothing is to do: the keep-alive interval begins.
    fn rest(&mut self) {
        if self.phase == Phase::Open {
            self.alarm = self
                .session
                .keep_alive
                .map(|interval| Box::pin(sleep(interval)));
        }
    }

    fn await_close(&mut self, phase: Phase) {
        if self.phase != Phase::Broken {
            self.phase = phase;
        }
        self.alarm = Some(Box::pin(sleep_until(Instant::now() + CLOSE_PATIENCE)));
    }

    /// Completes the closing handshake, and lets the last bytes out.
    async fn finish(mut self) {
        if self.session.dropped {
            return;
        }
        if let Some(frame) = self.farewell.take() {
            // Nothing happens when the backend's own close was sent before.
            self.session.outbox.close(frame);
            let _ = timeout(
                CLOSE_PATIENCE,
                poll_fn(|cx| self.session.outbox.poll_drained(cx)),
            )
            .await;
        }
    }
}

fn close_frame(close: Option<CloseFrame>) -> Bytes {
    match close {
        Some(close) => frame::close(close.code, &close.reason),
        None => frame::close_without_code(),
    }
}

#[cfg(test)]
mod tests;
