//! Tests of a session between a scripted backend and a real client.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use grip::{ControlMessage, Event, Key, event, header::WEBSOCKET_EVENTS};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use parking_lot::Mutex;
use spin_runtime::backend::{Backend, BackendError, Body, Busy, Caller, ResponseFuture, full};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};
use tokio_util::sync::CancellationToken;
use tungstenite::Message;

use crate::{
    config::{HostConfig, Limits},
    http::signer::Signer,
    metrics::close_reason::CloseReason,
    net::frame,
    pubsub::{channels::Channels, publication::Publication},
    state::{Services, sessions::SessionInfo},
    ws::{
        driver,
        outbox::Outbox,
        request_head::RequestHead,
        session::Session,
        ws_over_http::{ConnectionInfo, EventsResponse},
    },
};

/// Passes each request to the test, and waits for its response.
pub(crate) struct ScriptedBackend(mpsc::UnboundedSender<ReceivedRequest>);

/// A request that the test must respond to.
pub(crate) struct ReceivedRequest {
    pub(crate) headers: HeaderMap,
    pub(crate) events: Vec<Event>,
    pub(crate) responder: oneshot::Sender<Result<Response<Body>, BackendError>>,
}

impl Backend for ScriptedBackend {
    fn call(&self, request: Request<Body>) -> ResponseFuture<'_> {
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.expect("a body").to_bytes();
            let events = event::decode_all(body, grip::Limits::default()).expect("events");
            let (responder, response) = oneshot::channel();
            let _ = self.0.send(ReceivedRequest {
                headers: parts.headers,
                events,
                responder,
            });
            response.await.unwrap_or_else(|_| {
                Err(BackendError::Deadline {
                    component: "test".into(),
                    limit: Duration::ZERO,
                })
            })
        })
    }
}

impl ReceivedRequest {
    /// Fails as if the backend could not be reached.
    pub(crate) fn fail_unreachable(self) {
        let _ = self.responder.send(Err(BackendError::Unreachable {
            upstream: "test".into(),
            source: anyhow::anyhow!("refused"),
        }));
    }

    /// Responds with a body that panics when it is read.
    pub(crate) fn panic(self) {
        let body = futures_util::stream::poll_fn(|_| panic!("on purpose"));
        let body: StreamBody<_> = StreamBody::new(body.map(|data| Ok(Frame::data(data))));
        let response = Response::builder().header("content-type", WEBSOCKET_EVENTS);
        let response = response.body(body.boxed_unsync()).expect("a response");
        let _ = self.responder.send(Ok(response));
    }

    /// Fails as if the backend had too many requests.
    pub(crate) fn fail_busy(self) {
        let _ = self.responder.send(Err(BackendError::Busy {
            component: "test".into(),
            cause: Busy::Requests,
        }));
    }

    pub(crate) fn respond(self, events: &[Event]) {
        self.respond_with(events, &[]);
    }
    pub(crate) fn respond_with(self, events: &[Event], headers: &[(&'static str, &'static str)]) {
        let mut response = Response::new(full(event::encode_all(events)));
        for (name, value) in [("content-type", "application/websocket-events")]
            .iter()
            .chain(headers)
        {
            response
                .headers_mut()
                .insert(*name, HeaderValue::from_static(value));
        }
        let _ = self.responder.send(Ok(response));
    }
}

