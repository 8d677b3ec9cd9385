//! Holds between a scripted backend and the test as the client.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt as _;
use grip::{
    Item, Key,
    publish::{HttpResponse, ResponseAction, StreamAction},
};
use http::{HeaderMap, HeaderValue, Request, Uri};
use http_body_util::BodyExt;
use spin_runtime::backend::{Backend, BackendError, Caller, ResponseFuture, full};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    config::{HostConfig, Limits},
    http::signer::Signer,
    proxy,
    pubsub::publication::Publication,
};

/// A backend that sends each request to the test and waits for its response.
struct ScriptedBackend(mpsc::UnboundedSender<BackendRequest>);

struct BackendRequest {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
    responder: oneshot::Sender<Response<Body>>,
}

impl Backend for ScriptedBackend {
    fn call(&self, request: Request<Body>) -> ResponseFuture<'_> {
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.expect("a complete body").to_bytes();
            let (responder, response) = oneshot::channel();
            let _ = self.0.send(BackendRequest {
                method: parts.method,
                uri: parts.uri,
                headers: parts.headers,
                body,
                responder,
            });
            response.await.map_err(|_| BackendError::Deadline {
                component: "test".into(),
                limit: Duration::ZERO,
            })
        })
    }
}

impl BackendRequest {
    fn respond(self, headers: &[(&'static str, &'static str)], body: &'static str) {
        let mut response = Response::new(full(body));
        for (name, value) in headers {
            let value = HeaderValue::from_static(value);
            response.headers_mut().append(*name, value);
        }
        let _ = self.responder.send(response);
    }
}

struct TestHost {
    services: Arc<Services>,
    requests: mpsc::UnboundedReceiver<BackendRequest>,
    drain: CancellationToken,
}

impl TestHost {
    fn new(limits: Limits) -> Self {
        let (sender, requests) = mpsc::unbounded_channel();
        let backend = Arc::new(ScriptedBackend(sender));
        let key = Key::parse("a key that is long enough for tokens").expect("a key");
        let config = HostConfig {
            limits,
            ..HostConfig::default()
        };
        let drain = CancellationToken::new();
        let signer = Signer::new(key);
        let services = Services::new(backend, "scripted", signer, &config, drain.clone());
        Self {
            services: Arc::new(services),
            requests,
            drain,
        }
    }

    /// Sends a request of a client.
    fn send(&self, method: Method, body: &'static str) -> JoinHandle<Response<Body>> {
        let services = self.services.clone();
        let request = Request::builder()
            .method(method)
            .uri("/room/?x=1")
            .header("host", "example.com")
            .header("cookie", "a=1")
            .extension(Caller::Host)
            .body(full(body))
            .expect("a request");
        tokio::spawn(async move { proxy::forward(&services, request, None).await })
    }

    /// Waits for a request to the backend.
    async fn backend_request(&mut self) -> BackendRequest {
        let request = timeout(Duration::from_secs(3600), self.requests.recv()).await;
        request.expect("a request in time").expect("a backend")
    }

    /// Sends a request of a client, to which the backend sends this response.
    async fn send_and_respond(
        &mut self,
        headers: &[(&'static str, &'static str)],
        body: &'static str,
    ) -> JoinHandle<Response<Body>> {
        let response = self.send(Method::GET, "");
        self.backend_request().await.respond(headers, body);
        response
    }

    /// Opens a stream with this response of the backend, and reads the response's body.
    async fn open_stream(
        &mut self,
        headers: &[(&'static str, &'static str)],
        body: &'static str,
    ) -> Body {
        let response = self.send_and_respond(headers, body).await;
        let mut stream = response.await.expect("a response").into_body();
        assert_eq!(next_chunk(&mut stream).await.as_deref(), Some(body));
        stream
    }

    async fn publish(&self, item: Item) -> usize {
        let publication = Publication::new(item).expect("a valid item");
        self.services.channels.publish(publication).await
    }

    /// Waits until there are `count` subscriptions.
    async fn wait_for_subscriptions(&self, count: usize) {
        while self.services.channels.subscriptions() != count {
            tokio::task::yield_now().await;
        }
    }

    /// Returns whether all holds and their subscriptions have been dropped.
    fn has_no_holds(&self) -> bool {
        let Services {
            channels, holds, ..
        } = &*self.services;
        channels.subscriptions() == 0 && holds.streams() == 0 && holds.responses() == 0
    }
}

/// Returns the next chunk of a stream, or `None` at its end.
async fn next_chunk(stream: &mut Body) -> Option<String> {
    let frame = timeout(Duration::from_secs(3600), stream.frame()).await;
    let frame = frame.expect("a frame in time")?.expect("no error");
    let data = frame.into_data().expect("data");
    Some(String::from_utf8(data.to_vec()).expect("text"))
}

