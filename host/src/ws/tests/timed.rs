//! Tests of what a session does over time, on a paused clock.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use grip::{ControlMessage, Event, Message, control::KeepAliveMode};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep},
};
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use crate::{
    backoff,
    config::Limits,
    metrics::close_reason::CloseReason,
    net::frame,
    ws::{
        driver,
        tests::{
            session::{ReceivedRequest, new_session},
            wire::{CLOSE, Wire, masked, received},
        },
    },
};

struct TimedSession {
    wire: Arc<Wire>,
    backend: mpsc::UnboundedReceiver<ReceivedRequest>,
    session: JoinHandle<CloseReason>,
}

impl TimedSession {
    fn open(control: Vec<ControlMessage>) -> Self {
        let events: Vec<_> = control
            .into_iter()
            .map(ControlMessage::into_event)
            .collect();
        let grip = [("sec-websocket-extensions", "grip")];
        let (session, backend, _) = new_session(&grip, &events, Limits::default());
        let wire = Arc::new(Wire::default());
        let session = tokio::spawn(driver::serve(session, wire.clone(), Bytes::new()));
        Self {
            wire,
            backend,
            session,
        }
    }

    fn send(&self, text: &str) {
        let frame = masked(OpCode::Data(Data::Text), text.as_bytes(), true);
        self.wire.update(|wire| wire.to_host.extend(frame));
    }

    fn close(&self, code: u16) {
        let frame = masked(OpCode::Control(Control::Close), &code.to_be_bytes(), true);
        self.wire.update(|wire| wire.to_host.extend(frame));
    }

    async fn request(&mut self) -> ReceivedRequest {
        self.backend.recv().await.expect("an open session")
    }

    /// Waits until the session has dropped its connection, and returns how long that took.
    async fn disconnected(&self) -> Duration {
        let start = Instant::now();
        while Arc::strong_count(&self.wire) > 1 {
            assert!(!self.session.is_finished() && start.elapsed() < Duration::from_secs(60));
            sleep(Duration::from_millis(1)).await;
        }
        start.elapsed()
    }

    /// Returns the texts that the client receives within some seconds, each with the seconds since
    /// the start.
    async fn receive_for(&self, seconds: u64) -> Vec<(u64, String)> {
        let start = Instant::now();
        let mut texts = Vec::new();
        self.wire.update(|wire| wire.to_client.clear());
        // Between two full seconds, so that everything due at the first has been sent.
        sleep(Duration::from_millis(500)).await;
        loop {
            let bytes = std::mem::take(&mut self.wire.lock().to_client);
            let frames = received(&bytes).into_iter();
            texts.extend(frames.map(|(_, text)| {
                let text = String::from_utf8(text).expect("UTF-8");
                (start.elapsed().as_secs(), text)
            }));
            if start.elapsed() > Duration::from_secs(seconds) {
                return texts;
            }
            sleep(Duration::from_secs(1)).await;
        }
    }
}

fn at(texts: &[(u64, &str)]) -> Vec<(u64, String)> {
    let texts = texts.iter();
    texts.map(|(at, text)| (*at, (*text).to_owned())).collect()
}

