//! A session between a scripted backend and a real client.

use crate::metrics::close_reason::CloseReason;
use crate::net::frame;
use crate::state::Services;
use crate::ws::driver;
use crate::ws::outbox::Outbox;
use crate::ws::ws_over_http::Identity;
use crate::ws::ws_over_http::Reply;
use bytes::Bytes;
use grip::ControlMessage;
use grip::Event;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use futures_util::{SinkExt, StreamExt};
use grip::{Key, event};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};
use tokio_util::sync::CancellationToken;
use tungstenite::Message;

use crate::config::Limits;
use crate::ws::session::*;
use crate::{
    http::signer::Signer,
    pubsub::{channels::Channels, publication::Publication},
    ws::request_head::RequestHead,
};
use spin_runtime::backend::{Backend, BackendError, Body, Caller, ResponseFuture, full};

/// Hands each request to the test, and waits for what it answers.
pub(crate) struct Scripted(mpsc::UnboundedSender<Asked>);

/// A request that the test has to answer.
pub(crate) struct Asked {
    pub(crate) headers: HeaderMap,
    pub(crate) events: Vec<Event>,
    pub(crate) answer: oneshot::Sender<Result<Response<Body>, BackendError>>,
}

impl Backend for Scripted {
    fn call(&self, request: Request<Body>) -> ResponseFuture<'_> {
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body
                .collect()
                .await
                .expect("the host's own body")
                .to_bytes();
            let events =
                event::decode_all(body, grip::Limits::default()).expect("the host's own events");
            let (answer, answered) = oneshot::channel();
            let _ = self.0.send(Asked {
                headers: parts.headers,
                events,
                answer,
            });
            answered.await.unwrap_or_else(|_| {
                Err(BackendError::Deadline {
                    component: "test".into(),
                    limit: Duration::ZERO,
                })
            })
        })
    }
}

impl Asked {
    /// The backend is not reached.
    pub(crate) fn miss(self) {
        let _ = self.answer.send(Err(BackendError::Unreachable {
            upstream: "test".into(),
            source: anyhow::anyhow!("refused"),
        }));
    }
    pub(crate) fn answer(self, events: &[Event]) {
        self.answer_with(events, &[]);
    }
    pub(crate) fn answer_with(self, events: &[Event], headers: &[(&'static str, &'static str)]) {
        let mut response = Response::new(full(event::encode_all(events)));
        for (name, value) in [("content-type", "application/websocket-events")]
            .iter()
            .chain(headers)
        {
            response
                .headers_mut()
                .insert(*name, HeaderValue::from_static(value));
        }
        let _ = self.answer.send(Ok(response));
    }
}

/// A session behind its handshake, with what the backend is asked and what it shares with others.
pub(crate) fn session(
    headers: &[(&'static str, &'static str)],
    events: &[Event],
    limits: Limits,
) -> (Session, mpsc::UnboundedReceiver<Asked>, Arc<Services>) {
    let (asked, backend) = mpsc::unbounded_channel();
    let key = Key::parse("a key of some length, since it has to be").expect("a key");
    let services = Arc::new(Services::new(
        Arc::new(Scripted(asked)),
        "scripted",
        Signer::new(key),
        limits,
        CancellationToken::new(),
    ));
    let outbox = Outbox::new(services.limits.max_outgoing_buffer_bytes);
    let registration = services.sessions.register(outbox.clone()).expect("room");
    let mut request_headers = HeaderMap::new();
    request_headers.insert("cookie", HeaderValue::from_static("a=1"));
    let identity = Identity {
        head: RequestHead::new(&Uri::from_static("/ws?x=1"), &request_headers),
        id: HeaderValue::from_static("the-id"),
        caller: Caller::Host,
        meta: Vec::new(),
    };
    let mut reply = Reply {
        headers: HeaderMap::new(),
        events: events.to_vec(),
    };
    for (name, value) in headers {
        reply.headers.insert(*name, HeaderValue::from_static(value));
    }
    let session = Session::new(services.clone(), identity, outbox, registration, reply);
    (session, backend, services)
}

/// An open session: its client, its backend, and what it shares with others.
struct Opened {
    client: WebSocketStream<TcpStream>,
    backend: mpsc::UnboundedReceiver<Asked>,
    services: Arc<Services>,
    session: tokio::task::JoinHandle<CloseReason>,
}

impl Opened {
    async fn with(
        headers: &[(&'static str, &'static str)],
        events: &[Event],
        limits: Limits,
    ) -> Self {
        Self::prepared(headers, events, limits, |_| {}).await
    }