async fn body_text(response: Response<Body>) -> String {
    let body = response.into_body().collect().await.expect("a body");
    String::from_utf8(body.to_bytes().to_vec()).expect("text")
}

fn stream_item(text: &'static str) -> Item {
    Item::stream("c", text)
}

fn response_item(body: &'static str) -> Item {
    let response = HttpResponse {
        code: 201,
        reason: None,
        headers: vec![("x-custom".into(), "published".into())],
        body: Bytes::from_static(body.as_bytes()),
    };
    Item::response("c", response)
}

fn with_ids(item: Item, id: u32) -> Item {
    item.with_id(id.to_string(), Some((id - 1).to_string()))
}

mod wire;

const HOLD_STREAM: (&str, &str) = ("grip-hold", "stream");
const HOLD_RESPONSE: (&str, &str) = ("grip-hold", "response");
const CHANNEL: (&str, &str) = ("grip-channel", "c");

#[tokio::test(start_paused = true)]
async fn grip_headers_are_removed_from_a_plain_response() {
    let mut host = TestHost::new(Limits::default());
    let client = host.send(Method::GET, "");
    let request = host.backend_request().await;
    assert_eq!(
        (request.uri.path(), &request.headers["cookie"]),
        ("/room/", &"a=1".parse().unwrap())
    );
    let token = request.headers["grip-sig"]
        .to_str()
        .expect("a token")
        .to_owned();
    assert!(host.services.signer.verify(&token).is_ok());
    let headers = [
        ("grip-unknown", "x"),
        ("grip-status", "404 Not Here"),
        ("grip-expose-headers", "x-seen"),
        ("x-seen", "1"),
        ("x-hidden", "2"),
    ];
    request.respond(&headers, "default");
    let response = client.await.expect("a response");
    assert_eq!(response.status(), 404);
    let reason = response.extensions().get::<hyper::ext::ReasonPhrase>();
    assert_eq!(reason.expect("a reason").as_bytes(), b"Not Here");
    let names: Vec<_> = response
        .headers()
        .keys()
        .map(|name| name.as_str())
        .collect();
    assert_eq!(names, ["x-seen"]);
    assert_eq!(body_text(response).await, "default");
    assert!(host.has_no_holds());
}

#[tokio::test(start_paused = true)]
async fn held_response_is_replaced_by_a_published_one() {
    let mut host = TestHost::new(Limits::default());
    let headers = [
        HOLD_RESPONSE,
        CHANNEL,
        ("x-custom", "backend"),
        ("x-kept", "1"),
    ];
    let client = host.send_and_respond(&headers, "default").await;
    host.wait_for_subscriptions(1).await;
    assert_eq!(host.services.holds.responses(), 1);
    // A publication for streams is not delivered.
    assert_eq!(host.publish(stream_item("no")).await, 0);
    assert_eq!(host.publish(response_item("news")).await, 1);
    let response = client.await.expect("a response");
    assert_eq!(response.status(), 201);
    assert_eq!(response.headers()["x-custom"], "published");
    assert_eq!(response.headers()["x-kept"], "1");
    assert_eq!(response.headers().len(), 2);
    assert_eq!(body_text(response).await, "news");
    assert!(host.has_no_holds());
}

#[tokio::test(start_paused = true)]
async fn held_response_times_out_with_the_backends_response() {
    let mut host = TestHost::new(Limits::default());
    for (header, seconds) in [
        (CHANNEL, 55),
        (("grip-timeout", "10"), 10),
        (("grip-timeout", "1"), 5),
    ] {
        let client = host
            .send_and_respond(&[HOLD_RESPONSE, header], "nothing")
            .await;
        let start = Instant::now();
        assert_eq!(
            body_text(client.await.expect("a response")).await,
            "nothing"
        );
        assert_eq!(start.elapsed(), Duration::from_secs(seconds));
    }
    assert!(host.has_no_holds());
}

#[tokio::test(start_paused = true)]
async fn stale_response_is_retried() {
    let mut host = TestHost::new(Limits::default());
    host.publish(with_ids(response_item("x"), 7)).await;
    let client = host.send(Method::POST, "the body");
    let first = host.backend_request().await;
    assert!(!first.headers.contains_key("grip-last"));
    first.respond(
        &[HOLD_RESPONSE, ("grip-channel", "c; prev-id=5")],
        "default",
    );
    // The response is stale, so the request is sent again.
    let second = host.backend_request().await;
    assert_eq!(
        (second.method.as_str(), &*second.body),
        ("POST", &b"the body"[..])
    );
    assert_eq!(second.headers["cookie"], "a=1");
    assert_eq!(second.headers["grip-last"], "c; last-id=5");
    second.respond(
        &[HOLD_RESPONSE, ("grip-channel", "c; prev-id=7, d")],
        "default",
    );
    host.wait_for_subscriptions(2).await;
    // The backend knew the first publication, but not the second.
    host.publish(with_ids(response_item("known"), 7)).await;
    host.publish(with_ids(response_item("news"), 8)).await;
    assert_eq!(body_text(client.await.expect("a response")).await, "news");
    assert!(host.has_no_holds());
}

