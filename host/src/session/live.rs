//! A session with its socket: what happens, one thing after the other.

use std::{
    future::{Future, poll_fn},
    hash::{DefaultHasher, Hash, Hasher},
    mem,
    ops::ControlFlow,
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use grip::{ByteString, CloseFrame, Event};
use http::HeaderValue;
use tokio::time::{Sleep, sleep, timeout};
use tracing::debug;
use tungstenite::Message;

use super::{Link, Session, close_frame, pending::Pending};
use crate::{
    ending::Ending,
    exchange::{ExchangeError, Reply, exchange},
    frame,
    outbox::{Connection, Order, Stage},
    sessions,
    socket::{Socket, close_for},
};

/// How long a client may take to answer a close frame, and to take what was sent before it.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// How often a backend that is not reached is tried again; as in Pushpin.
pub const RETRIES: u32 = 5;

/// The shortest pause before the first retry, doubled before each further one, and the most
/// that is added to it by chance; as in Pushpin.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The pause of the connection `id` after so many attempts again that did not reach the backend.
pub fn pause(attempts: u32, id: &HeaderValue) -> Duration {
    // Ids are drawn by chance, and by that connections that failed together come apart.
    let mut chance = DefaultHasher::new();
    (id.as_bytes(), attempts).hash(&mut chance);
    let part = f64::from(chance.finish() as u32) / f64::from(u32::MAX);
    RETRY_PAUSE * (1 << attempts) + RETRY_PAUSE.mul_f64(part)
}

/// See the module's words.
pub struct Live {
    session: Session,
    /// `None` when the client was let go.
    socket: Option<Socket>,
    phase: Phase,
    /// The request under way.
    exchange: Option<Exchange>,
    /// How often it was tried again.
    retries: u32,
    /// What the backend has to be told.
    pending: Pending,
    /// The next request goes out even with nothing to tell.
    refresh: bool,
    /// The close frame of a client that closes.
    farewell: Option<Bytes>,
    /// The end of the keep-alive interval, or of the patience with a client that is to close
    /// or to take what it is sent as the last.
    alarm: Option<Pin<Box<Sleep>>>,
    /// The first cause of the end.
    ending: Option<Ending>,
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Messages flow.
    Open,
    /// We sent a close frame and wait for the client's; what it said before is still told.
    Closing,
    /// It broke the protocol: we sent a close frame and wait until it is gone.
    Broken,
    /// The client's side has ended, and the backend is told so.
    Ended,
}

type Exchange = Pin<Box<dyn Future<Output = Result<Reply, ExchangeError>> + Send>>;

enum Happening {
    Order(Order),
    Reply(Result<Reply, ExchangeError>),
    Message(Result<Message, Box<tungstenite::Error>>),
    /// A client that was to be closed is gone.
    Gone,
    Alarm,
}

/// Whether the session goes on.
type Goes = ControlFlow<()>;

impl Live {
    /// Joins a session and its socket. `early` is what came behind the handshake.
    pub fn new(session: Session, connection: Arc<dyn Connection>, early: Bytes) -> Self {
        let socket = Socket::new(
            connection.clone(),
            session.outbox.clone(),
            early,
            session.services.limits.max_message_size,
        );
        session.outbox.attach(connection);
        // However long the backend took to accept it.
        session.outbox.heard_at(session.services.sessions.now());
        Self {
            session,
            socket: Some(socket),
            phase: Phase::Open,
            exchange: None,
            retries: 0,
            pending: Pending::default(),
            refresh: false,
            farewell: None,
            alarm: None,
            ending: None,
        }
    }

    /// Goes on until the socket is closed and the backend knows.
    pub async fn run(mut self: Box<Self>) -> Ending {
        let mut goes = self.heed();
        while goes.is_continue() {
            goes = match self.next().await {
                Happening::Order(order) => self.obey(order),
                Happening::Reply(reply) => self.hear_backend(reply),
                Happening::Message(message) => self.hear_client(message),
                Happening::Gone => self.end(Event::Disconnect, Ending::Vanished),
                Happening::Alarm => self.wake(),
            };
        }
        self.finish().await
    }

    async fn next(&mut self) -> Happening {
        poll_fn(|cx| {
            let session = &mut self.session;
            if let Some(timers) = &mut session.timers
                && self.phase != Phase::Ended
            {
                timers.poll(cx, &session.outbox);
            }
            if let Poll::Ready(order) = session.outbox.poll_order(cx) {
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
            // Both sides have closed, and the backend's answer is nothing to the client.
            if self.phase == Phase::Ended
                && self.socket.is_some()
                && self.session.outbox.stage() == Stage::Closing
            {
                if self.session.outbox.poll_drained(cx).is_ready() {
                    self.let_go();
                } else {
                    self.alarm
                        .get_or_insert_with(|| Box::pin(sleep(CLOSE_PATIENCE)));
                }
            }
            // Before the client, who may never stop sending.
            if let Some(alarm) = &mut self.alarm
                && alarm.as_mut().poll(cx).is_ready()
            {
                self.alarm = None;
                return Poll::Ready(Happening::Alarm);
            }
            let is_full = self.is_full();
            if let Some(socket) = &mut self.socket {
                match self.phase {
                    // A client that sends faster than the backend answers is not read: TCP holds
                    // it back.
                    Phase::Open | Phase::Closing if is_full => {
                        self.session.outbox.not_listened();
                    }
                    Phase::Open | Phase::Closing => {
                        if let Poll::Ready(message) = socket.poll_message(cx) {
                            return Poll::Ready(Happening::Message(message.map_err(Box::new)));
                        }
                    }
                    Phase::Broken => {
                        if socket.poll_gone(cx).is_ready() {
                            return Poll::Ready(Happening::Gone);
                        }
                    }
                    Phase::Ended => {}
                }
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
            Order::Close(why) => {
                if why == Ending::Slow {
                    self.session.warn("the client does not keep up: closed");
                }
                self.await_close(Phase::Closing, why);
                Goes::Continue(())
            }
            Order::Drop(why) => {
                if why == Ending::Silent {
                    self.session.warn("the client is silent: dropped");
                }
                self.end(Event::Disconnect, why)
            }
        }
    }

    fn hear_client(&mut self, message: Result<Message, Box<tungstenite::Error>>) -> Goes {
        self.heard();
        let message = match message {
            Ok(message) => message,
            Err(error) => {
                return match close_for(&error) {
                    Some((code, reason)) => {
                        debug!(connection = ?self.session.identity.id, code, "{error}");
                        let frame = frame::close(code, &reason);
                        self.session.outbox.close(frame, Ending::Protocol);
                        self.await_close(Phase::Broken, Ending::Protocol);
                        Goes::Continue(())
                    }
                    None => self.end(Event::Disconnect, Ending::Vanished),
                };
            }
        };
        if let Message::Text(_) | Message::Binary(_) = &message {
            let received = &self.session.services.metrics.received;
            received.add(1, message.len());
        }
        let event = match message {
            Message::Text(content) => match ByteString::try_from(Bytes::from(content)) {
                Ok(content) => Event::Text(content),
                // tungstenite has checked it.
                Err(_) => return Goes::Continue(()),
            },
            Message::Binary(content) => Event::Binary(content),
            // It is answered already: a client must not be taken for dead since its backend is slow.
            Message::Ping(content) => Event::Ping(content),
            Message::Pong(content) if content == sessions::PING => return Goes::Continue(()),
            Message::Pong(content) => Event::Pong(content),
            Message::Close(close) => {
                let close =
                    close.map(|close| CloseFrame::new(close.code.into(), close.reason.as_str()));
                self.farewell = Some(close_frame(close.clone()));
                return self.end(Event::Close(close), Ending::Client);
            }
            // Only asked for by reading frames.
            Message::Frame(_) => return Goes::Continue(()),
        };
        self.note(event);
        self.tell()
    }

    fn hear_backend(&mut self, reply: Result<Reply, ExchangeError>) -> Goes {
        if self.is_full() {
            // While it was not read it could not show that it is alive.
            self.heard();
        }
        let reply = match reply {
            Err(error) if error.is_unreached() && self.retries < RETRIES => {
                return self.try_again(&error);
            }
            reply => reply.map_err(|error| error.to_string()),
        };
        self.retries = 0;
        let bound = self.session.services.limits.max_incoming_buffer;
        let reply = reply.and_then(|reply| {
            let accepted = self.pending.accept(reply.accepted(), bound);
            accepted.map_err(|error| error.to_string())?;
            Ok(reply)
        });
        match reply {
            // It has taken a part of what it is told as the last.
            Ok(_) if self.session.link == Link::Leaving && self.pending.has_news() => {}
            _ if self.session.link == Link::Leaving => self.session.link = Link::Down,
            Ok(reply) => self.session.act(reply),
            Err(error) if self.phase == Phase::Ended => {
                self.session.warn(&format!("the backend failed: {error}"));
                self.session.link = Link::Down;
            }
            Err(error) => self.session.fail(&error),
        }
        self.heed()
    }

    /// Follows what the backend's words have changed.
    fn heed(&mut self) -> Goes {
        match self.session.link {
            Link::Up | Link::Leaving => {}
            Link::Detaching => {
                // The end of a client that has ended is told instead.
                if self.phase != Phase::Ended {
                    self.pending.push(Event::Close(None));
                }
                self.session.link = Link::Leaving;
            }
            Link::Down => self.pending.clear(),
            Link::Dropped => {
                self.ending.get_or_insert(Ending::Backend);
                return Goes::Break(());
            }
        }
        self.tell()
    }

    fn wake(&mut self) -> Goes {
        match self.phase {
            Phase::Open => {
                self.refresh = true;
                self.tell()
            }
            // The client had its time to answer our close.
            Phase::Closing | Phase::Broken => self.end(Event::Disconnect, Ending::Vanished),
            Phase::Ended => {
                self.let_go();
                Goes::Continue(())
            }
        }
    }

    /// The client's side is over: the backend is told how, and then it is the end.
    fn end(&mut self, how: Event, why: Ending) -> Goes {
        self.ending.get_or_insert(why);
        self.phase = Phase::Ended;
        self.alarm = None;
        self.refresh = false;
        if how == Event::Disconnect {
            self.let_go();
        }
        self.note(how);
        self.tell()
    }

    /// Closes the connection of a client that gets no more, however long the backend takes to
    /// hear of it: a browser, for one, tells its page of a close only then.
    fn let_go(&mut self) {
        self.alarm = None;
        self.socket = None;
        self.session.outbox.detach();
    }

    /// Keeps an event for the backend, if it still wants to hear.
    fn note(&mut self, event: Event) {
        if self.session.link == Link::Up {
            self.pending.push(event);
        }
    }

    /// Starts the next request, when none is under way and there is a reason for one.
    fn tell(&mut self) -> Goes {
        if self.exchange.is_some() {
            return Goes::Continue(());
        }
        let reason = mem::take(&mut self.refresh) || self.pending.has_news();
        if reason && self.session.link != Link::Down {
            if self.phase == Phase::Open {
                self.alarm = None;
            }
            let session = &self.session;
            let (events, replayed) = self.pending.offer();
            let signer = &session.services.signer;
            let request = session.identity.request(signer, events, replayed);
            let backend = session.services.backend.clone();
            self.exchange = Some(Box::pin(exchange(backend, request)));
        } else if self.phase == Phase::Ended {
            return Goes::Break(());
        } else {
            self.rest();
        }
        Goes::Continue(())
    }

    /// Tells again, after a pause, what did not reach the backend.
    fn try_again(&mut self, error: &ExchangeError) -> Goes {
        let session = &self.session;
        let pause = pause(self.retries, &session.identity.id);
        self.retries += 1;
        session.warn(&format!("{error}; the next attempt is in {pause:.1?}"));
        let (events, replayed) = self.pending.offered_again();
        let signer = &session.services.signer;
        let request = session.identity.request(signer, events, replayed);
        let backend = session.services.backend.clone();
        self.exchange = Some(Box::pin(async move {
            sleep(pause).await;
            exchange(backend, request).await
        }));
        Goes::Continue(())
    }

    /// Nothing is to do: the keep-alive interval begins.
    fn rest(&mut self) {
        if self.phase == Phase::Open {
            let interval = self.session.keep_alive;
            self.alarm = interval
                .filter(|_| self.session.link == Link::Up)
                .map(|interval| Box::pin(sleep(interval)));
        }
    }

    fn await_close(&mut self, phase: Phase, why: Ending) {
        self.ending.get_or_insert(why);
        if self.phase != Phase::Broken {
            self.phase = phase;
        }
        self.alarm = Some(Box::pin(sleep(CLOSE_PATIENCE)));
    }

    fn is_full(&self) -> bool {
        self.pending.bytes() >= self.session.services.limits.max_incoming_buffer
    }

    /// Notes that the client is alive.
    fn heard(&self) {
        let now = self.session.services.sessions.now();
        self.session.outbox.heard_at(now);
    }

    /// Completes the closing handshake, and lets the last bytes out.
    async fn finish(&mut self) -> Ending {
        let ending = self.ending.unwrap_or(Ending::Vanished);
        if self.session.link == Link::Dropped {
            return ending;
        }
        if let Some(frame) = self.farewell.take()
            && self.socket.is_some()
        {
            // Nothing happens when the backend's own close was sent before.
            self.session.outbox.close(frame, ending);
            let drained = poll_fn(|cx| self.session.outbox.poll_drained(cx));
            let _ = timeout(CLOSE_PATIENCE, drained).await;
        }
        ending
    }
}