/// Creates a session whose backend has responded to OPEN with these headers and events, and
/// returns the requests that it sends from then on.
pub(crate) fn new_session(
    headers: &[(&'static str, &'static str)],
    events: &[Event],
    limits: Limits,
) -> (
    Session,
    mpsc::UnboundedReceiver<ReceivedRequest>,
    Arc<Services>,
) {
    let (sender, backend) = mpsc::unbounded_channel();
    let key = Key::parse("a key that is long enough for tokens").expect("a key");
    let services = Arc::new(Services::new(
        Arc::new(ScriptedBackend(sender)),
        "scripted",
        Signer::new(key),
        &HostConfig {
            limits,
            ..HostConfig::default()
        },
        CancellationToken::new(),
    ));
    let outbox = Outbox::new(
        services.limits.max_outgoing_buffer_bytes,
        services.limits.max_response_events_bytes,
        None,
    );
    let guard = services
        .sessions
        .register(outbox.clone(), SessionInfo::test())
        .expect("room");
    let mut request_headers = HeaderMap::new();
    request_headers.insert("cookie", HeaderValue::from_static("a=1"));
    let info = ConnectionInfo {
        head: RequestHead::new(&Uri::from_static("/ws?x=1"), &request_headers),
        id: HeaderValue::from_static("the-id"),
        caller: Caller::Host,
        grip_last: Vec::new(),
        echoed_headers: Vec::new(),
        handshake: None,
    };
    let mut response = EventsResponse {
        headers: HeaderMap::new(),
        events: events.to_vec(),
    };
    for (name, value) in headers {
        response
            .headers
            .insert(*name, HeaderValue::from_static(value));
    }
    let session = Session::new(services.clone(), info, outbox, guard, response);
    (session, backend, services)
}

/// An open session with its client and its backend.
struct TestSession {
    client: WebSocketStream<TcpStream>,
    backend: mpsc::UnboundedReceiver<ReceivedRequest>,
    services: Arc<Services>,
    session: tokio::task::JoinHandle<CloseReason>,
}

impl TestSession {
    async fn open_with(
        headers: &[(&'static str, &'static str)],
        events: &[Event],
        limits: Limits,
    ) -> Self {
        Self::open_prepared(headers, events, limits, |_| {}).await
    }