#[tokio::test(start_paused = true)]
async fn repeated_last_id_of_the_backend_is_trusted() {
    let mut host = TestHost::new(Limits::default());
    host.publish(with_ids(response_item("x"), 7)).await;
    let headers = [HOLD_RESPONSE, ("grip-channel", "c; prev-id=5")];
    let client = host.send_and_respond(&headers, "default").await;
    host.backend_request().await.respond(&headers, "default");
    host.wait_for_subscriptions(1).await;
    host.publish(with_ids(response_item("news"), 6)).await;
    assert_eq!(body_text(client.await.expect("a response")).await, "news");
}

#[tokio::test(start_paused = true)]
async fn stale_responses_are_retried_a_limited_number_of_times() {
    let mut host = TestHost::new(Limits::default());
    host.publish(with_ids(response_item("x"), 99)).await;
    let client = host.send(Method::GET, "");
    const IDS: [&str; MAX_REPLAYS + 1] = [
        "c; prev-id=1",
        "c; prev-id=2",
        "c; prev-id=3",
        "c; prev-id=4",
        "c; prev-id=5",
        "c; prev-id=6",
    ];
    for channel in IDS {
        host.backend_request()
            .await
            .respond(&[HOLD_RESPONSE, ("grip-channel", channel)], channel);
    }
    assert_eq!(
        body_text(client.await.expect("a response")).await,
        IDS[MAX_REPLAYS]
    );
}

#[tokio::test(start_paused = true)]
async fn hint_or_gap_retries_a_held_request() {
    let mut host = TestHost::new(Limits::default());
    let client = host.send_and_respond(&[HOLD_RESPONSE, CHANNEL], "1").await;
    host.wait_for_subscriptions(1).await;
    let hint = Item {
        http_response: Some(ResponseAction::Hint.into()),
        ..Item::new("c")
    };
    host.publish(hint).await;
    let retry = host.backend_request().await;
    retry.respond(&[HOLD_RESPONSE, ("grip-channel", "c; prev-id=1, d")], "2");
    host.wait_for_subscriptions(2).await;
    // A publication without ids may follow a gap.
    host.publish(response_item("unordered")).await;
    host.backend_request().await.respond(&[], "current state");
    assert_eq!(
        body_text(client.await.expect("a response")).await,
        "current state"
    );
    assert!(host.has_no_holds());
}

#[tokio::test(start_paused = true)]
async fn backend_is_notified_when_the_client_disconnects() {
    let mut host = TestHost::new(Limits::default());
    let gone = ("grip-link", "<bye>; rel=gone");
    let client = host
        .send_and_respond(&[HOLD_RESPONSE, CHANNEL, gone], "default")
        .await;
    host.wait_for_subscriptions(1).await;
    client.abort();
    let notification = host.backend_request().await;
    assert_eq!(
        (notification.method.as_str(), notification.uri.path()),
        ("POST", "/room/bye")
    );
    assert!(host.has_no_holds());

    let body = host
        .open_stream(&[HOLD_STREAM, CHANNEL, gone], "hello")
        .await;
    assert_eq!(host.services.holds.streams(), 1);
    drop(body);
    assert_eq!(host.backend_request().await.uri.path(), "/room/bye");
    assert!(host.has_no_holds());
}

#[tokio::test(start_paused = true)]
async fn published_content_is_appended_to_a_stream() {
    let mut host = TestHost::new(Limits::default());
    let client = host
        .send_and_respond(&[HOLD_STREAM, CHANNEL, ("content-length", "5")], "hello")
        .await;
    let stream = client.await.expect("a response");
    assert_eq!(stream.headers().len(), 0);
    let mut stream = stream.into_body();
    // The client has not read anything yet.
    host.publish(stream_item("one")).await;
    assert_eq!(next_chunk(&mut stream).await.as_deref(), Some("hello"));
    assert_eq!(next_chunk(&mut stream).await.as_deref(), Some("one"));
    host.publish(response_item("for responses")).await;
    host.publish(stream_item("two")).await;
    assert_eq!(next_chunk(&mut stream).await.as_deref(), Some("two"));
    let hint = Item {
        http_stream: Some(StreamAction::Hint.into()),
        ..Item::new("c")
    };
    host.publish(hint).await;
    host.publish(stream_item("three")).await;
    host.publish(Item::stream_end("c")).await;
    host.publish(stream_item("four")).await;
    assert_eq!(next_chunk(&mut stream).await.as_deref(), Some("three"));
    assert_eq!(next_chunk(&mut stream).await, None);
    drop(stream);
    assert!(host.has_no_holds());
}

