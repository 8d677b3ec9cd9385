//! The task of a session: waits for the client, the backend, publications and the shutdown,
//! and handles one at a time.

use std::{
    future::{Future, poll_fn},
    mem,
    num::NonZeroU32,
    ops::ControlFlow,
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use grip::Event;
use http::Request;
use spin_runtime::{backend::Body, websocket::FramesCall};
use tokio::time::{Sleep, sleep, timeout};
use tracing::debug;

use crate::{
    backoff,
    config::Limits,
    metrics::close_reason::CloseReason,
    net::{frame, rate::Rate},
    state::sessions::{self, Stage},
    telemetry::panics::{self, Panicked},
    ws::{
        outbox::{Command, Connection},
        pending::Pending,
        reader::{ReadError, Reader},
        session::{Attachment, Session, close_frame, warn_session},
        ws_over_http::{EventsResponse, RoundTripError, round_trip},
    },
};

/// How long a client may take to answer a close frame, and to read what was sent before it.
const CLOSE_TIMEOUT: Duration = Limits::DEFAULT.close_timeout;

/// Serves an open WebSocket until it is closed, and returns why it was closed. `early` holds bytes
/// that were received together with the handshake.
pub(super) fn serve(
    session: Session,
    connection: Arc<dyn Connection>,
    early: Bytes,
) -> impl Future<Output = CloseReason> + Send {
    // Boxed, since otherwise the task of an idle socket would reserve space for every move of it.
    Box::new(Driver::new(session, connection, early)).run()
}

/// Ends a session whose client disconnected before the handshake was complete.
pub(super) async fn abandon(session: Session) -> CloseReason {
    if session.typed.is_some() {
        return abandon_typed(session).await;
    }
    let info = &session.info;
    let mut retries = 0;
    loop {
        let mut request = info.request(&session.services.signer, &[Event::Disconnect], 0);
        let tracer = &session.services.telemetry.tracer;
        let _span = info.start_request_span(tracer, &mut request);
        let max_bytes = session.services.limits.max_response_events_bytes;
        match round_trip(session.services.backend.clone(), request, max_bytes).await {
            Err(error) if error.is_unreachable() && retries < backoff::RETRIES => {
                sleep(backoff::delay(retries, info.id.as_bytes())).await;
                retries += 1;
            }
            Err(error) => {
                warn_session!(session, %error, "backend failed");
                break;
            }
            Ok(_) => break,
        }
    }
    CloseReason::Vanished
}

/// Ends a session of a component that handles typed frames.
async fn abandon_typed(mut session: Session) -> CloseReason {
    let caller = session.info.caller;
    let Some(link) = &mut session.typed else {
        return CloseReason::Vanished;
    };
    let opened = match link.take_opening() {
        Some(opening) => opening.await,
        None => Ok(()),
    };
    let call = link.frames(&[Event::Disconnect], caller);
    let called = match opened {
        Ok(()) => session.services.backend.receive_frames(call).await,
        failed => failed,
    };
    if let Err(error) = called {
        warn_session!(session, %error, "backend failed");
    }
    CloseReason::Vanished
}

/// A session together with its socket.
struct Driver {
    session: Session,
    /// `None` once the connection is closed.
    reader: Option<Reader>,
    /// The messages of the client, and how many it may send in a second.
    rate: Rate,
    max_rate: Option<NonZeroU32>,
    phase: Phase,
    /// The request in flight.
    round_trip: Option<RoundTrip>,
    /// How often the request in flight was retried.
    retries: u32,
    /// Events for the backend.
    pending: Pending,
    /// The next request is sent even without events.
    refresh: bool,
    /// The last request asks the backend to bind the session to its user again.
    asks_for_user: bool,
    /// The answer to the client's close frame.
    close_reply: Option<Bytes>,
    /// The end of the keep-alive interval while open, of [`CLOSE_TIMEOUT`] while closing.
    deadline: Option<Pin<Box<Sleep>>>,
    /// The first cause of the end.
    close_reason: Option<CloseReason>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Messages flow in both directions.
    Open,
    /// We sent a close frame and wait for the client's. Messages that the client sent before it
    /// are still forwarded.
    Closing,
    /// The client violated the protocol. We sent a close frame and discard input until EOF.
    Discarding,
    /// The client's side has ended; the remaining events are sent to the backend.
    Ended,
}

type RoundTrip = Pin<Box<dyn Future<Output = Result<EventsResponse, RoundTripError>> + Send>>;

enum Wakeup {
    Command(Command),
    Response(Result<EventsResponse, RoundTripError>),
    /// The events that had to wait for a subscription are applied.
    Applied,
    /// The time of the session's user is over.
    Expired,
    Message(Result<Event, ReadError>),
    /// EOF while input is discarded.
    Eof,
    Deadline,
}

impl Driver {
    fn new(mut session: Session, connection: Arc<dyn Connection>, early: Bytes) -> Self {
        let reader = Reader::new(
            connection.clone(),
            session.outbox.clone(),
            early,
            session.services.limits.max_message_bytes,
        );
        session.outbox.attach(connection);
        // The time that the backend took to accept the client is not silence.
        session
            .outbox
            .activity()
            .record_received(session.services.sessions.now());
        let max_rate = session.services.limits.max_messages_per_second;
        let opening = session.typed.as_mut().and_then(|link| link.take_opening());
        let round_trip = opening.map(|opening| -> RoundTrip {
            Box::pin(async move { Ok(opening.await.map(|()| EventsResponse::default())?) })
        });
        Self {
            session,
            reader: Some(reader),
            rate: Rate::default(),
            max_rate: max_rate.and_then(NonZeroU32::new),
            phase: Phase::Open,
            round_trip,
            retries: 0,
            pending: Pending::default(),
            refresh: false,
            asks_for_user: false,
            close_reply: None,
            deadline: None,
            close_reason: None,
        }
    }

    /// Runs until the socket is closed and the backend has been notified.
    async fn run(mut self: Box<Self>) -> CloseReason {
        let outbox = self.session.outbox.clone();
        let reason = match panics::catch(self.run_until_closed()).await {
            Ok(reason) => reason,
            // Boxed, since otherwise the task would reserve space for it.
            Err(Panicked) => {
                let ended = Box::pin(panics::catch(self.end_after_panic()));
                ended.await.unwrap_or(CloseReason::Failed)
            }
        };
        outbox.detach();
        reason
    }

    /// Closes the client with 1011 after a panic, and lets the backend know that it has disconnected.
    async fn end_after_panic(mut self: Box<Self>) -> CloseReason {
        // It may be what has panicked.
        self.round_trip = None;
        let outbox = self.session.outbox.clone();
        if self.reader.is_some() {
            let frame = frame::close(frame::INTERNAL_ERROR, "internal error");
            outbox.close(frame, CloseReason::Failed);
            let drained = poll_fn(|cx| outbox.poll_drained(cx));
            let _ = timeout(CLOSE_TIMEOUT, drained).await;
        }
        self.disconnect();
        let Self { session, .. } = *self;
        if session.attachment == Attachment::Attached {
            abandon(session).await;
        }
        CloseReason::Failed
    }

    /// Runs until the session has ended, and returns why.
    async fn run_until_closed(&mut self) -> CloseReason {
        let mut flow = self.apply_attachment();
        while flow.is_continue() {
            flow = match self.next().await {
                Wakeup::Command(command) => self.handle_command(command),
                Wakeup::Response(response) => self.handle_response(response),
                Wakeup::Applied => {
                    self.close_if_expired();
                    self.apply_attachment()
                }
                Wakeup::Expired => self.handle_expiry(),
                Wakeup::Message(message) => self.handle_message(message),
                Wakeup::Eof => self.end(Event::Disconnect, CloseReason::Vanished),
                Wakeup::Deadline => self.handle_deadline(),
            };
        }
        self.finish().await
    }

    /// Waits for the next event. Of several that are ready, those that end a session come first, and
    /// the client, who may never stop sending, comes last.
    async fn next(&mut self) -> Wakeup {
        poll_fn(|cx| {
            let session = &mut self.session;
            if let Some(scheduled) = &mut session.scheduled
                && self.phase != Phase::Ended
            {
                scheduled.poll(cx, &session.outbox);
            }
            if let Poll::Ready(command) = session.outbox.poll_command(cx) {
                // Commands concern the client, whose side may have ended.
                if self.phase != Phase::Ended {
                    return Poll::Ready(Wakeup::Command(command));
                }
            }
            if self.session.poll_deferred(cx).is_ready() {
                return Poll::Ready(Wakeup::Applied);
            }
            if self.phase == Phase::Open && self.session.identity.poll_expiry(cx).is_ready() {
                return Poll::Ready(Wakeup::Expired);
            }
            if let Some(round_trip) = &mut self.round_trip
                && let Poll::Ready(response) = round_trip.as_mut().poll(cx)
            {
                self.round_trip = None;
                return Poll::Ready(Wakeup::Response(response));
            }
            // Both sides have closed, so the backend's response cannot affect the client.
            if self.phase == Phase::Ended
                && self.reader.is_some()
                && self.session.outbox.stage() == Stage::Closing
            {
                if self.session.outbox.poll_drained(cx).is_ready() {
                    self.disconnect();
                } else {
                    self.deadline
                        .get_or_insert_with(|| Box::pin(sleep(CLOSE_TIMEOUT)));
                }
            }
            // Polled before the client, which may never stop sending.
            if let Some(deadline) = &mut self.deadline
                && deadline.as_mut().poll(cx).is_ready()
            {
                self.deadline = None;
                return Poll::Ready(Wakeup::Deadline);
            }
            let is_full = self.is_full();
            if let Some(reader) = &mut self.reader {
                match self.phase {
                    // Backpressure: a client that sends faster than the backend accepts is not
                    // read, which makes TCP slow it down.
                    Phase::Open | Phase::Closing if is_full => {
                        self.session.outbox.activity().pause();
                    }
                    Phase::Open | Phase::Closing => {
                        if let Poll::Ready(message) = reader.poll_message(cx) {
                            return Poll::Ready(Wakeup::Message(message));
                        }
                    }
                    Phase::Discarding => {
                        if reader.poll_eof(cx).is_ready() {
                            return Poll::Ready(Wakeup::Eof);
                        }
                    }
                    Phase::Ended => {}
                }
            }
            Poll::Pending
        })
        .await
    }

    fn handle_command(&mut self, command: Command) -> ControlFlow<()> {
        match command {
            Command::Refresh => {
                if self.session.attachment == Attachment::Detached {
                    self.session.outbox.close_if_missed();
                }
                self.refresh = true;
                self.maybe_send()
            }
            Command::CatchUp => {
                self.session.catch_up();
                ControlFlow::Continue(())
            }
            Command::Close(reason) => {
                if reason == CloseReason::Slow {
                    warn_session!(self.session, "client does not keep up, closing with 1013");
                }
                self.await_close(Phase::Closing, reason);
                ControlFlow::Continue(())
            }
            Command::Drop(reason) => {
                if reason == CloseReason::Silent {
                    warn_session!(self.session, "client is silent, dropping the connection");
                }
                self.end(Event::Disconnect, reason)
            }
        }
    }

    fn handle_message(&mut self, message: Result<Event, ReadError>) -> ControlFlow<()> {
        self.record_received();
        let message = message.and_then(|event| match self.max_rate {
            Some(max_rate) if self.rate.record(max_rate).is_err() => Err(ReadError::too_many()),
            _ => Ok(event),
        });
        let event = match message {
            Ok(event) => event,
            Err(ReadError::Disconnected) => {
                return self.end(Event::Disconnect, CloseReason::Vanished);
            }
            Err(ReadError::Violation { code, reason }) => {
                debug!(connection = ?self.session.info.id, code, %reason, "protocol violation by the client");
                let frame = frame::close(code, &reason);
                let reason = match code {
                    frame::POLICY_VIOLATION => CloseReason::TooMany,
                    frame::MESSAGE_TOO_BIG => CloseReason::TooLarge,
                    _ => CloseReason::Protocol,
                };
                self.session.outbox.close(frame, reason);
                self.await_close(Phase::Discarding, reason);
                return ControlFlow::Continue(());
            }
        };
        match &event {
            Event::Text(_) | Event::Binary(_) => {
                let received = &self.session.services.metrics.received;
                received.add(1, event.content_len());
                if self.session.auto_respond(&event) {
                    return ControlFlow::Continue(());
                }
            }
            Event::Pong(content) if content == sessions::PING => {
                return ControlFlow::Continue(());
            }
            Event::Close(close) => {
                self.close_reply = Some(close_frame(close.clone()));
                self.session.is_closed_by_client = true;
                return self.end(event, CloseReason::Client);
            }
            _ => {}
        }
        self.enqueue(event);
        self.maybe_send()
    }

    fn handle_response(
        &mut self,
        response: Result<EventsResponse, RoundTripError>,
    ) -> ControlFlow<()> {
        if self.is_full() {
            // The client was not read, so it could not show that it is alive.
            self.record_received();
        }
        let response = match response {
            // A user whose time is over must not stay for as long as the backend is busy.
            Err(error)
                if error.is_busy()
                    && self.phase != Phase::Ended
                    && self.session.identity.expired_user().is_none() =>
            {
                return self.retry_when_busy();
            }
            Err(error) if error.is_unreachable() && self.retries < backoff::RETRIES => {
                return self.retry(&error);
            }
            response => response.map_err(|error| error.to_string()),
        };
        self.retries = 0;
        let limit = self.session.services.limits.max_incoming_buffer_bytes;
        let response = response.and_then(|response| {
            let accepted = self.pending.accept(response.accepted(), limit);
            accepted.map_err(|error| error.to_string())?;
            if let Some(link) = &mut self.session.typed {
                link.accept();
            }
            Ok(response)
        });
        match response {
            // Only a part of the last batch was accepted, so the rest is sent first.
            Ok(_)
                if self.session.attachment == Attachment::Detaching && self.pending.is_ready() => {}
            _ if self.session.attachment == Attachment::Detaching => {
                self.session.attachment = Attachment::Detached
            }
            Ok(response) => {
                // The backend has read them.
                self.session.info.grip_last.clear();
                self.session.apply(response);
                self.close_if_expired();
            }
            Err(error) if self.phase == Phase::Ended => {
                warn_session!(self.session, error, "backend failed");
                self.session.attachment = Attachment::Detached;
            }
            Err(error) => self.session.fail(&error),
        }
        self.apply_attachment()
    }

    /// Asks the backend to bind the session to its user again.
    fn handle_expiry(&mut self) -> ControlFlow<()> {
        if self.session.attachment != Attachment::Attached {
            self.session.close_expired();
        }
        self.refresh = true;
        self.maybe_send()
    }

    /// Closes the client if the backend was asked and has not bound it again.
    fn close_if_expired(&mut self) {
        if self.asks_for_user && !self.session.is_deferred() {
            self.asks_for_user = false;
            self.session.close_expired();
        }
    }

    /// Acts on a change of the link by the backend's response.
    fn apply_attachment(&mut self) -> ControlFlow<()> {
        match self.session.attachment {
            Attachment::Attached | Attachment::Detaching => {}
            Attachment::DetachRequested => {
                // A backend that is detached cannot bind it again.
                self.session.close_expired();
                // When the client's side has ended, that event is the last one instead.
                if self.phase != Phase::Ended {
                    self.pending.push(Event::Close(None));
                }
                self.session.attachment = Attachment::Detaching;
            }
            Attachment::Detached => self.pending.clear(),
            Attachment::DropRequested => {
                self.close_reason.get_or_insert(CloseReason::Backend);
                return ControlFlow::Break(());
            }
        }
        self.maybe_send()
    }

    fn handle_deadline(&mut self) -> ControlFlow<()> {
        match self.phase {
            Phase::Open => {
                self.refresh = true;
                self.maybe_send()
            }
            Phase::Closing | Phase::Discarding => {
                self.end(Event::Disconnect, CloseReason::Vanished)
            }
            Phase::Ended => {
                self.disconnect();
                ControlFlow::Continue(())
            }
        }
    }

    /// Ends the client's side, which `event` reports to the backend as the last event.
    fn end(&mut self, event: Event, reason: CloseReason) -> ControlFlow<()> {
        self.close_reason.get_or_insert(reason);
        self.phase = Phase::Ended;
        self.deadline = None;
        self.refresh = false;
        if event == Event::Disconnect {
            self.disconnect();
        }
        self.enqueue(event);
        self.maybe_send()
    }

    /// Closes the connection without waiting for the backend's response: browsers report a close
    /// to the page only when the connection is closed.
    fn disconnect(&mut self) {
        self.deadline = None;
        self.reader = None;
        self.session.outbox.detach();
    }

    /// Queues an event for the backend, if it is attached.
    fn enqueue(&mut self, event: Event) {
        if self.session.attachment == Attachment::Attached {
            self.pending.push(event);
        }
    }

    /// Sends the next request if none is in flight and there is a reason for one.
    fn maybe_send(&mut self) -> ControlFlow<()> {
        if self.round_trip.is_some() || self.session.is_deferred() {
            return ControlFlow::Continue(());
        }
        let mut refresh = mem::take(&mut self.refresh);
        if refresh && self.session.typed.is_some() {
            // There is no call without frames, and none about missed items.
            self.session.outbox.close_if_missed();
            refresh = false;
        }
        let is_due = refresh || self.pending.is_ready();
        if is_due && self.session.attachment != Attachment::Detached {
            if self.phase == Phase::Open {
                self.deadline = None;
            }
            if self.session.typed.is_none() {
                // The backend decides what the client gets instead of what it has missed.
                let missed = self.session.outbox.take_missed();
                self.session.info.grip_last.extend(missed);
            }
            self.pending.next_batch();
            self.send_batch(Duration::ZERO);
        } else if self.phase == Phase::Ended {
            return ControlFlow::Break(());
        } else {
            self.start_keep_alive();
        }
        ControlFlow::Continue(())
    }

    /// Sends a request after a delay.
    fn send(&mut self, mut request: Request<Body>, delay: Duration) {
        self.asks_for_user = self.session.identity.expired_user().is_some();
        let tracer = &self.session.services.telemetry.tracer;
        let span = self.session.info.start_request_span(tracer, &mut request);
        let backend = self.session.services.backend.clone();
        let max_bytes = self.session.services.limits.max_response_events_bytes;
        self.round_trip = Some(Box::pin(async move {
            let _span = span;
            if !delay.is_zero() {
                sleep(delay).await;
            }
            round_trip(backend, request, max_bytes).await
        }));
    }

    /// Sends the last batch after a delay.
    fn send_batch(&mut self, delay: Duration) {
        let (events, replayed) = self.pending.last_batch();
        if let Some(link) = &mut self.session.typed {
            let call = link.frames(events, self.session.info.caller);
            self.send_frames(call, delay);
        } else {
            let request = self.session.request(events, replayed);
            self.send(request, delay);
        }
    }

    /// Passes frames to the component after a delay.
    fn send_frames(&mut self, mut call: FramesCall, delay: Duration) {
        let span = self
            .session
            .info
            .start_span(&self.session.services.telemetry.tracer);
        if let Some(span) = &span {
            span.context().set(&mut call.trace);
        }
        let backend = self.session.services.backend.clone();
        self.round_trip = Some(Box::pin(async move {
            let _span = span;
            if !delay.is_zero() {
                sleep(delay).await;
            }
            backend.receive_frames(call).await?;
            Ok(EventsResponse::default())
        }));
    }

    /// Sends the same batch again after a delay, since it has not reached the backend.
    fn retry(&mut self, error: &RoundTripError) -> ControlFlow<()> {
        let delay = backoff::delay(self.retries, self.session.info.id.as_bytes());
        self.retries += 1;
        warn_session!(self.session, %error, ?delay, "backend unreachable, retrying");
        self.send_again(delay)
    }

    /// Sends the same batch again after a short delay. The client is served when the backend has
    /// caught up, however long that takes. What it sends meanwhile is bounded.
    fn retry_when_busy(&mut self) -> ControlFlow<()> {
        let delay = backoff::delay(0, rand::random::<u64>());
        debug!(connection = ?self.session.info.id, ?delay, "backend busy, retrying");
        self.send_again(delay)
    }

    fn send_again(&mut self, delay: Duration) -> ControlFlow<()> {
        self.send_batch(delay);
        ControlFlow::Continue(())
    }

    /// Starts the keep-alive interval of an idle session.
    fn start_keep_alive(&mut self) {
        if self.phase == Phase::Open {
            let interval = self.session.keep_alive_interval;
            self.deadline = interval
                .filter(|_| self.session.attachment == Attachment::Attached)
                .map(|interval| Box::pin(sleep(interval)));
        }
    }

    fn await_close(&mut self, phase: Phase, reason: CloseReason) {
        self.close_reason.get_or_insert(reason);
        if self.phase != Phase::Discarding {
            self.phase = phase;
        }
        self.deadline = Some(Box::pin(sleep(CLOSE_TIMEOUT)));
    }

    fn is_full(&self) -> bool {
        self.pending.bytes() >= self.session.services.limits.max_incoming_buffer_bytes
    }

    /// Records a sign of life of the client.
    fn record_received(&self) {
        let now = self.session.services.sessions.now();
        self.session.outbox.activity().record_received(now);
    }

    /// Completes the close handshake and flushes the outbox.
    async fn finish(&mut self) -> CloseReason {
        let reason = self.close_reason.unwrap_or(CloseReason::Vanished);
        if self.session.attachment == Attachment::DropRequested {
            return reason;
        }
        if let Some(frame) = self.close_reply.take()
            && self.reader.is_some()
        {
            // Has no effect if a close frame was sent before.
            self.session.outbox.close(frame, reason);
            let drained = poll_fn(|cx| self.session.outbox.poll_drained(cx));
            let _ = timeout(CLOSE_TIMEOUT, drained).await;
        }
        reason
    }
}