fn message(text: &'static str) -> Message {
    Message::Text(text.into())
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_backend_is_retried_five_times_with_the_same_events() {
    let mut session = TimedSession::open(Vec::new());
    for recovers in [true, false] {
        session.send("one");
        let mut last = Instant::now();
        for attempt in 0..=backoff::RETRIES {
            let request = session.request().await;
            assert_eq!(request.events, [Event::text("one")]);
            if attempt > 0 {
                let pause = Duration::from_secs(1 << (attempt - 1));
                let waited = last.elapsed();
                assert!((pause..=pause + Duration::from_secs(1)).contains(&waited));
            }
            last = Instant::now();
            if attempt == 0 {
                session.send("two");
            }
            if recovers && attempt == backoff::RETRIES {
                request.respond(&[]);
            } else {
                request.fail_unreachable();
            }
        }
        if recovers {
            let request = session.request().await;
            assert_eq!(request.events, [Event::text("two")]);
            request.respond(&[]);
        }
    }
    sleep(Duration::from_millis(1)).await;
    let frames = received(&session.wire.lock().to_client);
    assert_eq!(frames.len(), 1, "{frames:?}");
    assert_eq!(frames[0].0, CLOSE);
    assert_eq!(frames[0].1[..2], frame::INTERNAL_ERROR.to_be_bytes());
    // A backend that has failed receives no further events.
    assert_eq!(
        session.session.await.expect("no panic"),
        CloseReason::Failed
    );
    assert!(session.backend.recv().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_answer_a_close_is_disconnected_after_five_seconds() {
    let mut session = TimedSession::open(Vec::new());
    session.send("?");
    session.request().await.respond(&[Event::close(4000, "")]);
    let start = Instant::now();
    let request = session.request().await;
    assert_eq!(request.events, [Event::Disconnect]);
    assert_eq!(start.elapsed().as_secs(), 5);
    request.respond(&[]);
    assert_eq!(
        session.session.await.expect("no panic"),
        CloseReason::Backend
    );
}

#[tokio::test(start_paused = true)]
async fn a_disconnect_is_sent_after_events_that_are_being_retried() {
    let mut session = TimedSession::open(Vec::new());
    session.send("one");
    session.request().await.fail_unreachable();
    session.wire.update(|wire| wire.eof = true);
    let request = session.request().await;
    assert_eq!(request.events, [Event::text("one")]);
    request.respond(&[]);
    let request = session.request().await;
    assert_eq!(request.events, [Event::Disconnect]);
    request.respond(&[]);
    assert_eq!(
        session.session.await.expect("no panic"),
        CloseReason::Vanished
    );
}

#[tokio::test(start_paused = true)]
async fn an_idle_keep_alive_message_is_sent_after_silence() {
    let mut session = TimedSession::open(vec![ControlMessage::keep_alive(message("still"), 10)]);
    assert_eq!(
        session.receive_for(25).await,
        at(&[(10, "still"), (20, "still")])
    );
    // At 25.5 s. Other messages restart the timeout.
    session.send("?");
    session
        .request()
        .await
        .respond(&[grip::control::content("!")]);
    assert_eq!(
        session.receive_for(12).await,
        at(&[(0, "!"), (10, "still")])
    );
    // A keep-alive without a message turns it off.
    session.send("?");
    let off = ControlMessage::KeepAlive {
        message: None,
        timeout: None,
        mode: KeepAliveMode::Idle,
    };
    session.request().await.respond(&[off.into_event()]);
    assert_eq!(session.receive_for(100).await, []);
}

#[tokio::test(start_paused = true)]
async fn an_interval_keep_alive_message_is_sent_regardless_of_others() {
    let keep_alive = ControlMessage::KeepAlive {
        message: Some(Message::Ping(Bytes::from_static(b"ping"))),
        timeout: None,
        mode: KeepAliveMode::Interval,
    };
    let mut session = TimedSession::open(vec![keep_alive]);
    assert_eq!(session.receive_for(29).await, []);
    session.send("?");
    session
        .request()
        .await
        .respond(&[grip::control::content("!")]);
    // At 29.5 s. The default timeout is 55 seconds.
    assert_eq!(
        session.receive_for(90).await,
        at(&[(0, "!"), (26, "ping"), (81, "ping")])
    );
}

#[tokio::test(start_paused = true)]
async fn a_delayed_message_is_sent_when_due_or_flushed() {
    let delayed = |text, timeout| ControlMessage::SendDelayed {
        message: message(text),
        timeout,
    };
    let mut session = TimedSession::open(vec![delayed("first", Some(5)), delayed("second", None)]);
    // Only one message can be delayed: the second flushes the first.
    let texts = session.receive_for(3).await;
    assert_eq!(texts, at(&[(0, "first"), (1, "second")]));
    session.send("?");
    let third = delayed("third", Some(7)).into_event();
    session.request().await.respond(&[third]);
    session.send("?");
    sleep(Duration::from_secs(1)).await;
    let flush = ControlMessage::FlushDelayed.into_event();
    session.request().await.respond(&[flush.clone(), flush]);
    assert_eq!(session.receive_for(20).await, at(&[(0, "third")]));
}

#[tokio::test(start_paused = true)]
async fn a_session_without_scheduled_messages_has_no_timers() {
    let off = ControlMessage::KeepAlive {
        message: None,
        timeout: None,
        mode: KeepAliveMode::Idle,
    };
    let keep_alive = ControlMessage::keep_alive(message("x"), 10).into_event();
    let grip = [("sec-websocket-extensions", "grip")];
    let limits = Limits::default;
    let (session, ..) = new_session(&grip, &[keep_alive, off.into_event()], limits());
    assert!(session.scheduled.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_close_is_answered_even_if_the_backend_is_unreachable() {
    let mut session = TimedSession::open(Vec::new());
    let close = masked(OpCode::Control(Control::Close), &[0x0f, 0xa1], true);
    session.wire.update(|wire| wire.to_host.extend(close));
    for _ in 0..=backoff::RETRIES {
        let request = session.request().await;
        assert_eq!(request.events, [Event::close(4001, "")]);
        request.fail_unreachable();
    }
    assert_eq!(
        session.session.await.expect("no panic"),
        CloseReason::Client
    );
    let frames = received(&session.wire.lock().to_client);
    assert_eq!(frames, [(CLOSE, vec![0x0f, 0xa1])]);
}

#[tokio::test(start_paused = true)]
async fn events_wait_as_long_as_the_backend_is_busy() {
    let mut session = TimedSession::open(Vec::new());
    session.send("x");
    // More often than an unreachable backend is retried.
    for _ in 0..backoff::RETRIES * 4 {
        let request = session.request().await;
        assert_eq!(request.events, [Event::text("x")]);
        request.fail_busy();
    }
    let reply = grip::control::content("y");
    session.request().await.respond(&[reply]);
    assert_eq!(session.receive_for(1).await, at(&[(0, "y")]));
    // Once the client has left, that is given up as usual.
    session.close(4000);
    for _ in 0..=backoff::RETRIES {
        session.request().await.fail_busy();
    }
    assert_eq!(
        session.session.await.expect("no panic"),
        CloseReason::Client
    );
}

#[tokio::test(start_paused = true)]
async fn a_closed_client_is_disconnected_before_the_backend_responds() {
    let mut session = TimedSession::open(Vec::new());
    session.send("x");
    let close = [Event::close(4000, "")];
    session.request().await.respond(&close);
    sleep(Duration::from_millis(1)).await;
    let frames = received(&session.wire.lock().to_client);
    assert_eq!(frames, [(CLOSE, 4000_u16.to_be_bytes().to_vec())]);
    session.close(4000);
    let request = session.request().await;
    assert_eq!(request.events, close);
    assert!(session.disconnected().await < Duration::from_secs(1));
    // The request is still in flight, and its response will be ignored.
    sleep(Duration::from_secs(20)).await;
    assert!(!request.responder.is_closed() && !session.session.is_finished());
    request.respond(&[Event::text("too late")]);
    assert_eq!(
        session.session.await.expect("no panic"),
        CloseReason::Backend
    );
    assert_eq!(received(&session.wire.lock().to_client).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_the_close_is_disconnected_after_five_seconds() {
    let mut session = TimedSession::open(Vec::new());
    session.send("x");
    let request = session.request().await;
    session.wire.update(|wire| wire.capacity = Some(0));
    request.respond(&[Event::close(4000, "")]);
    // Not an answer: the client closes at the same time, and stops reading.
    session.close(4001);
    let request = session.request().await;
    assert_eq!(request.events, [Event::close(4001, "")]);
    let waited = session.disconnected().await;
    assert!((Duration::from_secs(4)..Duration::from_secs(6)).contains(&waited));
    request.respond(&[]);
    assert_eq!(
        session.session.await.expect("no panic"),
        CloseReason::Backend
    );
}

#[tokio::test(start_paused = true)]
async fn a_vanished_client_is_disconnected_before_the_backend_responds() {
    let mut session = TimedSession::open(Vec::new());
    session.wire.update(|wire| wire.eof = true);
    let request = session.request().await;
    assert_eq!(request.events, [Event::Disconnect]);
    assert!(session.disconnected().await < Duration::from_secs(1));
    request.respond(&[]);
    assert_eq!(
        session.session.await.expect("no panic"),
        CloseReason::Vanished
    );
}