    async fn prepared(
        headers: &[(&'static str, &'static str)],
        events: &[Event],
        limits: Limits,
        prepare: impl FnOnce(&mut Session),
    ) -> Self {
        let (mut session, backend, services) = session(headers, events, limits);
        prepare(&mut session);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("an address"))
            .await
            .expect("connects");
        let (server, _) = listener.accept().await.expect("accepts");
        let session = tokio::spawn(driver::serve(session, Arc::new(server), Bytes::new()));
        let client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        Self {
            client,
            backend,
            services,
            session,
        }
    }

    async fn plain() -> Self {
        Self::with(&[], &[], Limits::default()).await
    }

    async fn say(&mut self, text: &str) {
        self.client.send(Message::text(text)).await.expect("sends");
    }

    async fn hear(&mut self) -> Message {
        let next = timeout(Duration::from_secs(30), self.client.next()).await;
        next.expect("something comes")
            .expect("not the end")
            .expect("a message")
    }

    async fn asked(&mut self) -> Asked {
        let asked = timeout(Duration::from_secs(100), self.backend.recv()).await;
        asked.expect("a request comes").expect("the session lives")
    }

    /// Waits for the end of the session, which nothing is left of.
    async fn gone(&mut self) -> CloseReason {
        let ending = timeout(Duration::from_secs(30), &mut self.session).await;
        assert!(self.services.sessions.is_empty() && self.services.channels.is_empty());
        ending.expect("the session ends").expect("without a panic")
    }
}

async fn publish(channels: &Channels, item: grip::Item) -> usize {
    let publication = Publication::new(item).expect("for WebSockets");
    channels.publish(publication).await
}

fn text(text: &'static str) -> Event {
    Event::text(text)
}

#[tokio::test]
async fn one_request_at_a_time_and_the_rest_together_in_the_next() {
    let mut opened = Opened::plain().await;
    opened.say("one").await;
    let first = opened.asked().await;
    assert_eq!(first.events, [text("one")]);
    assert_eq!(first.headers["connection-id"], "the-id");
    assert_eq!(
        first.headers["content-type"],
        "application/websocket-events"
    );
    assert_eq!(first.headers["cookie"], "a=1");
    assert!(
        opened
            .services
            .signer
            .verifies(first.headers["grip-sig"].to_str().expect("a token"))
    );
    for word in ["two", "three", "four"] {
        opened.say(word).await;
    }
    // A ping is answered by the session: once the pong is here, all before it was read.
    opened
        .client
        .send(Message::Ping(Bytes::new()))
        .await
        .expect("sends");
    assert!(matches!(opened.hear().await, Message::Pong(_)));
    assert!(
        opened.backend.try_recv().is_err(),
        "a second request is under way"
    );
    first.answer(&[text("1"), Event::Binary(Bytes::from_static(b"\x01"))]);
    assert_eq!(opened.hear().await, Message::text("1"));
    assert_eq!(opened.hear().await, Message::binary(vec![1]));
    assert_eq!(
        opened.asked().await.events,
        [
            text("two"),
            text("three"),
            text("four"),
            Event::Ping(Bytes::new())
        ]
    );
}

#[tokio::test]
async fn grip_tells_content_from_control() {
    let subscribe = ControlMessage::subscribe("orders").into_event();
    let mut opened = Opened::with(
        &[("sec-websocket-extensions", "grip")],
        &[subscribe, text("m:hello")],
        Limits::default(),
    )
    .await;
    assert_eq!(opened.hear().await, Message::text("hello"));
    assert_eq!(opened.services.channels.subscriptions(), 1);
    assert_eq!(
        publish(
            &opened.services.channels,
            grip::Item::ws_text("orders", "news")
        )
        .await,
        1
    );
    assert_eq!(opened.hear().await, Message::text("news"));

    opened.say("leave").await;
    let unsubscribe = ControlMessage::unsubscribe("orders").into_event();
    opened.asked().await.answer(&[
        text("neither"),
        unsubscribe,
        text("c:nonsense"),
        text("m:left"),
    ]);
    assert_eq!(opened.hear().await, Message::text("left"));
    assert_eq!(
        publish(
            &opened.services.channels,
            grip::Item::ws_text("orders", "news")
        )
        .await,
        0
    );
}

#[tokio::test]
async fn without_grip_all_is_content() {
    let mut opened = Opened::with(
        &[],
        &[text("c:{\"type\":\"detach\"}"), text("m:x")],
        Limits::default(),
    )
    .await;
    assert_eq!(
        opened.hear().await,
        Message::text("c:{\"type\":\"detach\"}")
    );
    assert_eq!(opened.hear().await, Message::text("m:x"));
}

