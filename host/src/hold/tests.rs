//! Holds between a scripted backend and a client that the test is.

use crate::proxy;
use http::Request;
use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use grip::{
    Item, Key,
    publish::{HttpResponse, ResponseAction, StreamAction},
};
use http::{HeaderMap, HeaderValue, Uri};
use http_body_util::BodyExt;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::Limits;
use crate::{http::signer::Signer, pubsub::publication::Publication};
use spin_runtime::backend::{Backend, BackendError, Caller, ResponseFuture, full};

/// Hands each request to the test, and waits for what it answers.
struct Scripted(mpsc::UnboundedSender<Asked>);

struct Asked {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
    answer: oneshot::Sender<Response<Body>>,
}

impl Backend for Scripted {
    fn call(&self, request: Request<Body>) -> ResponseFuture<'_> {
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.expect("a whole body").to_bytes();
            let (answer, answered) = oneshot::channel();
            let _ = self.0.send(Asked {
                method: parts.method,
                uri: parts.uri,
                headers: parts.headers,
                body,
                answer,
            });
            answered.await.map_err(|_| BackendError::Deadline {
                component: "test".into(),
                limit: Duration::ZERO,
            })
        })
    }
}

impl Asked {
    fn answer(self, headers: &[(&'static str, &'static str)], body: &'static str) {
        let mut response = Response::new(full(body));
        for (name, value) in headers {
            let value = HeaderValue::from_static(value);
            response.headers_mut().append(*name, value);
        }
        let _ = self.answer.send(response);
    }
}

struct Stage {
    services: Arc<Services>,
    backend: mpsc::UnboundedReceiver<Asked>,
    stop: CancellationToken,
}

impl Stage {
    fn new(limits: Limits) -> Self {
        let (asked, backend) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let key = Key::parse("a key of some length, since it has to be").expect("a key");
        let (scripted, signer) = (Arc::new(Scripted(asked)), Signer::new(key));
        let services = Services::new(scripted, "scripted", signer, limits, stop.clone());
        Self {
            services: Arc::new(services),
            backend,
            stop,
        }
    }

    /// A request of a client.
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
        tokio::spawn(async move { proxy::forward(&services, request).await })
    }

    async fn asked(&mut self) -> Asked {
        let asked = timeout(Duration::from_secs(3600), self.backend.recv()).await;
        asked.expect("a request comes").expect("there is a backend")
    }

    /// A request that is answered like this.
    async fn answered(
        &mut self,
        headers: &[(&'static str, &'static str)],
        body: &'static str,
    ) -> JoinHandle<Response<Body>> {
        let response = self.send(Method::GET, "");
        self.asked().await.answer(headers, body);
        response
    }

    /// A stream that began like this, after which its client has read the backend's body.
    async fn streaming(
        &mut self,
        headers: &[(&'static str, &'static str)],
        body: &'static str,
    ) -> Body {
        let response = self.answered(headers, body).await;
        let mut stream = response.await.expect("an answer").into_body();
        assert_eq!(next(&mut stream).await.as_deref(), Some(body));
        stream
    }

    async fn publish(&self, item: Item) -> usize {
        let publication = Publication::new(item).expect("to be sent");
        self.services.channels.publish(publication).await
    }

    /// Waits until a hold is on `channels` channels.
    async fn subscribed(&self, channels: usize) {
        while self.services.channels.subscriptions() != channels {
            tokio::task::yield_now().await;
        }
    }

    /// Nothing is left of any hold.
    fn is_empty(&self) -> bool {
        let Services {
            channels, holds, ..
        } = &*self.services;
        channels.subscriptions() == 0 && holds.streams() == 0 && holds.responses() == 0
    }
}

/// The next bytes of a stream; `None` at its end.
async fn next(stream: &mut Body) -> Option<String> {
    let frame = timeout(Duration::from_secs(3600), stream.frame()).await;
    let frame = frame.expect("something comes")?.expect("not an error");
    let data = frame.into_data().expect("data");
    Some(String::from_utf8(data.to_vec()).expect("text"))
}

