//! What a session does when time passes, on a paused clock.

use crate::backoff;
use crate::metrics::close_reason::CloseReason;
use crate::net::frame;
use crate::ws::driver;
use bytes::Bytes;
use grip::ControlMessage;
use grip::Event;
use grip::Message;
use grip::control::KeepAliveMode;
use std::sync::Arc;
use std::time::Duration;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep},
};
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use crate::ws::tests::{
    session::{Asked, session},
    wire::{CLOSE, Wire, masked, received},
};

use crate::config::Limits;

struct Timed {
    wire: Arc<Wire>,
    backend: mpsc::UnboundedReceiver<Asked>,
    session: JoinHandle<CloseReason>,
}

impl Timed {
    fn open(control: Vec<ControlMessage>) -> Self {
        let events: Vec<_> = control
            .into_iter()
            .map(ControlMessage::into_event)
            .collect();
        let grip = [("sec-websocket-extensions", "grip")];
        let (session, backend, _) = session(&grip, &events, Limits::default());
        let wire = Arc::new(Wire::default());
        let session = tokio::spawn(driver::serve(session, wire.clone(), Bytes::new()));
        Self {
            wire,
            backend,
            session,
        }
    }

    fn say(&self, text: &str) {
        let frame = masked(OpCode::Data(Data::Text), text.as_bytes(), true);
        self.wire.change(|wire| wire.to_host.extend(frame));
    }

    fn close(&self, code: u16) {
        let frame = masked(OpCode::Control(Control::Close), &code.to_be_bytes(), true);
        self.wire.change(|wire| wire.to_host.extend(frame));
    }

    async fn asked(&mut self) -> Asked {
        self.backend.recv().await.expect("the session lives")
    }

    /// After how long the session has let its connection go, which closes it.
    async fn let_go(&self) -> Duration {
        let start = Instant::now();
        while Arc::strong_count(&self.wire) > 1 {
            assert!(!self.session.is_finished() && start.elapsed() < Duration::from_secs(60));
            sleep(Duration::from_millis(1)).await;
        }
        start.elapsed()
    }

    /// The texts that the client got within so many seconds, and when, in seconds from now.
    async fn hear(&self, seconds: u64) -> Vec<(u64, String)> {
        let start = Instant::now();
        let mut heard = Vec::new();
        self.wire.change(|wire| wire.to_client.clear());
        // In the middle between seconds, so that what is due at one has been sent.
        sleep(Duration::from_millis(500)).await;
        loop {
            let bytes = std::mem::take(&mut self.wire.lock().to_client);
            let texts = received(&bytes).into_iter();
            heard.extend(texts.map(|(_, text)| {
                let text = String::from_utf8(text).expect("UTF-8");
                (start.elapsed().as_secs(), text)
            }));
            if start.elapsed() > Duration::from_secs(seconds) {
                return heard;
            }
            sleep(Duration::from_secs(1)).await;
        }
    }
}

fn at(heard: &[(u64, &str)]) -> Vec<(u64, String)> {
    let heard = heard.iter();
    heard.map(|(at, text)| (*at, (*text).to_owned())).collect()
}