#[tokio::test]
async fn meta_is_told_again_until_it_is_forgotten() {
    let mut opened = Opened::with(&[("set-meta-user", "alice")], &[], Limits::default()).await;
    opened.say("1").await;
    let asked = opened.asked().await;
    assert_eq!(asked.headers["meta-user"], "alice");
    asked.answer_with(&[], &[("set-meta-user", "bob"), ("set-meta-role", "cook")]);
    opened.say("2").await;
    let asked = opened.asked().await;
    assert_eq!(
        (&asked.headers["meta-user"], &asked.headers["meta-role"]),
        (&"bob".parse().unwrap(), &"cook".parse().unwrap())
    );
    asked.answer_with(&[], &[("set-meta-user", "")]);
    opened.say("3").await;
    let asked = opened.asked().await;
    assert!(!asked.headers.contains_key("meta-user") && asked.headers["meta-role"] == "cook");
}

#[tokio::test]
async fn a_client_that_closes_hears_the_backends_code() {
    let mut opened = Opened::plain().await;
    let frame = tungstenite::protocol::CloseFrame {
        code: 4001.into(),
        reason: "bye".into(),
    };
    opened
        .client
        .send(Message::Close(Some(frame)))
        .await
        .expect("sends");
    let asked = opened.asked().await;
    assert_eq!(asked.events, [Event::close(4001, "bye")]);
    asked.answer(&[Event::close(4002, "so long")]);
    match opened.hear().await {
        Message::Close(Some(frame)) => assert_eq!(
            (u16::from(frame.code), frame.reason.as_str()),
            (4002, "so long")
        ),
        other => panic!("{other:?}"),
    }
    opened.gone().await;
}

#[tokio::test]
async fn a_backend_that_closes_is_told_of_the_clients_answer() {
    let mut opened = Opened::plain().await;
    opened.say("?").await;
    opened.asked().await.answer(&[
        text("last words"),
        Event::close(4003, "enough"),
        text("too late"),
    ]);
    assert_eq!(opened.hear().await, Message::text("last words"));
    match opened.hear().await {
        Message::Close(Some(frame)) => assert_eq!(u16::from(frame.code), 4003),
        other => panic!("{other:?}"),
    }
    // Reading on is what lets the client library send its answer, and it then waits for the end.
    let answer = async {
        let asked = opened.backend.recv().await.expect("the session lives");
        assert_eq!(asked.events, [Event::close(4003, "enough")]);
        asked.answer(&[]);
    };
    let (end, ()) = tokio::join!(opened.client.next(), answer);
    assert!(end.is_none_or(|end| end.is_err()));
    opened.gone().await;
}

#[tokio::test]
async fn a_client_that_vanishes_is_a_disconnect_told_once() {
    let mut opened = Opened::plain().await;
    opened.say("one").await;
    let asked = opened.asked().await;
    drop(std::mem::replace(&mut opened.client, unconnected().await));
    asked.answer(&[text("nobody hears it")]);
    let asked = opened.asked().await;
    assert_eq!(asked.events, [Event::Disconnect]);
    asked.answer(&[]);
    opened.gone().await;
    assert!(opened.backend.try_recv().is_err());
}