#[tokio::test(start_paused = true)]
async fn idle_stream_gets_keep_alives() {
    let mut host = TestHost::new(Limits::default());
    let idle = ("grip-keep-alive", r":\n; format=cstring; timeout=20");
    let mut stream = host
        .open_stream(&[HOLD_STREAM, CHANNEL, idle], "hello")
        .await;
    let start = Instant::now();
    let seconds = |seconds| Duration::from_secs(seconds);
    assert_eq!(next_chunk(&mut stream).await.as_deref(), Some(":\n"));
    assert_eq!(start.elapsed(), seconds(20));
    tokio::time::advance(seconds(15)).await;
    host.publish(stream_item("news")).await;
    assert_eq!(next_chunk(&mut stream).await.as_deref(), Some("news"));
    assert_eq!(next_chunk(&mut stream).await.as_deref(), Some(":\n"));
    assert_eq!(start.elapsed(), seconds(20 + 15 + 20));

    let interval = ("grip-keep-alive", "x; timeout=20; mode=interval");
    let mut stream = host
        .open_stream(&[HOLD_STREAM, CHANNEL, interval], "hello")
        .await;
    let start = Instant::now();
    tokio::time::advance(seconds(15)).await;
    host.publish(stream_item("news")).await;
    assert_eq!(next_chunk(&mut stream).await.as_deref(), Some("news"));
    assert_eq!(next_chunk(&mut stream).await.as_deref(), Some("x"));
    assert_eq!(start.elapsed(), seconds(20));
}

#[tokio::test(start_paused = true)]
async fn next_link_is_fetched_after_a_timeout_or_a_gap() {
    let mut host = TestHost::new(Limits::default());
    let headers = [
        HOLD_STREAM,
        ("grip-channel", "c; prev-id=1"),
        ("grip-link", "<part?n=2>; rel=next; timeout=30"),
    ];
    let mut stream = host.open_stream(&headers, "one ").await;
    host.publish(with_ids(stream_item("two "), 2)).await;
    assert_eq!(next_chunk(&mut stream).await.as_deref(), Some("two "));
    // The stream stays quiet.
    let start = Instant::now();
    let reading = tokio::spawn(async move { (next_chunk(&mut stream).await, stream) });
    let request = host.backend_request().await;
    assert_eq!(start.elapsed(), Duration::from_secs(30));
    assert_eq!(
        (request.method.as_str(), request.uri.to_string().as_str()),
        ("GET", "/room/part?n=2")
    );
    assert_eq!(request.headers["grip-last"], "c; last-id=2");
    assert_eq!(request.headers["host"], "example.com");
    assert!(!request.headers.contains_key("cookie"));
    // The first of these is already in the next response.
    host.publish(with_ids(stream_item("three "), 3)).await;
    host.publish(with_ids(stream_item("four "), 4)).await;
    let headers = [
        HOLD_STREAM,
        ("grip-channel", "c; prev-id=3"),
        ("grip-link", "</end>; rel=next; timeout=1000"),
    ];
    request.respond(&headers, "three, as a response ");
    let (read, mut stream) = reading.await.expect("no panic");
    assert_eq!(read.as_deref(), Some("three, as a response "));
    assert_eq!(next_chunk(&mut stream).await.as_deref(), Some("four "));
    // The sequencer gives up waiting for five, so the stream sees a gap.
    host.publish(with_ids(stream_item("six "), 6)).await;
    let reading = tokio::spawn(async move { (next_chunk(&mut stream).await, stream) });
    let request = host.backend_request().await;
    assert_eq!(request.uri.path(), "/end");
    request.respond(&[], "five, six");
    let (read, mut stream) = reading.await.expect("no panic");
    assert_eq!(read.as_deref(), Some("five, six"));
    assert_eq!(next_chunk(&mut stream).await, None);
    drop(stream);
    assert!(host.has_no_holds());
}