fn message(text: &'static str) -> Message {
    Message::Text(text.into())
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_is_not_reached_is_told_the_same_five_times_more() {
    let mut timed = Timed::open(Vec::new());
    for reached in [true, false] {
        timed.say("one");
        let mut last = Instant::now();
        for attempt in 0..=backoff::RETRIES {
            let asked = timed.asked().await;
            assert_eq!(asked.events, [Event::text("one")]);
            if attempt > 0 {
                let pause = Duration::from_secs(1 << (attempt - 1));
                let waited = last.elapsed();
                assert!((pause..pause + Duration::from_secs(1)).contains(&waited));
            }
            last = Instant::now();
            if attempt == 0 {
                timed.say("two");
            }
            if reached && attempt == backoff::RETRIES {
                asked.answer(&[]);
            } else {
                asked.miss();
            }
        }
        if reached {
            let asked = timed.asked().await;
            assert_eq!(asked.events, [Event::text("two")]);
            asked.answer(&[]);
        }
    }
    sleep(Duration::from_millis(1)).await;
    let frames = received(&timed.wire.lock().to_client);
    assert_eq!(frames.len(), 1, "{frames:?}");
    assert_eq!(frames[0].0, CLOSE);
    assert_eq!(frames[0].1[..2], frame::FAILED.to_be_bytes());
    // It is not told of the end, having failed.
    assert_eq!(timed.session.await.expect("no panic"), CloseReason::Failed);
    assert!(timed.backend.recv().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_answer_a_close_is_disconnected() {
    let mut timed = Timed::open(Vec::new());
    timed.say("?");
    timed.asked().await.answer(&[Event::close(4000, "")]);
    let start = Instant::now();
    let asked = timed.asked().await;
    assert_eq!(asked.events, [Event::Disconnect]);
    assert_eq!(start.elapsed().as_secs(), 5);
    asked.answer(&[]);
    assert_eq!(timed.session.await.expect("no panic"), CloseReason::Backend);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_vanishes_while_a_backend_is_not_reached_is_told_last() {
    let mut timed = Timed::open(Vec::new());
    timed.say("one");
    timed.asked().await.miss();
    timed.wire.change(|wire| wire.ended = true);
    let asked = timed.asked().await;
    assert_eq!(asked.events, [Event::text("one")]);
    asked.answer(&[]);
    let asked = timed.asked().await;
    assert_eq!(asked.events, [Event::Disconnect]);
    asked.answer(&[]);
    assert_eq!(
        timed.session.await.expect("no panic"),
        CloseReason::Vanished
    );
}

#[tokio::test(start_paused = true)]
async fn a_keep_alive_message_goes_out_when_nothing_else_does() {
    let mut timed = Timed::open(vec![ControlMessage::keep_alive(message("still"), 10)]);
    assert_eq!(timed.hear(25).await, at(&[(10, "still"), (20, "still")]));
    // 25.5 s now; what is sent begins the time anew.
    timed.say("?");
    timed.asked().await.answer(&[grip::control::content("!")]);
    assert_eq!(timed.hear(12).await, at(&[(0, "!"), (10, "still")]));
    // No content turns it off.
    timed.say("?");
    let off = ControlMessage::KeepAlive {
        message: None,
        timeout: None,
        mode: KeepAliveMode::Idle,
    };
    timed.asked().await.answer(&[off.into_event()]);
    assert_eq!(timed.hear(100).await, []);
}

#[tokio::test(start_paused = true)]
async fn an_interval_does_not_ask_what_else_is_sent() {
    let keep_alive = ControlMessage::KeepAlive {
        message: Some(Message::Ping(Bytes::from_static(b"ping"))),
        timeout: None,
        mode: KeepAliveMode::Interval,
    };
    let mut timed = Timed::open(vec![keep_alive]);
    assert_eq!(timed.hear(29).await, []);
    timed.say("?");
    timed.asked().await.answer(&[grip::control::content("!")]);
    // 29.5 s now; without a timeout it is 55.
    assert_eq!(
        timed.hear(90).await,
        at(&[(0, "!"), (26, "ping"), (81, "ping")])
    );
}

#[tokio::test(start_paused = true)]
async fn a_delayed_message_goes_out_in_time_or_when_it_is_flushed() {
    let delayed = |text, timeout| ControlMessage::SendDelayed {
        message: message(text),
        timeout,
    };
    let mut timed = Timed::open(vec![delayed("first", Some(5)), delayed("second", None)]);
    // One at a time: the second sends the first.
    let heard = timed.hear(3).await;
    assert_eq!(heard, at(&[(0, "first"), (1, "second")]));
    timed.say("?");
    let third = delayed("third", Some(7)).into_event();
    timed.asked().await.answer(&[third]);
    timed.say("?");
    sleep(Duration::from_secs(1)).await;
    let flush = ControlMessage::FlushDelayed.into_event();
    timed.asked().await.answer(&[flush.clone(), flush]);
    assert_eq!(timed.hear(20).await, at(&[(0, "third")]));
}

#[tokio::test(start_paused = true)]
async fn a_session_without_later_messages_has_no_timer() {
    let off = ControlMessage::KeepAlive {
        message: None,
        timeout: None,
        mode: KeepAliveMode::Idle,
    };
    let keep_alive = ControlMessage::keep_alive(message("x"), 10).into_event();
    let grip = [("sec-websocket-extensions", "grip")];
    let limits = Limits::default;
    let (session, ..) = session(&grip, &[keep_alive, off.into_event()], limits());
    assert!(session.timers.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_clients_close_is_answered_when_the_backend_is_not_reached() {
    let mut timed = Timed::open(Vec::new());
    let close = masked(OpCode::Control(Control::Close), &[0x0f, 0xa1], true);
    timed.wire.change(|wire| wire.to_host.extend(close));
    for _ in 0..=backoff::RETRIES {
        let asked = timed.asked().await;
        assert_eq!(asked.events, [Event::close(4001, "")]);
        asked.miss();
    }
    assert_eq!(timed.session.await.expect("no panic"), CloseReason::Client);
    let frames = received(&timed.wire.lock().to_client);
    assert_eq!(frames, [(CLOSE, vec![0x0f, 0xa1])]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_was_closed_is_let_go_before_the_backend_answers() {
    let mut timed = Timed::open(Vec::new());
    timed.say("x");
    let close = [Event::close(4000, "")];
    timed.asked().await.answer(&close);
    sleep(Duration::from_millis(1)).await;
    let frames = received(&timed.wire.lock().to_client);
    assert_eq!(frames, [(CLOSE, 4000_u16.to_be_bytes().to_vec())]);
    timed.close(4000);
    let asked = timed.asked().await;
    assert_eq!(asked.events, close);
    assert!(timed.let_go().await < Duration::from_secs(1));
    // The request goes on, and what it is answered is of no use to anybody.
    sleep(Duration::from_secs(20)).await;
    assert!(!asked.answer.is_closed() && !timed.session.is_finished());
    asked.answer(&[Event::text("too late")]);
    assert_eq!(timed.session.await.expect("no panic"), CloseReason::Backend);
    assert_eq!(received(&timed.wire.lock().to_client).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_take_the_close_is_let_go_in_time() {
    let mut timed = Timed::open(Vec::new());
    timed.say("x");
    let asked = timed.asked().await;
    timed.wire.change(|wire| wire.room = Some(0));
    asked.answer(&[Event::close(4000, "")]);
    // Not an answer: it closes at the same moment, and reads no more.
    timed.close(4001);
    let asked = timed.asked().await;
    assert_eq!(asked.events, [Event::close(4001, "")]);
    let waited = timed.let_go().await;
    assert!((Duration::from_secs(4)..Duration::from_secs(6)).contains(&waited));
    asked.answer(&[]);
    assert_eq!(timed.session.await.expect("no panic"), CloseReason::Backend);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_vanished_is_let_go_before_the_backend_answers() {
    let mut timed = Timed::open(Vec::new());
    timed.wire.change(|wire| wire.ended = true);
    let asked = timed.asked().await;
    assert_eq!(asked.events, [Event::Disconnect]);
    assert!(timed.let_go().await < Duration::from_secs(1));
    asked.answer(&[]);
    assert_eq!(
        timed.session.await.expect("no panic"),
        CloseReason::Vanished
    );
}