#[tokio::test]
async fn a_backend_that_fails_closes_with_1011() {
    for status in [StatusCode::OK, StatusCode::INTERNAL_SERVER_ERROR] {
        let mut opened = Opened::plain().await;
        opened.say("?").await;
        let mut response = Response::new(full("not events"));
        *response.status_mut() = status;
        let _ = opened.asked().await.answer.send(Ok(response));
        match opened.hear().await {
            Message::Close(Some(frame)) => assert_eq!(u16::from(frame.code), frame::FAILED),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_backend_may_drop_the_client() {
    let mut opened = Opened::plain().await;
    opened.say("?").await;
    opened.asked().await.answer(&[Event::Disconnect]);
    assert!(opened.client.next().await.is_none_or(|end| end.is_err()));
    opened.gone().await;
}

#[tokio::test]
async fn a_flood_is_held_back_and_nothing_of_it_lost() {
    const MESSAGES: usize = 3000;
    let limits = Limits {
        max_incoming_buffer_bytes: 20_000,
        ..Limits::default()
    };
    let mut opened = Opened::with(&[], &[], limits).await;
    let client = std::mem::replace(&mut opened.client, unconnected().await);
    let (mut sink, _stream) = client.split();
    let flood = tokio::spawn(async move {
        for n in 0..MESSAGES {
            sink.send(Message::text(format!("{n:0>5000}")))
                .await
                .expect("sends");
        }
        sink
    });
    let mut next = 0;
    let largest = Mutex::new(0);
    while next < MESSAGES {
        let asked = opened.asked().await;
        let size: usize = asked.events.iter().map(Event::content_len).sum();
        let mut largest = largest.lock();
        *largest = size.max(*largest);
        for event in &asked.events {
            assert_eq!(*event, Event::text(format!("{next:0>5000}")));
            next += 1;
        }
        asked.answer(&[]);
    }
    // The bound, and the message that went over it.
    assert!(*largest.lock() <= 25_000);
    drop(flood.await.expect("the flood ends"));
}

#[tokio::test]
async fn an_idle_connection_is_kept_alive_as_the_backend_asks() {
    let mut opened = Opened::prepared(&[], &[], Limits::default(), |session| {
        // Shorter than a header can say.
        session.keep_alive = Some(Duration::from_millis(50));
    })
    .await;
    let start = Instant::now();
    let asked = opened.asked().await;
    assert_eq!(asked.events, []);
    assert!(start.elapsed() >= Duration::from_millis(50));
    // It stays as it is until the backend says something else; 0 stops it.
    asked.answer(&[]);
    let asked = opened.asked().await;
    assert_eq!(asked.events, []);
    asked.answer_with(&[], &[("keep-alive-interval", "0")]);
    opened.say("still here").await;
    assert_eq!(opened.asked().await.events, [text("still here")]);
}

#[tokio::test]
async fn a_refresh_asks_with_no_events() {
    let subscribe = ControlMessage::subscribe("c").into_event();
    let mut opened = Opened::with(
        &[("sec-websocket-extensions", "grip")],
        &[subscribe],
        Limits::default(),
    )
    .await;
    let refresh = grip::Item {
        ws_message: Some(grip::publish::WsAction::Refresh.into()),
        ..grip::Item::new("c")
    };
    publish(&opened.services.channels, refresh).await;
    assert_eq!(opened.asked().await.events, []);
}

#[tokio::test]
async fn a_detached_connection_hears_publications_and_says_nothing() {
    let control = [
        ControlMessage::subscribe("c").into_event(),
        ControlMessage::Detach.into_event(),
    ];
    let mut opened = Opened::with(
        &[("sec-websocket-extensions", "grip")],
        &control,
        Limits::default(),
    )
    .await;
    // It is told that this is the last it hears, and what it says to that is not acted on.
    let asked = opened.asked().await;
    assert_eq!(asked.events, [Event::Close(None)]);
    opened.say("into the void").await;
    asked.answer(&[text("m:nobody hears it"), Event::Disconnect]);
    let news = grip::Item::ws_text("c", "news");
    publish(&opened.services.channels, news).await;
    assert_eq!(opened.hear().await, Message::text("news"));
    opened.client.close(None).await.expect("closes");
    assert!(matches!(opened.hear().await, Message::Close(_)));
    assert_eq!(opened.gone().await, CloseReason::Client);
    assert!(opened.backend.try_recv().is_err());
}

#[tokio::test]
async fn what_is_not_taken_is_offered_again_with_what_came_since() {
    let mut opened = Opened::plain().await;
    opened.say("[foo][hello").await;
    let asked = opened.asked().await;
    assert!(!asked.headers.contains_key("content-bytes-replayed"));
    asked.answer_with(&[text("one")], &[("content-bytes-accepted", "5")]);
    assert_eq!(opened.hear().await, Message::text("one"));
    opened.say(" world]").await;
    let asked = opened.asked().await;
    assert_eq!(asked.headers["content-bytes-replayed"], "6");
    assert_eq!(asked.events, [text("[hello"), text(" world]")]);
    asked.answer_with(&[], &[("content-bytes-accepted", "13")]);
    opened.say("next").await;
    let asked = opened.asked().await;
    assert!(!asked.headers.contains_key("content-bytes-replayed"));
    assert_eq!(asked.events, [text("next")]);
    // The rest of what a client has said before it closed is offered at once, with its close.
    opened.client.close(None).await.expect("closes");
    asked.answer_with(&[], &[("content-bytes-accepted", "1")]);
    let asked = opened.asked().await;
    assert_eq!(asked.events, [text("ext"), Event::Close(None)]);
    asked.answer_with(&[], &[("content-bytes-accepted", "2")]);
    let asked = opened.asked().await;
    assert_eq!(asked.headers["content-bytes-replayed"], "1");
    assert_eq!(asked.events, [text("t"), Event::Close(None)]);
    asked.answer(&[]);
    assert_eq!(opened.gone().await, CloseReason::Client);
}

#[tokio::test]
async fn answers_that_make_no_sense_close_with_1011_and_are_the_last() {
    for (events, headers) in [
        (&[text("x"), Event::Open, text("y")][..], &[][..]),
        (&[], &[("content-bytes-accepted", "2")]),
    ] {
        let mut opened = Opened::plain().await;
        opened.say("?").await;
        opened.asked().await.answer_with(events, headers);
        if !events.is_empty() {
            assert_eq!(opened.hear().await, Message::text("x"));
        }
        match opened.hear().await {
            Message::Close(Some(frame)) => assert_eq!(u16::from(frame.code), frame::FAILED),
            other => panic!("{other:?}"),
        }
        let end = opened.client.next().await;
        assert!(end.is_none_or(|end| end.is_err()));
        assert_eq!(opened.gone().await, CloseReason::Failed);
        assert!(opened.backend.try_recv().is_err());
    }
}

#[tokio::test]
async fn pings_are_answered_and_told_but_not_pongs_for_the_host() {
    let mut opened = Opened::plain().await;
    for message in [
        Message::Ping("a".into()),
        Message::Pong(Bytes::from_static(crate::state::sessions::PING)),
        Message::Pong("b".into()),
    ] {
        opened.client.send(message).await.expect("sends");
    }
    assert_eq!(opened.hear().await, Message::Pong("a".into()));
    let mut told = Vec::new();
    while told.len() < 2 {
        let asked = opened.asked().await;
        told.extend(asked.events.clone());
        asked.answer(&[Event::Ping(Bytes::from_static(b"c"))]);
    }
    assert_eq!(told, [Event::Ping("a".into()), Event::Pong("b".into())]);
    assert_eq!(opened.hear().await, Message::Ping("c".into()));
}

#[tokio::test]
async fn what_the_client_said_before_it_heard_of_the_close_is_told() {
    let mut opened = Opened::plain().await;
    opened.say("?").await;
    let asked = opened.asked().await;
    asked.answer(&[Event::close(4003, "enough")]);
    // Not read yet, and so not known.
    opened.say("mine").await;
    let asked = opened.asked().await;
    assert_eq!(asked.events, [text("mine")]);
    asked.answer(&[]);
    assert!(matches!(opened.hear().await, Message::Close(_)));
    let answer = async {
        let asked = opened.backend.recv().await.expect("the session lives");
        assert_eq!(asked.events, [Event::close(4003, "enough")]);
        asked.answer(&[]);
    };
    let (end, ()) = tokio::join!(opened.client.next(), answer);
    assert!(end.is_none_or(|end| end.is_err()));
    assert_eq!(opened.gone().await, CloseReason::Backend);
}

#[tokio::test]
async fn filters_look_at_what_the_backend_has_set() {
    let subscribe = |filters: &[&str]| ControlMessage::Subscribe {
        channel: "c".into(),
        filters: filters.iter().map(|&name| name.to_owned()).collect(),
    };
    let set_meta = ControlMessage::SetMeta {
        name: "user".into(),
        value: Some("alice".into()),
    };
    let control = [
        subscribe(&["skip-self"]).into_event(),
        set_meta.into_event(),
        // There is no such filter: what was joined stays as it was.
        subscribe(&["unheard-of"]).into_event(),
    ];
    let mut opened = Opened::with(
        &[("sec-websocket-extensions", "grip")],
        &control,
        Limits::default(),
    )
    .await;
    let from = |sender: &str, text: &str| {
        let mut item = grip::Item::ws_text("c", text);
        item.meta.insert("sender".into(), sender.into());
        item
    };
    publish(&opened.services.channels, from("alice", "her own")).await;
    publish(&opened.services.channels, from("bob", "another's")).await;
    assert_eq!(opened.hear().await, Message::text("another's"));
    // The same channel with other filters is not joined twice.
    opened.say("?").await;
    let asked = opened.asked().await;
    asked.answer(&[subscribe(&[]).into_event(), text("m:joined")]);
    assert_eq!(opened.hear().await, Message::text("joined"));
    publish(&opened.services.channels, from("alice", "again")).await;
    publish(&opened.services.channels, from("bob", "and again")).await;
    assert_eq!(opened.hear().await, Message::text("again"));
    assert_eq!(opened.hear().await, Message::text("and again"));
}

/// A client to put in the place of one that is taken out.
async fn unconnected() -> WebSocketStream<TcpStream> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let stream = TcpStream::connect(listener.local_addr().expect("an address"))
        .await
        .expect("connects");
    WebSocketStream::from_raw_socket(stream, Role::Client, None).await
}
