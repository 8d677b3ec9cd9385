//! A session with its socket: what happens, one thing after the other.

use crate::state::sessions::Stage;
use std::{
    future::{Future, poll_fn},
    mem,
    ops::ControlFlow,
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use grip::{ByteString, CloseFrame, Event};
use tokio::time::{Sleep, sleep, timeout};
use tracing::debug;
use tungstenite::Message;

use crate::ws::{
    pending::Pending,
    session::{Link, Session, close_frame},
};
use crate::{
    backoff,
    metrics::close_reason::CloseReason,
    net::frame,
    state::sessions,
    ws::{
        outbox::{Command, Connection},
        reader::{Reader, close_for},
        ws_over_http::{ExchangeError, Reply, exchange},
    },
};

/// How long a client may take to answer a close frame, and to take what was sent before it.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// Serves an open WebSocket until it is closed, and returns why it was closed. `early` holds bytes
/// that were received together with the handshake.
pub(crate) fn serve(
    session: Session,
    connection: Arc<dyn Connection>,
    early: Bytes,
) -> impl Future<Output = CloseReason> + Send {
    // Boxed, since otherwise the task of an idle socket would reserve space for every move of it.
    Box::new(Driver::new(session, connection, early)).run()
}

/// Ends a session whose client disconnected before the handshake was complete.
pub(crate) async fn abandon(session: Session) -> CloseReason {
    let identity = &session.identity;
    let mut attempts = 0;
    loop {
        let request = identity.request(&session.services.signer, &[Event::Disconnect], 0);
        match exchange(session.services.backend.clone(), request).await {
            Err(error) if error.is_unreached() && attempts < backoff::RETRIES => {
                sleep(backoff::delay(attempts)).await;
                attempts += 1;
            }
            Err(error) => break session.warn(&format!("the backend failed: {error}")),
            Ok(_) => break,
        }
    }
    CloseReason::Vanished
}

/// A session together with its socket.
struct Driver {
    session: Session,
    /// `None` when the client was let go.
    socket: Option<Reader>,
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
    ending: Option<CloseReason>,
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

enum Wakeup {
    Command(Command),
    Reply(Result<Reply, ExchangeError>),
    Message(Result<Message, Box<tungstenite::Error>>),
    /// A client that was to be closed is gone.
    Gone,
    Alarm,
}

/// Whether the session goes on.
type Goes = ControlFlow<()>;

impl Driver {
    fn new(session: Session, connection: Arc<dyn Connection>, early: Bytes) -> Self {
        let socket = Reader::new(
            connection.clone(),
            session.outbox.clone(),
            early,
            session.services.limits.max_message_bytes,
        );
        session.outbox.attach(connection);
        // However long the backend took to accept it.
        session
            .outbox
            .activity()
            .record_received(session.services.sessions.now());
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

    /// Serves the socket until it is closed and the backend knows.
    async fn run(mut self: Box<Self>) -> CloseReason {
        let mut goes = self.heed();
        while goes.is_continue() {
            goes = match self.next().await {
                Wakeup::Command(order) => self.obey(order),
                Wakeup::Reply(reply) => self.hear_backend(reply),
                Wakeup::Message(message) => self.hear_client(message),
                Wakeup::Gone => self.end(Event::Disconnect, CloseReason::Vanished),
                Wakeup::Alarm => self.wake(),
            };
        }
        self.finish().await
    }

    async fn next(&mut self) -> Wakeup {
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
                    return Poll::Ready(Wakeup::Command(order));
                }
            }
            if let Some(exchange) = &mut self.exchange
                && let Poll::Ready(reply) = exchange.as_mut().poll(cx)
            {
                self.exchange = None;
                return Poll::Ready(Wakeup::Reply(reply));
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
                return Poll::Ready(Wakeup::Alarm);
            }
            let is_full = self.is_full();
            if let Some(socket) = &mut self.socket {
                match self.phase {
                    // A client that sends faster than the backend answers is not read: TCP holds
                    // it back.
                    Phase::Open | Phase::Closing if is_full => {
                        self.session.outbox.activity().pause();
                    }
                    Phase::Open | Phase::Closing => {
                        if let Poll::Ready(message) = socket.poll_message(cx) {
                            return Poll::Ready(Wakeup::Message(message.map_err(Box::new)));
                        }
                    }
                    Phase::Broken => {
                        if socket.poll_gone(cx).is_ready() {
                            return Poll::Ready(Wakeup::Gone);
                        }
                    }
                    Phase::Ended => {}
                }
            }
            Poll::Pending
        })
        .await
    }

    fn obey(&mut self, order: Command) -> Goes {
        match order {
            Command::Refresh => {
                self.refresh = true;
                self.tell()
            }
            Command::Close(why) => {
                if why == CloseReason::Slow {
                    self.session.warn("the client does not keep up: closed");
                }
                self.await_close(Phase::Closing, why);
                Goes::Continue(())
            }
            Command::Drop(why) => {
                if why == CloseReason::Silent {
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
                        self.session.outbox.close(frame, CloseReason::Protocol);
                        self.await_close(Phase::Broken, CloseReason::Protocol);
                        Goes::Continue(())
                    }
                    None => self.end(Event::Disconnect, CloseReason::Vanished),
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
                return self.end(Event::Close(close), CloseReason::Client);
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
            Err(error) if error.is_unreached() && self.retries < backoff::RETRIES => {
                return self.try_again(&error);
            }
            reply => reply.map_err(|error| error.to_string()),
        };
        self.retries = 0;
        let bound = self.session.services.limits.max_incoming_buffer_bytes;
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
                self.ending.get_or_insert(CloseReason::Backend);
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
            Phase::Closing | Phase::Broken => self.end(Event::Disconnect, CloseReason::Vanished),
            Phase::Ended => {
                self.let_go();
                Goes::Continue(())
            }
        }
    }

    /// The client's side is over: the backend is told how, and then it is the end.
    fn end(&mut self, how: Event, why: CloseReason) -> Goes {
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
        let pause = backoff::delay(self.retries);
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

    fn await_close(&mut self, phase: Phase, why: CloseReason) {
        self.ending.get_or_insert(why);
        if self.phase != Phase::Broken {
            self.phase = phase;
        }
        self.alarm = Some(Box::pin(sleep(CLOSE_PATIENCE)));
    }

    fn is_full(&self) -> bool {
        self.pending.bytes() >= self.session.services.limits.max_incoming_buffer_bytes
    }

    /// Notes that the client is alive.
    fn heard(&self) {
        let now = self.session.services.sessions.now();
        self.session.outbox.activity().record_received(now);
    }

    /// Completes the closing handshake, and lets the last bytes out.
    async fn finish(&mut self) -> CloseReason {
        let ending = self.ending.unwrap_or(CloseReason::Vanished);
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