#[tokio::test(start_paused = true)]
async fn failed_fetch_of_a_next_link_is_retried_with_keep_alives() {
    let mut host = TestHost::new(Limits::default());
    let headers = [
        HOLD_STREAM,
        ("grip-keep-alive", "x; timeout=1"),
        ("grip-link", "</next>; rel=next; timeout=0"),
    ];
    let mut stream = host.open_stream(&headers, "one").await;
    let reading = tokio::spawn(async move {
        let mut read = Vec::new();
        while let Some(piece) = next_chunk(&mut stream).await {
            read.push(piece);
        }
        read
    });
    for retry in 0..3 {
        let request = host.backend_request().await;
        let mut failed = Response::new(full("failed"));
        *failed.status_mut() = StatusCode::BAD_GATEWAY;
        assert_eq!(request.uri.path(), "/next", "retry {retry}");
        let _ = request.responder.send(failed);
    }
    host.backend_request().await.respond(&[], "two");
    let mut read = VecDeque::from(reading.await.expect("no panic"));
    assert_eq!(read.pop_back().as_deref(), Some("two"));
    // The retries are delayed by 1, 2 and 4 seconds, plus up to a second of jitter each.
    assert!(
        (6..=10).contains(&read.len()) && read.iter().all(|piece| piece == "x"),
        "{read:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn next_link_without_a_hold_is_fetched_at_once() {
    let mut host = TestHost::new(Limits::default());
    let mut stream = host
        .open_stream(&[("grip-link", "</2>; rel=next")], "one")
        .await;
    let reading = tokio::spawn(async move { (next_chunk(&mut stream).await, stream) });
    let request = host.backend_request().await;
    assert_eq!(request.uri.path(), "/2");
    request.respond(
        &[("grip-link", "<http://elsewhere.example/>; rel=next")],
        "two",
    );
    let (read, mut stream) = reading.await.expect("no panic");
    assert_eq!(read.as_deref(), Some("two"));
    // Links to other hosts are not followed.
    assert_eq!(next_chunk(&mut stream).await, None);
}

/// Opens a stream whose next link is `/0`, and reads it in a task.
async fn read_linked_stream(host: &mut TestHost) -> JoinHandle<()> {
    let mut stream = host
        .open_stream(&[("grip-link", "</0>; rel=next")], "first")
        .await;
    tokio::spawn(async move { while next_chunk(&mut stream).await.is_some() {} })
}

#[tokio::test(start_paused = true)]
async fn links_that_lead_to_each_other_are_followed_slowly() {
    // One link to itself, two links to each other, and new links without content.
    for (count, body) in [(1, "x"), (2, "x"), (usize::MAX, "")] {
        let mut host = TestHost::new(Limits::default());
        let reading = read_linked_stream(&mut host).await;
        let start = Instant::now();
        for request in 1..=20 {
            let link: &'static str = format!("</{}>; rel=next", request % count).leak();
            let request = host.backend_request().await;
            request.respond(&[("grip-link", link)], body);
        }
        let elapsed = start.elapsed();
        assert!(
            elapsed >= Duration::from_secs(15),
            "{count} links: {elapsed:?}"
        );
        reading.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn new_links_with_content_are_followed_at_once() {
    let mut host = TestHost::new(Limits::default());
    let reading = read_linked_stream(&mut host).await;
    let start = Instant::now();
    for page in 1..=100 {
        let link: &'static str = format!("</{page}>; rel=next").leak();
        let request = host.backend_request().await;
        request.respond(&[("grip-link", link)], "x");
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    reading.abort();
}

#[tokio::test(start_paused = true)]
async fn stale_first_response_of_a_stream_is_retried() {
    let mut host = TestHost::new(Limits::default());
    host.publish(with_ids(stream_item("x"), 7)).await;
    let client = host
        .send_and_respond(&[HOLD_STREAM, ("grip-channel", "c; prev-id=6")], "1 to 6 ")
        .await;
    let retry = host.backend_request().await;
    retry.respond(&[HOLD_STREAM, ("grip-channel", "c; prev-id=7")], "1 to 7 ");
    let mut stream = client.await.expect("a response").into_body();
    assert_eq!(next_chunk(&mut stream).await.as_deref(), Some("1 to 7 "));
    host.publish(with_ids(stream_item("8 "), 8)).await;
    assert_eq!(next_chunk(&mut stream).await.as_deref(), Some("8 "));
    // A gap without a next link ends the stream.
    let unordered = Item {
        no_seq: true,
        ..with_ids(stream_item("10"), 10)
    };
    host.publish(unordered).await;
    assert_eq!(next_chunk(&mut stream).await, None);
}

/// A response can be stale by the time the host has subscribed to its channels.
#[tokio::test(start_paused = true)]
async fn stale_response_to_a_next_link_is_fetched_again() {
    let mut host = TestHost::new(Limits::default());
    host.publish(with_ids(stream_item("x"), 7)).await;
    let mut stream = host
        .open_stream(&[("grip-link", "</2>; rel=next")], "1 to 5 ")
        .await;
    let reading = tokio::spawn(async move { (next_chunk(&mut stream).await, stream) });
    let link = ("grip-link", "</3>; rel=next");
    let next = [HOLD_STREAM, ("grip-channel", "c; prev-id=6"), link];
    host.backend_request().await.respond(&next, "6 ");
    let (read, mut stream) = reading.await.expect("no panic");
    assert_eq!(read.as_deref(), Some("6 "));
    let reading = tokio::spawn(async move { (next_chunk(&mut stream).await, stream) });
    let request = host.backend_request().await;
    assert_eq!(request.uri.path(), "/3");
    let next = [HOLD_STREAM, ("grip-channel", "c; prev-id=7"), link];
    request.respond(&next, "7 ");
    let (read, mut stream) = reading.await.expect("no panic");
    assert_eq!(read.as_deref(), Some("7 "));
    host.publish(with_ids(stream_item("8 "), 8)).await;
    assert_eq!(next_chunk(&mut stream).await.as_deref(), Some("8 "));
}

/// The next response has to contain the dropped publications, but the backend may not have them yet.
#[tokio::test(start_paused = true)]
async fn response_without_dropped_publications_is_fetched_again() {
    let mut host = TestHost::new(Limits::default());
    let link = ("grip-link", "</2>; rel=next");
    let old = [HOLD_STREAM, ("grip-channel", "c; prev-id=7"), link];
    let mut stream = host.open_stream(&old, "1 to 7 ").await;
    let unordered = Item {
        no_seq: true,
        ..with_ids(stream_item("9 "), 9)
    };
    host.publish(unordered).await;
    let reading = tokio::spawn(async move { (next_chunk(&mut stream).await, stream) });
    host.backend_request().await.respond(&old, "");
    let new = [HOLD_STREAM, ("grip-channel", "c; prev-id=9"), link];
    host.backend_request().await.respond(&new, "8 9 ");
    let (read, mut stream) = reading.await.expect("no panic");
    assert_eq!(read.as_deref(), Some("8 9 "));
    host.publish(with_ids(stream_item("10 "), 10)).await;
    assert_eq!(next_chunk(&mut stream).await.as_deref(), Some("10 "));
}

/// A queued publication on one channel must not hide a gap on another.
#[tokio::test(start_paused = true)]
async fn channels_become_stale_independently() {
    let mut host = TestHost::new(Limits::default());
    host.publish(with_ids(stream_item("x"), 7)).await;
    let client = host.send(Method::GET, "");
    let request = host.backend_request().await;
    request.respond(&[HOLD_STREAM, ("grip-channel", "d")], "1 ");
    let mut stream = client.await.expect("a response").into_body();
    host.publish(Item::stream("d", "waits")).await;
    host.services.channels.wait_delivered("d").await;
    assert_eq!(next_chunk(&mut stream).await.as_deref(), Some("1 "));
    drop(stream);

    let client = host.send(Method::GET, "");
    host.backend_request()
        .await
        .respond(&[HOLD_RESPONSE, ("grip-channel", "d, e")], "default");
    host.wait_for_subscriptions(2).await;
    // A hint retries the request. Meanwhile, something is published on another channel.
    let hint = Item {
        http_response: Some(ResponseAction::Hint.into()),
        ..Item::new("e")
    };
    host.publish(hint).await;
    let retry = host.backend_request().await;
    let mut waits = response_item("waits");
    waits.channel = "d".into();
    host.publish(waits).await;
    host.services.channels.wait_delivered("d").await;
    retry.respond(
        &[HOLD_RESPONSE, ("grip-channel", "d, c; prev-id=6")],
        "default",
    );
    let retry = host.backend_request().await;
    assert_eq!(retry.headers["grip-last"], "c; last-id=6");
    retry.respond(&[], "all");
    assert_eq!(body_text(client.await.expect("a response")).await, "all");
}

#[tokio::test(start_paused = true)]
async fn held_response_can_become_a_stream() {
    let mut host = TestHost::new(Limits::default());
    let client = host
        .send_and_respond(&[HOLD_RESPONSE, CHANNEL], "default")
        .await;
    host.wait_for_subscriptions(1).await;
    let hint = Item {
        http_response: Some(ResponseAction::Hint.into()),
        ..Item::new("c")
    };
    host.publish(hint).await;
    host.backend_request()
        .await
        .respond(&[HOLD_STREAM, CHANNEL], "begin ");
    let mut stream = client.await.expect("a response").into_body();
    let holds = &host.services.holds;
    assert_eq!((holds.streams(), holds.responses()), (1, 0));
    assert_eq!(next_chunk(&mut stream).await.as_deref(), Some("begin "));
    host.publish(stream_item("more")).await;
    assert_eq!(next_chunk(&mut stream).await.as_deref(), Some("more"));
    drop(stream);
    assert!(host.has_no_holds());
}

#[tokio::test(start_paused = true)]
async fn published_content_is_not_appended_to_encoded_content() {
    const GZIP: (&str, &str) = ("content-encoding", "gzip");
    let mut host = TestHost::new(Limits::default());
    let client = host
        .send_and_respond(&[HOLD_RESPONSE, CHANNEL, GZIP], "default")
        .await;
    host.wait_for_subscriptions(1).await;
    host.publish(response_item("news")).await;
    let response = client.await.expect("a response");
    assert!(!response.headers().contains_key("content-encoding"));
    assert_eq!(body_text(response).await, "news");

    // An encoded stream is requested again without an encoding.
    let client = host
        .send_and_respond(&[HOLD_STREAM, CHANNEL, GZIP], "coded")
        .await;
    let retry = host.backend_request().await;
    assert_eq!(retry.headers["accept-encoding"], "identity");
    retry.respond(&[HOLD_STREAM, CHANNEL], "plain");
    let mut stream = client.await.expect("a response").into_body();
    assert_eq!(next_chunk(&mut stream).await.as_deref(), Some("plain"));
    drop(stream);

    // The backend ignores `Accept-Encoding`.
    let client = host
        .send_and_respond(&[HOLD_STREAM, CHANNEL, GZIP], "coded")
        .await;
    let retry = host.backend_request().await;
    retry.respond(&[HOLD_STREAM, CHANNEL, GZIP], "coded");
    assert_eq!(client.await.expect("a response").status(), 502);
    assert!(host.has_no_holds());
}

#[tokio::test(start_paused = true)]
async fn stalled_body_of_a_held_response_is_an_error() {
    let mut host = TestHost::new(Limits::default());
    let client = host.send(Method::GET, "");
    let endless = futures_util::stream::pending();
    let mut response = Response::new(http_body_util::StreamBody::new(endless).boxed_unsync());
    for (name, value) in [HOLD_RESPONSE, CHANNEL] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    let _ = host.backend_request().await.responder.send(response);
    assert_eq!(client.await.expect("a response").status(), 502);
}

#[tokio::test(start_paused = true)]
async fn special_characters_in_ids_are_quoted() {
    let mut host = TestHost::new(Limits::default());
    let id = r#"c; prev-id="a,b; \"c\"""#;
    let link = ("grip-link", "</2>; rel=next; timeout=0");
    let mut stream = host
        .open_stream(&[HOLD_STREAM, ("grip-channel", id), link], "1")
        .await;
    tokio::spawn(async move { next_chunk(&mut stream).await });
    let request = host.backend_request().await;
    let last = request.headers["grip-last"].as_bytes();
    let read = grip::hold::Channel::from_grip_last([last]).expect("a valid Grip-Last header");
    assert_eq!(read[0].prev_id.as_deref(), Some(r#"a,b; "c""#));
}

#[tokio::test(start_paused = true)]
async fn slow_client_of_a_stream_is_disconnected() {
    let limits = Limits {
        max_outgoing_buffer_bytes: 10_000,
        ..Limits::default()
    };
    let mut host = TestHost::new(limits);
    let mut slow = host.open_stream(&[HOLD_STREAM, CHANNEL], "hello").await;
    let mut fast = host.open_stream(&[HOLD_STREAM, CHANNEL], "hello").await;
    const LARGE: &str = match std::str::from_utf8(&[b'x'; 4000]) {
        Ok(text) => text,
        Err(_) => panic!("ASCII"),
    };
    for _ in 0..10 {
        host.publish(stream_item(LARGE)).await;
        assert_eq!(next_chunk(&mut fast).await.as_deref(), Some(LARGE));
    }
    let frame = slow.frame().await.expect("an error instead of an end");
    assert_eq!(
        frame.err().map(|error| error.to_string()).as_deref(),
        Some("client is too slow")
    );
}

#[tokio::test(start_paused = true)]
async fn filters_use_the_metadata_of_the_backend() {
    let mut host = TestHost::new(Limits::default());
    let headers = [
        HOLD_STREAM,
        ("grip-channel", "c; filter=skip-self; filter=var-subst"),
        ("grip-set-meta", "user=\"ann\""),
    ];
    let mut stream = host.open_stream(&headers, "hello").await;
    for sender in ["ann", "bob"] {
        let mut item = Item::stream("c", format!("{sender} to %(user)s"));
        item.meta.insert("sender".into(), sender.into());
        host.publish(item).await;
    }
    assert_eq!(next_chunk(&mut stream).await.as_deref(), Some("bob to ann"));

    let unknown = [HOLD_STREAM, ("grip-channel", "c; filter=skip-me")];
    let client = host.send_and_respond(&unknown, "hello").await;
    assert_eq!(client.await.expect("a response").status(), 502);
}

#[tokio::test(start_paused = true)]
async fn instruct_response_to_head_is_not_parsed() {
    let mut host = TestHost::new(Limits::default());
    let client = host.send(Method::HEAD, "");
    let headers = [("content-type", "application/grip-instruct")];
    host.backend_request().await.respond(&headers, "");
    assert_eq!(client.await.expect("a response").status(), StatusCode::OK);
    assert!(host.has_no_holds());
}

#[tokio::test(start_paused = true)]
async fn instructions_in_the_body_are_followed() {
    let mut host = TestHost::new(Limits::default());
    let json = ("content-type", "application/grip-instruct");
    let body = r#"{"hold": {"mode": "response", "channels": [{"name": "c"}], "timeout": 10},
        "response": {"code": 202, "reason": "Waited", "headers": {"X-Custom": "1"}, "body": "timed out"}}"#;
    let response = host
        .send_and_respond(&[json, ("x-lost", "1")], body)
        .await
        .await
        .expect("a response");
    assert_eq!(
        (response.status().as_u16(), response.headers().len()),
        (202, 1)
    );
    assert_eq!(response.headers()["x-custom"], "1");
    assert_eq!(body_text(response).await, "timed out");
    for wrong in [
        "",
        "[]",
        r#"{"hold": 1}"#,
        r#"{"response": {"headers": {"a b": "c"}}}"#,
    ] {
        let client = host.send_and_respond(&[json], wrong).await;
        assert_eq!(client.await.expect("a response").status(), 502, "{wrong}");
    }
    let client = host.send_and_respond(&[("grip-hold", "forever")], "").await;
    assert_eq!(client.await.expect("a response").status(), 502);
}

#[tokio::test(start_paused = true)]
async fn holds_end_when_the_host_stops() {
    let mut host = TestHost::new(Limits::default());
    let mut stream = host.open_stream(&[HOLD_STREAM, CHANNEL], "hello").await;
    let client = host
        .send_and_respond(&[HOLD_RESPONSE, CHANNEL], "default")
        .await;
    host.wait_for_subscriptions(2).await;
    let start = Instant::now();
    host.drain.cancel();
    assert_eq!(
        body_text(client.await.expect("a response")).await,
        "default"
    );
    assert_eq!(next_chunk(&mut stream).await, None);
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn holds_can_end_one_by_one() {
    let mut host = TestHost::new(Limits::default());
    let mut streams = Vec::new();
    for _ in 0..50 {
        streams.push(host.open_stream(&[HOLD_STREAM, CHANNEL], "hello").await);
    }
    let time = Duration::from_secs(10);
    let releasing = host.services.holds.release_gradually(time);
    let half = tokio::time::sleep(time / 2);
    tokio::pin!(releasing);
    tokio::select! {
        () = &mut releasing => panic!("too early"),
        () = half => {}
    }
    let mut is_open = |stream: &mut Body| next_chunk(stream).now_or_never() != Some(None);
    streams.retain_mut(&mut is_open);
    assert!((15..35).contains(&streams.len()), "{}", streams.len());
    releasing.await;
    streams.retain_mut(is_open);
    assert!(streams.is_empty());
}

#[tokio::test(start_paused = true)]
async fn number_of_holds_is_limited() {
    let limits = Limits {
        max_connections: 1,
        ..Limits::default()
    };
    let mut host = TestHost::new(limits);
    let stream = host.open_stream(&[HOLD_STREAM, CHANNEL], "hello").await;
    let client = host
        .send_and_respond(&[HOLD_STREAM, CHANNEL], "hello")
        .await;
    assert_eq!(client.await.expect("a response").status(), 503);
    drop(stream);
    host.open_stream(&[HOLD_STREAM, CHANNEL], "hello").await;
}

#[tokio::test(start_paused = true)]
async fn head_request_is_not_held_as_a_stream() {
    let mut host = TestHost::new(Limits::default());
    let client = host.send(Method::HEAD, "");
    host.backend_request()
        .await
        .respond(&[HOLD_STREAM, CHANNEL, ("x-custom", "1")], "");
    let response = client.await.expect("a response");
    assert_eq!(response.headers()["x-custom"], "1");
    assert_eq!(body_text(response).await, "");
    assert!(host.has_no_holds());
}