async fn text(response: Response<Body>) -> String {
    let body = response.into_body().collect().await.expect("a body");
    String::from_utf8(body.to_bytes().to_vec()).expect("text")
}

fn stream(text: &'static str) -> Item {
    Item::stream("c", text)
}

fn response(body: &'static str) -> Item {
    let response = HttpResponse {
        code: 201,
        reason: None,
        headers: vec![("x-own".into(), "published".into())],
        body: Bytes::from_static(body.as_bytes()),
    };
    Item::response("c", response)
}

fn numbered(item: Item, id: u32) -> Item {
    item.with_id(id.to_string(), Some((id - 1).to_string()))
}

mod wire;

const STREAM: (&str, &str) = ("grip-hold", "stream");
const RESPONSE: (&str, &str) = ("grip-hold", "response");
const CHANNEL: (&str, &str) = ("grip-channel", "c");

#[tokio::test(start_paused = true)]
async fn what_is_not_held_passes_without_what_is_for_the_host() {
    let mut stage = Stage::new(Limits::default());
    let client = stage.send(Method::GET, "");
    let asked = stage.asked().await;
    assert_eq!(
        (asked.uri.path(), &asked.headers["cookie"]),
        ("/room/", &"a=1".parse().unwrap())
    );
    let token = asked.headers["grip-sig"]
        .to_str()
        .expect("a token")
        .to_owned();
    assert!(stage.services.signer.verifies(&token));
    let headers = [
        ("grip-unknown", "x"),
        ("grip-status", "404 Not Here"),
        ("grip-expose-headers", "x-seen"),
        ("x-seen", "1"),
        ("x-hidden", "2"),
    ];
    asked.answer(&headers, "own");
    let response = client.await.expect("an answer");
    assert_eq!(response.status(), 404);
    let reason = response.extensions().get::<hyper::ext::ReasonPhrase>();
    assert_eq!(reason.expect("a reason").as_bytes(), b"Not Here");
    let names: Vec<_> = response
        .headers()
        .keys()
        .map(|name| name.as_str())
        .collect();
    assert_eq!(names, ["x-seen"]);
    assert_eq!(text(response).await, "own");
    assert!(stage.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_response_is_what_is_published() {
    let mut stage = Stage::new(Limits::default());
    let headers = [RESPONSE, CHANNEL, ("x-own", "backend"), ("x-kept", "1")];
    let client = stage.answered(&headers, "own").await;
    stage.subscribed(1).await;
    assert_eq!(stage.services.holds.responses(), 1);
    // For others.
    assert_eq!(stage.publish(stream("no")).await, 0);
    assert_eq!(stage.publish(response("news")).await, 1);
    let response = client.await.expect("an answer");
    assert_eq!(response.status(), 201);
    assert_eq!(response.headers()["x-own"], "published");
    assert_eq!(response.headers()["x-kept"], "1");
    assert_eq!(response.headers().len(), 2);
    assert_eq!(text(response).await, "news");
    assert!(stage.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_response_is_the_backends_own_when_the_time_is_over() {
    let mut stage = Stage::new(Limits::default());
    for (header, seconds) in [
        (CHANNEL, 55),
        (("grip-timeout", "10"), 10),
        (("grip-timeout", "1"), 5),
    ] {
        let client = stage.answered(&[RESPONSE, header], "nothing").await;
        let began = Instant::now();
        assert_eq!(text(client.await.expect("an answer")).await, "nothing");
        assert_eq!(began.elapsed(), Duration::from_secs(seconds));
    }
    assert!(stage.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_request_is_sent_again_when_something_was_missed() {
    let mut stage = Stage::new(Limits::default());
    stage.publish(numbered(response("x"), 7)).await;
    let client = stage.send(Method::POST, "the body");
    let first = stage.asked().await;
    assert!(!first.headers.contains_key("grip-last"));
    first.answer(&[RESPONSE, ("grip-channel", "c; prev-id=5")], "own");
    // Something else was published last.
    let second = stage.asked().await;
    assert_eq!(
        (second.method.as_str(), &*second.body),
        ("POST", &b"the body"[..])
    );
    assert_eq!(second.headers["cookie"], "a=1");
    assert_eq!(second.headers["grip-last"], "c; last-id=5");
    second.answer(&[RESPONSE, ("grip-channel", "c; prev-id=7, d")], "own");
    stage.subscribed(2).await;
    // What the backend knew, and what it could not know yet.
    stage.publish(numbered(response("known"), 7)).await;
    stage.publish(numbered(response("news"), 8)).await;
    assert_eq!(text(client.await.expect("an answer")).await, "news");
    assert!(stage.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_says_the_same_again_is_right() {
    let mut stage = Stage::new(Limits::default());
    stage.publish(numbered(response("x"), 7)).await;
    let headers = [RESPONSE, ("grip-channel", "c; prev-id=5")];
    let client = stage.answered(&headers, "own").await;
    stage.asked().await.answer(&headers, "own");
    stage.subscribed(1).await;
    stage.publish(numbered(response("news"), 6)).await;
    assert_eq!(text(client.await.expect("an answer")).await, "news");
}

#[tokio::test(start_paused = true)]
async fn a_request_is_not_sent_again_without_end() {
    let mut stage = Stage::new(Limits::default());
    stage.publish(numbered(response("x"), 99)).await;
    let client = stage.send(Method::GET, "");
    const IDS: [&str; MAX_AGAIN + 1] = [
        "c; prev-id=1",
        "c; prev-id=2",
        "c; prev-id=3",
        "c; prev-id=4",
        "c; prev-id=5",
        "c; prev-id=6",
    ];
    for channel in IDS {
        stage
            .asked()
            .await
            .answer(&[RESPONSE, ("grip-channel", channel)], channel);
    }
    assert_eq!(text(client.await.expect("an answer")).await, IDS[MAX_AGAIN]);
}

#[tokio::test(start_paused = true)]
async fn a_hint_and_a_gap_send_a_held_request_again() {
    let mut stage = Stage::new(Limits::default());
    let client = stage.answered(&[RESPONSE, CHANNEL], "1").await;
    stage.subscribed(1).await;
    let hint = Item {
        http_response: Some(ResponseAction::Hint.into()),
        ..Item::new("c")
    };
    stage.publish(hint).await;
    let again = stage.asked().await;
    again.answer(&[RESPONSE, ("grip-channel", "c; prev-id=1, d")], "2");
    stage.subscribed(2).await;
    // Without an id: what was before it is not known.
    stage.publish(response("unordered")).await;
    stage.asked().await.answer(&[], "the state");
    assert_eq!(text(client.await.expect("an answer")).await, "the state");
    assert!(stage.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_gone_leaves_nothing_and_is_told_of() {
    let mut stage = Stage::new(Limits::default());
    let gone = ("grip-link", "<bye>; rel=gone");
    let client = stage.answered(&[RESPONSE, CHANNEL, gone], "own").await;
    stage.subscribed(1).await;
    client.abort();
    let told = stage.asked().await;
    assert_eq!(
        (told.method.as_str(), told.uri.path()),
        ("POST", "/room/bye")
    );
    assert!(stage.is_empty());

    let body = stage.streaming(&[STREAM, CHANNEL, gone], "hello").await;
    assert_eq!(stage.services.holds.streams(), 1);
    drop(body);
    assert_eq!(stage.asked().await.uri.path(), "/room/bye");
    assert!(stage.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stream_goes_on_with_what_is_published() {
    let mut stage = Stage::new(Limits::default());
    let client = stage
        .answered(&[STREAM, CHANNEL, ("content-length", "5")], "hello")
        .await;
    let held = client.await.expect("an answer");
    assert_eq!(held.headers().len(), 0);
    let mut held = held.into_body();
    // Published before the client has read anything.
    stage.publish(stream("one")).await;
    assert_eq!(next(&mut held).await.as_deref(), Some("hello"));
    assert_eq!(next(&mut held).await.as_deref(), Some("one"));
    stage.publish(response("for others")).await;
    stage.publish(stream("two")).await;
    assert_eq!(next(&mut held).await.as_deref(), Some("two"));
    let hint = Item {
        http_stream: Some(StreamAction::Hint.into()),
        ..Item::new("c")
    };
    stage.publish(hint).await;
    stage.publish(stream("three")).await;
    stage.publish(Item::stream_end("c")).await;
    stage.publish(stream("four")).await;
    assert_eq!(next(&mut held).await.as_deref(), Some("three"));
    assert_eq!(next(&mut held).await, None);
    drop(held);
    assert!(stage.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stream_is_kept_alive() {
    let mut stage = Stage::new(Limits::default());
    let idle = ("grip-keep-alive", r":\n; format=cstring; timeout=20");
    let mut held = stage.streaming(&[STREAM, CHANNEL, idle], "hello").await;
    let began = Instant::now();
    let seconds = |seconds| Duration::from_secs(seconds);
    assert_eq!(next(&mut held).await.as_deref(), Some(":\n"));
    assert_eq!(began.elapsed(), seconds(20));
    tokio::time::advance(seconds(15)).await;
    stage.publish(stream("news")).await;
    assert_eq!(next(&mut held).await.as_deref(), Some("news"));
    assert_eq!(next(&mut held).await.as_deref(), Some(":\n"));
    assert_eq!(began.elapsed(), seconds(20 + 15 + 20));

    let interval = ("grip-keep-alive", "x; timeout=20; mode=interval");
    let mut held = stage.streaming(&[STREAM, CHANNEL, interval], "hello").await;
    let began = Instant::now();
    tokio::time::advance(seconds(15)).await;
    stage.publish(stream("news")).await;
    assert_eq!(next(&mut held).await.as_deref(), Some("news"));
    assert_eq!(next(&mut held).await.as_deref(), Some("x"));
    assert_eq!(began.elapsed(), seconds(20));
}

#[tokio::test(start_paused = true)]
async fn a_link_leads_to_the_next_part() {
    let mut stage = Stage::new(Limits::default());
    let headers = [
        STREAM,
        ("grip-channel", "c; prev-id=1"),
        ("grip-link", "<part?n=2>; rel=next; timeout=30"),
    ];
    let mut held = stage.streaming(&headers, "one ").await;
    stage.publish(numbered(stream("two "), 2)).await;
    assert_eq!(next(&mut held).await.as_deref(), Some("two "));
    // Quiet.
    let began = Instant::now();
    let reading = tokio::spawn(async move { (next(&mut held).await, held) });
    let asked = stage.asked().await;
    assert_eq!(began.elapsed(), Duration::from_secs(30));
    assert_eq!(
        (asked.method.as_str(), asked.uri.to_string().as_str()),
        ("GET", "/room/part?n=2")
    );
    assert_eq!(asked.headers["grip-last"], "c; last-id=2");
    assert_eq!(asked.headers["host"], "example.com");
    assert!(!asked.headers.contains_key("cookie"));
    // Published meanwhile, and the first is in the part already.
    stage.publish(numbered(stream("three "), 3)).await;
    stage.publish(numbered(stream("four "), 4)).await;
    let headers = [
        STREAM,
        ("grip-channel", "c; prev-id=3"),
        ("grip-link", "</end>; rel=next; timeout=1000"),
    ];
    asked.answer(&headers, "three, as a part ");
    let (read, mut held) = reading.await.expect("no panic");
    assert_eq!(read.as_deref(), Some("three, as a part "));
    assert_eq!(next(&mut held).await.as_deref(), Some("four "));
    // A gap, after what the sequence waits for is given up.
    stage.publish(numbered(stream("six "), 6)).await;
    let reading = tokio::spawn(async move { (next(&mut held).await, held) });
    let asked = stage.asked().await;
    assert_eq!(asked.uri.path(), "/end");
    asked.answer(&[], "five, six");
    let (read, mut held) = reading.await.expect("no panic");
    assert_eq!(read.as_deref(), Some("five, six"));
    assert_eq!(next(&mut held).await, None);
    drop(held);
    assert!(stage.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_next_part_is_asked_for_again_while_the_client_is_kept_alive() {
    let mut stage = Stage::new(Limits::default());
    let headers = [
        STREAM,
        ("grip-keep-alive", "x; timeout=1"),
        ("grip-link", "</next>; rel=next; timeout=0"),
    ];
    let mut held = stage.streaming(&headers, "one").await;
    let reading = tokio::spawn(async move {
        let mut read = Vec::new();
        while let Some(piece) = next(&mut held).await {
            read.push(piece);
        }
        read
    });
    for retry in 0..3 {
        let asked = stage.asked().await;
        let mut failed = Response::new(full("failed"));
        *failed.status_mut() = StatusCode::BAD_GATEWAY;
        assert_eq!(asked.uri.path(), "/next", "retry {retry}");
        let _ = asked.answer.send(failed);
    }
    stage.asked().await.answer(&[], "two");
    let mut read = VecDeque::from(reading.await.expect("no panic"));
    assert_eq!(read.pop_back().as_deref(), Some("two"));
    // 1 + 2 + 4 seconds, and up to a second more each.
    assert!(
        (6..=10).contains(&read.len()) && read.iter().all(|piece| piece == "x"),
        "{read:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_link_without_a_hold_is_followed_at_once() {
    let mut stage = Stage::new(Limits::default());
    let mut held = stage
        .streaming(&[("grip-link", "</2>; rel=next")], "one")
        .await;
    let reading = tokio::spawn(async move { (next(&mut held).await, held) });
    let asked = stage.asked().await;
    assert_eq!(asked.uri.path(), "/2");
    asked.answer(
        &[("grip-link", "<http://elsewhere.example/>; rel=next")],
        "two",
    );
    let (read, mut held) = reading.await.expect("no panic");
    assert_eq!(read.as_deref(), Some("two"));
    // To other hosts nothing leads.
    assert_eq!(next(&mut held).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_behind_from_the_start_is_asked_for_again() {
    let mut stage = Stage::new(Limits::default());
    stage.publish(numbered(stream("x"), 7)).await;
    let client = stage
        .answered(&[STREAM, ("grip-channel", "c; prev-id=6")], "1 to 6 ")
        .await;
    let again = stage.asked().await;
    again.answer(&[STREAM, ("grip-channel", "c; prev-id=7")], "1 to 7 ");
    let mut held = client.await.expect("an answer").into_body();
    assert_eq!(next(&mut held).await.as_deref(), Some("1 to 7 "));
    stage.publish(numbered(stream("8 "), 8)).await;
    assert_eq!(next(&mut held).await.as_deref(), Some("8 "));
    // A gap that nothing leads out of: the client has to come again.
    let unordered = Item {
        no_seq: true,
        ..numbered(stream("10"), 10)
    };
    stage.publish(unordered).await;
    assert_eq!(next(&mut held).await, None);
}

/// What a backend has read for a part may be old before the host is on the part's channels.
#[tokio::test(start_paused = true)]
async fn a_next_part_that_is_behind_is_asked_for_again() {
    let mut stage = Stage::new(Limits::default());
    stage.publish(numbered(stream("x"), 7)).await;
    let mut held = stage
        .streaming(&[("grip-link", "</2>; rel=next")], "1 to 5 ")
        .await;
    let reading = tokio::spawn(async move { (next(&mut held).await, held) });
    let link = ("grip-link", "</3>; rel=next");
    let part = [STREAM, ("grip-channel", "c; prev-id=6"), link];
    stage.asked().await.answer(&part, "6 ");
    let (read, mut held) = reading.await.expect("no panic");
    assert_eq!(read.as_deref(), Some("6 "));
    let reading = tokio::spawn(async move { (next(&mut held).await, held) });
    let asked = stage.asked().await;
    assert_eq!(asked.uri.path(), "/3");
    let part = [STREAM, ("grip-channel", "c; prev-id=7"), link];
    asked.answer(&part, "7 ");
    let (read, mut held) = reading.await.expect("no panic");
    assert_eq!(read.as_deref(), Some("7 "));
    stage.publish(numbered(stream("8 "), 8)).await;
    assert_eq!(next(&mut held).await.as_deref(), Some("8 "));
}

/// The part has to make up for what was dropped unread, and a backend may not know of it yet.
#[tokio::test(start_paused = true)]
async fn a_part_without_what_was_dropped_is_asked_for_again() {
    let mut stage = Stage::new(Limits::default());
    let link = ("grip-link", "</2>; rel=next");
    let old = [STREAM, ("grip-channel", "c; prev-id=7"), link];
    let mut held = stage.streaming(&old, "1 to 7 ").await;
    let unordered = Item {
        no_seq: true,
        ..numbered(stream("9 "), 9)
    };
    stage.publish(unordered).await;
    let reading = tokio::spawn(async move { (next(&mut held).await, held) });
    stage.asked().await.answer(&old, "");
    let new = [STREAM, ("grip-channel", "c; prev-id=9"), link];
    stage.asked().await.answer(&new, "8 9 ");
    let (read, mut held) = reading.await.expect("no panic");
    assert_eq!(read.as_deref(), Some("8 9 "));
    stage.publish(numbered(stream("10 "), 10)).await;
    assert_eq!(next(&mut held).await.as_deref(), Some("10 "));
}

/// That something waits on one channel does not hide what was missed on another.
#[tokio::test(start_paused = true)]
async fn each_channel_is_looked_at_by_itself() {
    let mut stage = Stage::new(Limits::default());
    stage.publish(numbered(stream("x"), 7)).await;
    let client = stage.send(Method::GET, "");
    let asked = stage.asked().await;
    asked.answer(&[STREAM, ("grip-channel", "d")], "1 ");
    let mut held = client.await.expect("an answer").into_body();
    stage.publish(Item::stream("d", "waits")).await;
    stage.services.channels.settled("d").await;
    assert_eq!(next(&mut held).await.as_deref(), Some("1 "));
    drop(held);

    let client = stage.send(Method::GET, "");
    stage
        .asked()
        .await
        .answer(&[RESPONSE, ("grip-channel", "d, e")], "own");
    stage.subscribed(2).await;
    // Sent again for a hint, while something else comes.
    let hint = Item {
        http_response: Some(ResponseAction::Hint.into()),
        ..Item::new("e")
    };
    stage.publish(hint).await;
    let again = stage.asked().await;
    let mut waits = response("waits");
    waits.channel = "d".into();
    stage.publish(waits).await;
    stage.services.channels.settled("d").await;
    again.answer(&[RESPONSE, ("grip-channel", "d, c; prev-id=6")], "own");
    let again = stage.asked().await;
    assert_eq!(again.headers["grip-last"], "c; last-id=6");
    again.answer(&[], "all");
    assert_eq!(text(client.await.expect("an answer")).await, "all");
}

#[tokio::test(start_paused = true)]
async fn a_hold_may_become_one_of_the_other_kind() {
    let mut stage = Stage::new(Limits::default());
    let client = stage.answered(&[RESPONSE, CHANNEL], "own").await;
    stage.subscribed(1).await;
    let hint = Item {
        http_response: Some(ResponseAction::Hint.into()),
        ..Item::new("c")
    };
    stage.publish(hint).await;
    stage.asked().await.answer(&[STREAM, CHANNEL], "begin ");
    let mut held = client.await.expect("an answer").into_body();
    let holds = &stage.services.holds;
    assert_eq!((holds.streams(), holds.responses()), (1, 0));
    assert_eq!(next(&mut held).await.as_deref(), Some("begin "));
    stage.publish(stream("more")).await;
    assert_eq!(next(&mut held).await.as_deref(), Some("more"));
    drop(held);
    assert!(stage.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_published_is_not_mixed_with_what_is_compressed() {
    const GZIP: (&str, &str) = ("content-encoding", "gzip");
    let mut stage = Stage::new(Limits::default());
    let client = stage.answered(&[RESPONSE, CHANNEL, GZIP], "own").await;
    stage.subscribed(1).await;
    stage.publish(response("news")).await;
    let answer = client.await.expect("an answer");
    assert!(!answer.headers().contains_key("content-encoding"));
    assert_eq!(text(answer).await, "news");

    // A stream is asked for again as it is.
    let client = stage.answered(&[STREAM, CHANNEL, GZIP], "coded").await;
    let again = stage.asked().await;
    assert_eq!(again.headers["accept-encoding"], "identity");
    again.answer(&[STREAM, CHANNEL], "plain");
    let mut held = client.await.expect("an answer").into_body();
    assert_eq!(next(&mut held).await.as_deref(), Some("plain"));
    drop(held);

    // A backend that knows no better.
    let client = stage.answered(&[STREAM, CHANNEL, GZIP], "coded").await;
    let again = stage.asked().await;
    again.answer(&[STREAM, CHANNEL, GZIP], "coded");
    assert_eq!(client.await.expect("an answer").status(), 502);
    assert!(stage.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_end_is_not_waited_for() {
    let mut stage = Stage::new(Limits::default());
    let client = stage.send(Method::GET, "");
    let endless = futures_util::stream::pending();
    let mut answer = Response::new(http_body_util::StreamBody::new(endless).boxed_unsync());
    for (name, value) in [RESPONSE, CHANNEL] {
        answer
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    let _ = stage.asked().await.answer.send(answer);
    assert_eq!(client.await.expect("an answer").status(), 502);
}

#[tokio::test(start_paused = true)]
async fn an_id_of_any_text_is_told_so_that_it_can_be_read() {
    let mut stage = Stage::new(Limits::default());
    let id = r#"c; prev-id="a,b; \"c\"""#;
    let link = ("grip-link", "</2>; rel=next; timeout=0");
    let mut held = stage
        .streaming(&[STREAM, ("grip-channel", id), link], "1")
        .await;
    tokio::spawn(async move { next(&mut held).await });
    let asked = stage.asked().await;
    let last = asked.headers["grip-last"].as_bytes();
    let read = grip::hold::Channel::from_grip_last([last]).expect("what was written");
    assert_eq!(read[0].prev_id.as_deref(), Some(r#"a,b; "c""#));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_not_read_is_cut_off() {
    let limits = Limits {
        max_outgoing_buffer_bytes: 10_000,
        ..Limits::default()
    };
    let mut stage = Stage::new(limits);
    let mut slow = stage.streaming(&[STREAM, CHANNEL], "hello").await;
    let mut fast = stage.streaming(&[STREAM, CHANNEL], "hello").await;
    const LARGE: &str = match std::str::from_utf8(&[b'x'; 4000]) {
        Ok(text) => text,
        Err(_) => panic!("ASCII"),
    };
    for _ in 0..10 {
        stage.publish(stream(LARGE)).await;
        assert_eq!(next(&mut fast).await.as_deref(), Some(LARGE));
    }
    let cut = slow.frame().await.expect("not an end that looks right");
    assert_eq!(
        cut.err().map(|error| error.to_string()).as_deref(),
        Some("the client does not keep up")
    );
}

#[tokio::test(start_paused = true)]
async fn filters_look_at_what_the_backend_has_set() {
    let mut stage = Stage::new(Limits::default());
    let headers = [
        STREAM,
        ("grip-channel", "c; filter=skip-self; filter=var-subst"),
        ("grip-set-meta", "user=\"ann\""),
    ];
    let mut held = stage.streaming(&headers, "hello").await;
    for sender in ["ann", "bob"] {
        let mut item = Item::stream("c", format!("{sender} to %(user)s"));
        item.meta.insert("sender".into(), sender.into());
        stage.publish(item).await;
    }
    assert_eq!(next(&mut held).await.as_deref(), Some("bob to ann"));

    let unknown = [STREAM, ("grip-channel", "c; filter=skip-me")];
    let client = stage.answered(&unknown, "hello").await;
    assert_eq!(client.await.expect("an answer").status(), 502);
}

#[tokio::test(start_paused = true)]
async fn a_head_has_no_instructions_in_its_body() {
    let mut stage = Stage::new(Limits::default());
    let client = stage.send(Method::HEAD, "");
    let headers = [("content-type", "application/grip-instruct")];
    stage.asked().await.answer(&headers, "");
    assert_eq!(client.await.expect("an answer").status(), StatusCode::OK);
    assert!(stage.is_empty());
}

#[tokio::test(start_paused = true)]
async fn instructions_may_be_the_body() {
    let mut stage = Stage::new(Limits::default());
    let json = ("content-type", "application/grip-instruct");
    let body = r#"{"hold": {"mode": "response", "channels": [{"name": "c"}], "timeout": 10},
        "response": {"code": 202, "reason": "Waited", "headers": {"X-Own": "1"}, "body": "in vain"}}"#;
    let response = stage
        .answered(&[json, ("x-lost", "1")], body)
        .await
        .await
        .expect("an answer");
    assert_eq!(
        (response.status().as_u16(), response.headers().len()),
        (202, 1)
    );
    assert_eq!(response.headers()["x-own"], "1");
    assert_eq!(text(response).await, "in vain");
    for wrong in [
        "",
        "[]",
        r#"{"hold": 1}"#,
        r#"{"response": {"headers": {"a b": "c"}}}"#,
    ] {
        let client = stage.answered(&[json], wrong).await;
        assert_eq!(client.await.expect("an answer").status(), 502, "{wrong}");
    }
    let client = stage.answered(&[("grip-hold", "forever")], "").await;
    assert_eq!(client.await.expect("an answer").status(), 502);
}

#[tokio::test(start_paused = true)]
async fn holds_end_with_the_host() {
    let mut stage = Stage::new(Limits::default());
    let mut held = stage.streaming(&[STREAM, CHANNEL], "hello").await;
    let client = stage.answered(&[RESPONSE, CHANNEL], "own").await;
    stage.subscribed(2).await;
    let began = Instant::now();
    stage.stop.cancel();
    assert_eq!(text(client.await.expect("an answer")).await, "own");
    assert_eq!(next(&mut held).await, None);
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn so_many_are_held() {
    let limits = Limits {
        max_connections: 1,
        ..Limits::default()
    };
    let mut stage = Stage::new(limits);
    let held = stage.streaming(&[STREAM, CHANNEL], "hello").await;
    let client = stage.answered(&[STREAM, CHANNEL], "hello").await;
    assert_eq!(client.await.expect("an answer").status(), 503);
    drop(held);
    stage.streaming(&[STREAM, CHANNEL], "hello").await;
}

#[tokio::test(start_paused = true)]
async fn the_head_alone_is_not_held_as_a_stream() {
    let mut stage = Stage::new(Limits::default());
    let client = stage.send(Method::HEAD, "");
    stage
        .asked()
        .await
        .answer(&[STREAM, CHANNEL, ("x-own", "1")], "");
    let response = client.await.expect("an answer");
    assert_eq!(response.headers()["x-own"], "1");
    assert_eq!(text(response).await, "");
    assert!(stage.is_empty());
}