    async fn open_prepared(
        headers: &[(&'static str, &'static str)],
        events: &[Event],
        limits: Limits,
        prepare: impl FnOnce(&mut Session),
    ) -> Self {
        let (mut session, backend, services) = new_session(headers, events, limits);
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

    async fn open() -> Self {
        Self::open_with(&[], &[], Limits::default()).await
    }

    async fn send(&mut self, text: &str) {
        self.client.send(Message::text(text)).await.expect("sends");
    }

    async fn receive(&mut self) -> Message {
        let next = timeout(Duration::from_secs(30), self.client.next()).await;
        next.expect("no timeout")
            .expect("no EOF")
            .expect("a message")
    }

    async fn request(&mut self) -> ReceivedRequest {
        let request = timeout(Duration::from_secs(100), self.backend.recv()).await;
        request.expect("no timeout").expect("an open session")
    }

    /// Waits for the end of the session, and checks that it has released everything.
    async fn closed(&mut self) -> CloseReason {
        let reason = timeout(Duration::from_secs(30), &mut self.session).await;
        assert!(self.services.sessions.is_empty() && self.services.channels.is_empty());
        reason.expect("no timeout").expect("no panic")
    }
}

async fn publish(channels: &Channels, item: grip::Item) -> usize {
    let publication = Publication::new(item).expect("a valid item");
    channels.publish(publication).await
}

fn text(text: &'static str) -> Event {
    Event::text(text)
}

#[tokio::test]
async fn a_panic_closes_the_client_and_looks_like_a_disconnect() {
    let mut session = TestSession::open().await;
    session.send("one").await;
    session.request().await.panic();
    let Message::Close(Some(close)) = session.receive().await else {
        panic!("expected a close frame");
    };
    assert_eq!(u16::from(close.code), frame::INTERNAL_ERROR);
    let last = session.request().await;
    assert_eq!(last.events, [Event::Disconnect]);
    last.respond(&[]);
    assert_eq!(session.closed().await, CloseReason::Failed);
}

#[tokio::test]
async fn a_backend_that_always_panics_ends_the_session() {
    let mut session = TestSession::open().await;
    session.send("one").await;
    session.request().await.panic();
    session.request().await.panic();
    assert_eq!(session.closed().await, CloseReason::Failed);
}

#[tokio::test]
async fn messages_during_a_request_are_batched_into_the_next() {
    let mut session = TestSession::open().await;
    session.send("one").await;
    let first = session.request().await;
    assert_eq!(first.events, [text("one")]);
    assert_eq!(first.headers["connection-id"], "the-id");
    assert_eq!(
        first.headers["content-type"],
        "application/websocket-events"
    );
    assert_eq!(first.headers["cookie"], "a=1");
    assert!(
        session
            .services
            .signer
            .verify(first.headers["grip-sig"].to_str().expect("a token"))
            .is_ok()
    );
    for word in ["two", "three", "four"] {
        session.send(word).await;
    }
    // The pong shows that the session has read everything before the ping.
    session
        .client
        .send(Message::Ping(Bytes::new()))
        .await
        .expect("sends");
    assert!(matches!(session.receive().await, Message::Pong(_)));
    assert!(
        session.backend.try_recv().is_err(),
        "a second request is in flight"
    );
    first.respond(&[text("1"), Event::Binary(Bytes::from_static(b"\x01"))]);
    assert_eq!(session.receive().await, Message::text("1"));
    assert_eq!(session.receive().await, Message::binary(vec![1]));
    assert_eq!(
        session.request().await.events,
        [
            text("two"),
            text("three"),
            text("four"),
            Event::Ping(Bytes::new())
        ]
    );
}

#[tokio::test]
async fn grip_prefixes_separate_content_from_control() {
    let subscribe = ControlMessage::subscribe("orders").into_event();
    let mut session = TestSession::open_with(
        &[("sec-websocket-extensions", "grip")],
        &[subscribe, text("m:hello")],
        Limits::default(),
    )
    .await;
    assert_eq!(session.receive().await, Message::text("hello"));
    assert_eq!(session.services.channels.subscriptions(), 1);
    assert_eq!(
        publish(
            &session.services.channels,
            grip::Item::ws_text("orders", "news")
        )
        .await,
        1
    );
    assert_eq!(session.receive().await, Message::text("news"));

    session.send("leave").await;
    let unsubscribe = ControlMessage::unsubscribe("orders").into_event();
    session.request().await.respond(&[
        text("neither"),
        unsubscribe,
        text("c:nonsense"),
        text("m:left"),
    ]);
    assert_eq!(session.receive().await, Message::text("left"));
    assert_eq!(
        publish(
            &session.services.channels,
            grip::Item::ws_text("orders", "news")
        )
        .await,
        0
    );
}

#[tokio::test]
async fn without_grip_everything_is_content() {
    let mut session = TestSession::open_with(
        &[],
        &[text("c:{\"type\":\"detach\"}"), text("m:x")],
        Limits::default(),
    )
    .await;
    assert_eq!(
        session.receive().await,
        Message::text("c:{\"type\":\"detach\"}")
    );
    assert_eq!(session.receive().await, Message::text("m:x"));
}

#[tokio::test]
async fn meta_headers_are_repeated_until_removed() {
    let mut session =
        TestSession::open_with(&[("set-meta-user", "alice")], &[], Limits::default()).await;
    session.send("1").await;
    let request = session.request().await;
    assert_eq!(request.headers["meta-user"], "alice");
    request.respond_with(&[], &[("set-meta-user", "bob"), ("set-meta-role", "cook")]);
    session.send("2").await;
    let request = session.request().await;
    assert_eq!(
        (&request.headers["meta-user"], &request.headers["meta-role"]),
        (&"bob".parse().unwrap(), &"cook".parse().unwrap())
    );
    request.respond_with(&[], &[("set-meta-user", "")]);
    session.send("3").await;
    let request = session.request().await;
    assert!(!request.headers.contains_key("meta-user") && request.headers["meta-role"] == "cook");
}

#[tokio::test]
async fn a_closing_client_receives_the_close_code_of_the_backend() {
    let mut session = TestSession::open().await;
    let frame = tungstenite::protocol::CloseFrame {
        code: 4001.into(),
        reason: "bye".into(),
    };
    session
        .client
        .send(Message::Close(Some(frame)))
        .await
        .expect("sends");
    let request = session.request().await;
    assert_eq!(request.events, [Event::close(4001, "bye")]);
    request.respond(&[Event::close(4002, "so long")]);
    match session.receive().await {
        Message::Close(Some(frame)) => assert_eq!(
            (u16::from(frame.code), frame.reason.as_str()),
            (4002, "so long")
        ),
        other => panic!("{other:?}"),
    }
    session.closed().await;
}

#[tokio::test]
async fn a_closing_backend_receives_the_close_of_the_client() {
    let mut session = TestSession::open().await;
    session.send("?").await;
    session.request().await.respond(&[
        text("last words"),
        Event::close(4003, "enough"),
        text("too late"),
    ]);
    assert_eq!(session.receive().await, Message::text("last words"));
    match session.receive().await {
        Message::Close(Some(frame)) => assert_eq!(u16::from(frame.code), 4003),
        other => panic!("{other:?}"),
    }
    // The client library sends its close frame only when it is polled, and then waits for EOF.
    let close = async {
        let request = session.backend.recv().await.expect("an open session");
        assert_eq!(request.events, [Event::close(4003, "enough")]);
        request.respond(&[]);
    };
    let (end, ()) = tokio::join!(session.client.next(), close);
    assert!(end.is_none_or(|end| end.is_err()));
    session.closed().await;
}

#[tokio::test]
async fn a_vanished_client_is_reported_as_one_disconnect() {
    let mut session = TestSession::open().await;
    session.send("one").await;
    let request = session.request().await;
    drop(std::mem::replace(&mut session.client, unconnected().await));
    request.respond(&[text("lost")]);
    let request = session.request().await;
    assert_eq!(request.events, [Event::Disconnect]);
    request.respond(&[]);
    session.closed().await;
    assert!(session.backend.try_recv().is_err());
}

#[tokio::test]
async fn a_backend_that_fails_closes_with_1011() {
    for status in [StatusCode::OK, StatusCode::INTERNAL_SERVER_ERROR] {
        let mut session = TestSession::open().await;
        session.send("?").await;
        let mut response = Response::new(full("not events"));
        *response.status_mut() = status;
        let _ = session.request().await.responder.send(Ok(response));
        match session.receive().await {
            Message::Close(Some(frame)) => assert_eq!(u16::from(frame.code), frame::INTERNAL_ERROR),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_disconnect_event_drops_the_client() {
    let mut session = TestSession::open().await;
    session.send("?").await;
    session.request().await.respond(&[Event::Disconnect]);
    assert!(session.client.next().await.is_none_or(|end| end.is_err()));
    session.closed().await;
}

#[tokio::test]
async fn a_flood_is_slowed_down_without_loss() {
    const MESSAGES: usize = 3000;
    let limits = Limits {
        max_incoming_buffer_bytes: 20_000,
        ..Limits::default()
    };
    let mut session = TestSession::open_with(&[], &[], limits).await;
    let client = std::mem::replace(&mut session.client, unconnected().await);
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
        let request = session.request().await;
        let size: usize = request.events.iter().map(Event::content_len).sum();
        let mut largest = largest.lock();
        *largest = size.max(*largest);
        for event in &request.events {
            assert_eq!(*event, Event::text(format!("{next:0>5000}")));
            next += 1;
        }
        request.respond(&[]);
    }
    // The limit, and the message that exceeded it.
    assert!(*largest.lock() <= 25_000);
    drop(flood.await.expect("no panic"));
}

#[tokio::test]
async fn an_idle_session_sends_empty_requests_at_the_keep_alive_interval() {
    let mut session = TestSession::open_prepared(&[], &[], Limits::default(), |session| {
        // Shorter than a header can set.
        session.keep_alive_interval = Some(Duration::from_millis(50));
    })
    .await;
    let start = Instant::now();
    let request = session.request().await;
    assert_eq!(request.events, []);
    assert!(start.elapsed() >= Duration::from_millis(50));
    // The interval applies until the backend changes it; 0 turns it off.
    request.respond(&[]);
    let request = session.request().await;
    assert_eq!(request.events, []);
    request.respond_with(&[], &[("keep-alive-interval", "0")]);
    session.send("still here").await;
    assert_eq!(session.request().await.events, [text("still here")]);
}

#[tokio::test]
async fn a_refresh_sends_an_empty_request() {
    let subscribe = ControlMessage::subscribe("c").into_event();
    let mut session = TestSession::open_with(
        &[("sec-websocket-extensions", "grip")],
        &[subscribe],
        Limits::default(),
    )
    .await;
    let refresh = grip::Item {
        ws_message: Some(grip::publish::WsAction::Refresh.into()),
        ..grip::Item::new("c")
    };
    publish(&session.services.channels, refresh).await;
    assert_eq!(session.request().await.events, []);
}

#[tokio::test]
async fn a_detached_session_receives_publications_but_sends_no_events() {
    let control = [
        ControlMessage::subscribe("c").into_event(),
        ControlMessage::Detach.into_event(),
    ];
    let mut session = TestSession::open_with(
        &[("sec-websocket-extensions", "grip")],
        &control,
        Limits::default(),
    )
    .await;
    // The CLOSE is the last event for the backend, and the response to it is ignored.
    let request = session.request().await;
    assert_eq!(request.events, [Event::Close(None)]);
    session.send("into the void").await;
    request.respond(&[text("m:ignored"), Event::Disconnect]);
    let news = grip::Item::ws_text("c", "news");
    publish(&session.services.channels, news).await;
    assert_eq!(session.receive().await, Message::text("news"));
    session.client.close(None).await.expect("closes");
    assert!(matches!(session.receive().await, Message::Close(_)));
    assert_eq!(session.closed().await, CloseReason::Client);
    assert!(session.backend.try_recv().is_err());
}

#[tokio::test]
async fn content_that_was_not_accepted_is_sent_again_with_later_events() {
    let mut session = TestSession::open().await;
    session.send("[foo][hello").await;
    let request = session.request().await;
    assert!(!request.headers.contains_key("content-bytes-replayed"));
    request.respond_with(&[text("one")], &[("content-bytes-accepted", "5")]);
    assert_eq!(session.receive().await, Message::text("one"));
    session.send(" world]").await;
    let request = session.request().await;
    assert_eq!(request.headers["content-bytes-replayed"], "6");
    assert_eq!(request.events, [text("[hello"), text(" world]")]);
    request.respond_with(&[], &[("content-bytes-accepted", "13")]);
    session.send("next").await;
    let request = session.request().await;
    assert!(!request.headers.contains_key("content-bytes-replayed"));
    assert_eq!(request.events, [text("next")]);
    // When the client closes, the rest is sent again at once, together with the close.
    session.client.close(None).await.expect("closes");
    request.respond_with(&[], &[("content-bytes-accepted", "1")]);
    let request = session.request().await;
    assert_eq!(request.events, [text("ext"), Event::Close(None)]);
    request.respond_with(&[], &[("content-bytes-accepted", "2")]);
    let request = session.request().await;
    assert_eq!(request.headers["content-bytes-replayed"], "1");
    assert_eq!(request.events, [text("t"), Event::Close(None)]);
    request.respond(&[]);
    assert_eq!(session.closed().await, CloseReason::Client);
}

#[tokio::test]
async fn invalid_responses_close_with_1011_and_detach_the_backend() {
    for (events, headers) in [
        (&[text("x"), Event::Open, text("y")][..], &[][..]),
        (&[], &[("content-bytes-accepted", "2")]),
    ] {
        let mut session = TestSession::open().await;
        session.send("?").await;
        session.request().await.respond_with(events, headers);
        if !events.is_empty() {
            assert_eq!(session.receive().await, Message::text("x"));
        }
        match session.receive().await {
            Message::Close(Some(frame)) => assert_eq!(u16::from(frame.code), frame::INTERNAL_ERROR),
            other => panic!("{other:?}"),
        }
        let end = session.client.next().await;
        assert!(end.is_none_or(|end| end.is_err()));
        assert_eq!(session.closed().await, CloseReason::Failed);
        assert!(session.backend.try_recv().is_err());
    }
}

#[tokio::test]
async fn pings_are_answered_and_forwarded_but_pongs_for_the_host_are_not() {
    let mut session = TestSession::open().await;
    for message in [
        Message::Ping("a".into()),
        Message::Pong(Bytes::from_static(crate::state::sessions::PING)),
        Message::Pong("b".into()),
    ] {
        session.client.send(message).await.expect("sends");
    }
    assert_eq!(session.receive().await, Message::Pong("a".into()));
    let mut forwarded = Vec::new();
    while forwarded.len() < 2 {
        let request = session.request().await;
        forwarded.extend(request.events.clone());
        request.respond(&[Event::Ping(Bytes::from_static(b"c"))]);
    }
    assert_eq!(
        forwarded,
        [Event::Ping("a".into()), Event::Pong("b".into())]
    );
    assert_eq!(session.receive().await, Message::Ping("c".into()));
}

#[tokio::test]
async fn messages_sent_before_the_close_arrived_are_forwarded() {
    let mut session = TestSession::open().await;
    session.send("?").await;
    let request = session.request().await;
    request.respond(&[Event::close(4003, "enough")]);
    // The client has not read the close frame yet.
    session.send("mine").await;
    let request = session.request().await;
    assert_eq!(request.events, [text("mine")]);
    request.respond(&[]);
    assert!(matches!(session.receive().await, Message::Close(_)));
    let close = async {
        let request = session.backend.recv().await.expect("an open session");
        assert_eq!(request.events, [Event::close(4003, "enough")]);
        request.respond(&[]);
    };
    let (end, ()) = tokio::join!(session.client.next(), close);
    assert!(end.is_none_or(|end| end.is_err()));
    assert_eq!(session.closed().await, CloseReason::Backend);
}

#[tokio::test]
async fn filters_use_the_metadata_set_by_the_backend() {
    let subscribe = |filters: &[&str]| ControlMessage::Subscribe {
        channel: "c".into(),
        filters: filters.iter().map(|&name| name.to_owned()).collect(),
        prev_id: None,
        recover: None,
        presence: None,
    };
    let set_meta = ControlMessage::SetMeta {
        name: "user".into(),
        value: Some("alice".into()),
    };
    let control = [
        subscribe(&["skip-self"]).into_event(),
        set_meta.into_event(),
        // An unknown filter leaves the subscription unchanged.
        subscribe(&["unheard-of"]).into_event(),
    ];
    let mut session = TestSession::open_with(
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
    publish(&session.services.channels, from("alice", "her own")).await;
    publish(&session.services.channels, from("bob", "another's")).await;
    assert_eq!(session.receive().await, Message::text("another's"));
    // Subscribing again replaces the filters instead of adding a subscription.
    session.send("?").await;
    let request = session.request().await;
    request.respond(&[subscribe(&[]).into_event(), text("m:joined")]);
    assert_eq!(session.receive().await, Message::text("joined"));
    publish(&session.services.channels, from("alice", "again")).await;
    publish(&session.services.channels, from("bob", "and again")).await;
    assert_eq!(session.receive().await, Message::text("again"));
    assert_eq!(session.receive().await, Message::text("and again"));
}

/// Returns a client to replace one that is taken out.
async fn unconnected() -> WebSocketStream<TcpStream> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let stream = TcpStream::connect(listener.local_addr().expect("an address"))
        .await
        .expect("connects");
    WebSocketStream::from_raw_socket(stream, Role::Client, None).await
}
