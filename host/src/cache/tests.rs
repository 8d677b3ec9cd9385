//! Tests of the whole cache with a backend that the tests control.

use bytes::Bytes;
use futures_util::{FutureExt as _, future::join_all};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt as _, StreamBody};
use spin_runtime::backend::{BodyError, Caller, Client, empty, full};
use tokio::{
    sync::mpsc::{UnboundedSender, unbounded_channel},
    task::JoinHandle,
    time::sleep,
};

use super::*;
use crate::metrics::registry::Metrics;

const IMMUTABLE: &str = "public, max-age=100, immutable";

fn cache(max_bytes: usize) -> Cache {
    let limits = CacheLimits {
        max_bytes,
        max_response_bytes: 1000,
    };
    let counters = Metrics::default().cache_counters();
    let resources = Resources::new(limits, counters, CancellationToken::new());
    Cache(Arc::new(resources))
}

fn request(method: Method, path: &str, headers: &[(&'static str, &str)]) -> Request<Body> {
    let client = Client::plain(([192, 0, 2, 7], 4000).into());
    let mut request = Request::builder().method(method).uri(path);
    request = request
        .header(header::HOST, "a")
        .extension(Caller::Client(client));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(empty()).unwrap()
}

fn get(path: &str) -> Request<Body> {
    request(Method::GET, path, &[])
}

fn immutable(content: &str) -> Response<Body> {
    response(&[("cache-control", IMMUTABLE)], full(content.to_owned()))
}

fn response(headers: &[(&'static str, &str)], body: Body) -> Response<Body> {
    let mut response = Response::builder();
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body).unwrap()
}

async fn content(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn status(response: &Response<Body>) -> &str {
    let value = response.headers()["cache-status"].to_str().unwrap();
    value.split("; ttl=").next().unwrap()
}

async fn look_up(cache: &Cache, request: Request<Body>) -> Lookup {
    let (request, body) = request.into_parts();
    cache.look_up(&request, !body.is_end_stream()).await
}

/// Returns the response of the cache, which must not forward the request.
#[track_caller]
fn hit(cache: &Cache, request: Request<Body>) -> Response<Body> {
    match look_up(cache, request).now_or_never() {
        Some(Lookup::Respond(response)) => response,
        Some(Lookup::Forward(..)) => panic!("forwarded"),
        None => panic!("waits"),
    }
}

/// Returns what the cache does with the response to a request that it must forward.
#[track_caller]
fn miss(cache: &Cache, request: Request<Body>) -> (HeaderMap, Forward) {
    let headers = request.headers().clone();
    match look_up(cache, request).now_or_never() {
        Some(Lookup::Forward(forward)) => (headers, forward.expect("a request for the cache")),
        Some(Lookup::Respond(response)) => panic!("{:?}", response.headers()),
        None => panic!("waits"),
    }
}

/// Forwards a request to a backend with this response, and reads it to its end.
async fn fetch(cache: &Cache, request: Request<Body>, response: Response<Body>) -> String {
    let (headers, forward) = miss(cache, request);
    content(forward.store(&headers, response)).await
}

/// A request that waits for another one.
fn wait(cache: &Cache, request: Request<Body>) -> JoinHandle<Lookup> {
    let cache = cache.clone();
    tokio::spawn(async move { look_up(&cache, request).await })
}

/// A body whose frames the test sends.
fn streamed() -> (UnboundedSender<Result<Frame<Bytes>, BodyError>>, Body) {
    let (sender, mut frames) = unbounded_channel();
    let frames = futures_util::stream::poll_fn(move |cx| frames.poll_recv(cx));
    (sender, StreamBody::new(frames).boxed_unsync())
}

fn data(text: &'static str) -> Result<Frame<Bytes>, BodyError> {
    Ok(Frame::data(text.into()))
}

#[tokio::test]
async fn a_response_is_stored_and_used_again() {
    let cache = cache(10_000);
    let (headers, forward) = miss(&cache, get("/a?b"));
    let stored = forward.store(&headers, immutable("content"));
    assert_eq!(status(&stored), "socket-host; fwd=uri-miss; stored");
    assert!(!stored.headers().contains_key("age"));
    assert_eq!(content(stored).await, "content");
    let response = hit(&cache, get("/a?b"));
    assert_eq!(status(&response), "socket-host; hit");
    let headers = response.headers();
    assert_eq!(headers["age"], "0");
    assert_eq!(headers["cache-control"], IMMUTABLE);
    assert_eq!(headers["content-length"], "7");
    assert_eq!(headers["accept-ranges"], "bytes");
    assert!(headers.contains_key("date"));
    assert_eq!(content(response).await, "content");
    for other in ["/a", "/a?c", "/A?b"] {
        let _ = miss(&cache, get(other));
    }
    assert_eq!(cache.size().0, 1);
}

#[tokio::test]
async fn head_gets_the_headers_of_get() {
    let cache = cache(10_000);
    let (_, forward) = miss(&cache, request(Method::HEAD, "/", &[]));
    let mut passed = response(&[("cache-control", IMMUTABLE)], empty());
    forward.pass(&mut passed);
    assert_eq!(status(&passed), "socket-host; fwd=uri-miss");
    fetch(&cache, get("/"), immutable("content")).await;
    let response = hit(&cache, request(Method::HEAD, "/", &[]));
    assert_eq!(response.headers()["content-length"], "7");
    assert_eq!(content(response).await, "");
}

#[tokio::test(start_paused = true)]
async fn age_rises_until_the_response_is_stale() {
    let cache = cache(10_000);
    let headers = [("cache-control", IMMUTABLE), ("age", "40")];
    fetch(&cache, get("/"), response(&headers, full("1"))).await;
    sleep(Duration::from_secs(59)).await;
    let old = hit(&cache, get("/"));
    assert_eq!(old.headers()["age"], "99");
    assert_eq!(old.headers()["cache-status"], "socket-host; hit; ttl=1");
    sleep(Duration::from_secs(1)).await;
    let (headers, forward) = miss(&cache, get("/"));
    let renewed = forward.store(&headers, immutable("2"));
    assert_eq!(status(&renewed), "socket-host; fwd=stale; stored");
    content(renewed).await;
    assert_eq!(content(hit(&cache, get("/"))).await, "2");
    assert_eq!(cache.size().0, 1);
}

#[tokio::test]
async fn other_responses_are_not_stored() {
    let cache = cache(10_000);
    let with = |name: &'static str, value: &str| {
        response(&[("cache-control", IMMUTABLE), (name, value)], full("x"))
    };
    let mut not_found = immutable("x");
    *not_found.status_mut() = StatusCode::NOT_FOUND;
    let mut partial = with("content-range", "bytes 0-0/2");
    *partial.status_mut() = StatusCode::PARTIAL_CONTENT;
    for other in [
        response(&[], full("x")),
        response(&[("cache-control", "max-age=100, immutable")], full("x")),
        response(&[("cache-control", "public, max-age=100")], full("x")),
        with("cache-control", "private"),
        with("set-cookie", "a=1"),
        with("vary", "*"),
        with("vary", "grip-sig"),
        with("age", "100"),
        with("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
        with("content-length", "1001"),
        response(&[("cache-control", IMMUTABLE)], full("x".repeat(1001))),
        not_found,
        partial,
    ] {
        let description = format!("{other:?}");
        let (headers, forward) = miss(&cache, get("/"));
        let passed = forward.store(&headers, other);
        assert_eq!(
            status(&passed),
            "socket-host; fwd=uri-miss",
            "{description}"
        );
        drop(passed);
        assert_eq!(cache.size().0, 0, "{description}");
    }
    // Once one may be stored, it is.
    fetch(&cache, get("/"), immutable("content")).await;
    hit(&cache, get("/"));
}

#[tokio::test]
async fn the_response_to_a_special_request_is_not_stored() {
    let cache = cache(10_000);
    for headers in [
        ("range", "bytes=0-1"),
        ("if-none-match", "\"a\""),
        ("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("if-match", "\"a\""),
    ] {
        fetch(
            &cache,
            request(Method::GET, "/", &[headers]),
            immutable("x"),
        )
        .await;
        assert_eq!(cache.size().0, 0, "{headers:?}");
    }
    let mut with_body = get("/");
    *with_body.body_mut() = full("query");
    fetch(&cache, with_body, immutable("x")).await;
    assert_eq!(cache.size().0, 0);
    fetch(&cache, get("/"), immutable("content")).await;
    let (_, forward) = miss(&cache, request(Method::GET, "/", &[("if-match", "\"a\"")]));
    let mut passed = immutable("x");
    forward.pass(&mut passed);
    assert_eq!(status(&passed), "socket-host; fwd=bypass");
}

#[tokio::test]
async fn conditional_requests_get_304() {
    let cache = cache(10_000);
    let headers = [
        ("cache-control", IMMUTABLE),
        ("etag", "\"v1\""),
        ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("content-type", "text/css"),
        ("content-encoding", "br"),
        ("vary", "accept-encoding"),
        ("content-security-policy", "default-src 'none'"),
    ];
    fetch(&cache, get("/"), response(&headers, full("content"))).await;
    let conditional = |name, value| request(Method::GET, "/", &[(name, value)]);
    for request in [
        conditional("if-none-match", "W/\"v1\""),
        conditional("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT"),
    ] {
        let response = hit(&cache, request);
        assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
        let mut names: Vec<_> = response
            .headers()
            .keys()
            .map(|name| name.as_str())
            .collect();
        names.sort_unstable();
        let expected = [
            "age",
            "cache-control",
            "cache-status",
            "content-security-policy",
            "date",
            "etag",
            "vary",
        ];
        assert_eq!(names, expected);
        assert_eq!(content(response).await, "");
    }
    let response = hit(&cache, conditional("if-none-match", "\"v2\""));
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn ranges_are_slices() {
    let cache = cache(10_000);
    let headers = [("cache-control", IMMUTABLE), ("etag", "\"v1\"")];
    fetch(&cache, get("/"), response(&headers, full("0123456789"))).await;
    let range = |headers: &[_]| hit(&cache, request(Method::GET, "/", headers));
    let part = range(&[("range", "bytes=2-4"), ("if-range", "\"v1\"")]);
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.headers()["content-range"], "bytes 2-4/10");
    assert_eq!(part.headers()["content-length"], "3");
    assert_eq!(content(part).await, "234");
    let changed = range(&[("range", "bytes=2-4"), ("if-range", "\"v2\"")]);
    assert_eq!(changed.status(), StatusCode::OK);
    assert_eq!(content(changed).await, "0123456789");
    let beyond = range(&[("range", "bytes=10-")]);
    assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(beyond.headers()["content-range"], "bytes */10");
    assert!(!beyond.headers().contains_key("cache-control"));
    let not_modified = range(&[("range", "bytes=2-4"), ("if-none-match", "\"v1\"")]);
    assert_eq!(not_modified.status(), StatusCode::NOT_MODIFIED);
    let head = hit(
        &cache,
        request(Method::HEAD, "/", &[("range", "bytes=2-4")]),
    );
    assert_eq!(head.status(), StatusCode::OK);
}

#[tokio::test]
async fn variants_are_stored_side_by_side() {
    let cache = cache(100_000);
    let accepting =
        |encoding: &'static str| request(Method::GET, "/", &[("accept-encoding", encoding)]);
    for encoding in ["br", "gzip"] {
        let (headers, forward) = miss(&cache, accepting(encoding));
        let headers_of_response = [("cache-control", IMMUTABLE), ("vary", "Accept-Encoding")];
        let stored = forward.store(&headers, response(&headers_of_response, full(encoding)));
        content(stored).await;
    }
    for encoding in ["br", "gzip"] {
        assert_eq!(content(hit(&cache, accepting(encoding))).await, encoding);
    }
    assert_eq!(
        content(hit(&cache, accepting("x-gzip;q=0.9"))).await,
        "gzip"
    );
    let (_, forward) = miss(&cache, accepting("zstd"));
    let mut passed = immutable("x");
    forward.pass(&mut passed);
    assert_eq!(status(&passed), "socket-host; fwd=vary-miss");
}

#[tokio::test]
async fn the_number_of_variants_is_bounded() {
    let cache = cache(1_000_000);
    let max = Limits::DEFAULT.max_cache_variants;
    for number in 0..=max {
        let value = number.to_string();
        let asking = request(Method::GET, "/", &[("x-a", &value)]);
        let headers = [("cache-control", IMMUTABLE), ("vary", "x-a")];
        fetch(&cache, asking, response(&headers, full(value))).await;
    }
    assert_eq!(cache.size().0, max);
    let _ = miss(&cache, request(Method::GET, "/", &[("x-a", "0")]));
    hit(&cache, request(Method::GET, "/", &[("x-a", "1")]));
    assert_eq!(cache.0.counters.evictions.get(), 1);
}

#[tokio::test]
async fn many_requests_wait_for_one() {
    let cache = cache(10_000);
    let (headers, forward) = miss(&cache, get("/"));
    let waiters: Vec<_> = (0..100).map(|_| wait(&cache, get("/"))).collect();
    let head = wait(&cache, request(Method::HEAD, "/", &[]));
    let range = wait(&cache, request(Method::GET, "/", &[("range", "bytes=-1")]));
    tokio::task::yield_now().await;
    let (sender, body) = streamed();
    let headers_of_response = [("cache-control", IMMUTABLE), ("content-length", "6")];
    let mut first = forward.store(&headers, response(&headers_of_response, body));
    sender.send(data("con")).unwrap();
    // The first client gets what there is, while the others wait.
    let frame = first.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "con");
    assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
    sender.send(data("ten")).unwrap();
    for lookup in join_all(waiters).await {
        let Lookup::Respond(response) = lookup.unwrap() else {
            panic!("forwarded");
        };
        assert_eq!(status(&response), "socket-host; fwd=uri-miss; collapsed");
        assert_eq!(content(response).await, "conten");
    }
    for (waiter, expected) in [(head, ""), (range, "n")] {
        let Lookup::Respond(response) = waiter.await.unwrap() else {
            panic!("forwarded");
        };
        assert_eq!(content(response).await, expected);
    }
    drop(sender);
    assert_eq!(content(first).await, "ten");
    assert_eq!(cache.0.counters.collapsed.get(), 102);
    assert_eq!(cache.0.counters.misses.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_not_stored_is_for_one_client() {
    let cache = cache(10_000);
    for failed in [false, true] {
        let path = if failed { "/failed" } else { "/private" };
        let (headers, forward) = miss(&cache, get(path));
        let waiters: Vec<_> = (0..10).map(|_| wait(&cache, get(path))).collect();
        tokio::task::yield_now().await;
        let mut private = response(&[("cache-control", "private")], full("secret"));
        if failed {
            *private.status_mut() = StatusCode::BAD_GATEWAY;
        }
        let _ = forward.store(&headers, private);
        // All go on at the same time, and none waits for another one.
        for lookup in join_all(waiters).await {
            assert!(matches!(lookup.unwrap(), Lookup::Forward(Some(_))));
        }
        let (_, _forward) = miss(&cache, get(path));
        if failed {
            // The next failure is awaited again, since a success may be for all.
            assert!(look_up(&cache, get(path)).now_or_never().is_none());
        } else {
            let _ = miss(&cache, get(path));
        }
    }
}

#[tokio::test]
async fn a_client_that_disconnects_keeps_nobody_waiting() {
    let cache = cache(10_000);
    // Before the head of the response.
    let (_, forward) = miss(&cache, get("/"));
    let waiters: Vec<_> = (0..5).map(|_| wait(&cache, get("/"))).collect();
    tokio::task::yield_now().await;
    drop(forward);
    let (first, _, rest) = futures_util::future::select_all(waiters).await;
    let Lookup::Forward(Some(forward)) = first.unwrap() else {
        panic!("nobody asks the backend");
    };
    assert_eq!(rest.len(), 4);
    // While the body arrives: it is stored nevertheless.
    let (sender, body) = streamed();
    let response = response(&[("cache-control", IMMUTABLE)], body);
    drop(forward.store(&HeaderMap::new(), response));
    sender.send(data("content")).unwrap();
    drop(sender);
    for lookup in join_all(rest).await {
        let Lookup::Respond(response) = lookup.unwrap() else {
            panic!("forwarded");
        };
        assert_eq!(content(response).await, "content");
    }
    hit(&cache, get("/"));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_long() {
    let cache = cache(10_000);
    let (headers, forward) = miss(&cache, get("/"));
    let started = Instant::now();
    let lookup = look_up(&cache, get("/")).await;
    assert!(matches!(lookup, Lookup::Forward(..)));
    assert_eq!(started.elapsed(), WAIT_TIMEOUT);
    // The next ones do not wait at all, until the response is there.
    let _ = miss(&cache, get("/"));
    content(forward.store(&headers, immutable("content"))).await;
    hit(&cache, get("/"));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_end_is_passed_on() {
    let cache = cache(10_000);
    let (headers, forward) = miss(&cache, get("/"));
    let (sender, body) = streamed();
    let mut passed = forward.store(&headers, response(&[("cache-control", IMMUTABLE)], body));
    sender.send(data("a")).unwrap();
    passed.body_mut().frame().await.unwrap().unwrap();
    sleep(Limits::DEFAULT.cache_fill_timeout + Duration::from_secs(1)).await;
    sender.send(data("b")).unwrap();
    drop(sender);
    assert_eq!(content(passed).await, "b");
    assert_eq!(cache.size(), (0, 0));
    assert!(cache.0.store.reserve(10_000), "memory is still reserved");
}

#[tokio::test]
async fn a_body_that_becomes_too_large_is_passed_on() {
    let cache = cache(10_000);
    for (path, length, trailers, expected) in [
        ("/trailers", 500, true, "socket-host; fwd=uri-miss; stored"),
        ("/large", 1001, false, "socket-host; fwd=uri-miss; stored"),
        // It is known to be too large.
        ("/large", 1001, false, "socket-host; fwd=uri-miss"),
    ] {
        let (headers, forward) = miss(&cache, get(path));
        let (sender, body) = streamed();
        let passed = forward.store(&headers, response(&[("cache-control", IMMUTABLE)], body));
        assert_eq!(status(&passed), expected);
        for _ in 0..length {
            sender.send(data("x")).unwrap();
        }
        if trailers {
            sender.send(Ok(Frame::trailers(HeaderMap::new()))).unwrap();
        }
        drop(sender);
        assert_eq!(content(passed).await.len(), length);
        assert_eq!(cache.size(), (0, 0));
    }
    assert!(cache.0.store.reserve(10_000), "memory is still reserved");
    cache.0.store.release(10_000);
    // A purge gives it another chance.
    cache.purge(&Purge::All);
    let (headers, forward) = miss(&cache, get("/large"));
    let (sender, body) = streamed();
    let stored = forward.store(&headers, response(&[("cache-control", IMMUTABLE)], body));
    sender.send(data("x")).unwrap();
    drop(sender);
    content(stored).await;
    hit(&cache, get("/large"));
}

#[tokio::test]
async fn an_incomplete_body_is_not_stored() {
    let cache = cache(10_000);
    let (headers, forward) = miss(&cache, get("/"));
    let (sender, body) = streamed();
    let failing = forward.store(&headers, response(&[("cache-control", IMMUTABLE)], body));
    sender.send(data("x")).unwrap();
    sender.send(Err("reset".into())).unwrap();
    failing.into_body().collect().await.unwrap_err();
    let (headers, forward) = miss(&cache, get("/"));
    let (sender, body) = streamed();
    let short = [("cache-control", IMMUTABLE), ("content-length", "2")];
    let short = forward.store(&headers, response(&short, body));
    sender.send(data("x")).unwrap();
    drop(sender);
    assert_eq!(content(short).await, "x");
    assert_eq!(cache.size(), (0, 0));
}

#[tokio::test]
async fn unused_responses_are_evicted_first() {
    // Room for three.
    let cache = cache(10_000);
    for path in ["/1", "/2", "/3"] {
        fetch(&cache, get(path), immutable(&"x".repeat(500))).await;
    }
    assert_eq!(cache.size().0, 3);
    hit(&cache, get("/1"));
    fetch(&cache, get("/4"), immutable(&"x".repeat(500))).await;
    let (entries, bytes) = cache.size();
    assert_eq!(entries, 3);
    assert!((6000..=10_000).contains(&bytes), "{bytes}");
    hit(&cache, get("/1"));
    let (_, _forward) = miss(&cache, get("/2"));
    assert_eq!(cache.0.counters.evictions.get(), 1);
}

#[tokio::test]
async fn responses_that_arrive_take_memory_too() {
    let cache = cache(4000);
    let length = [("cache-control", IMMUTABLE), ("content-length", "900")];
    let (headers, forward) = miss(&cache, get("/1"));
    let (sender, body) = streamed();
    let arriving = forward.store(&headers, response(&length, body));
    let (headers, forward) = miss(&cache, get("/2"));
    let passed = forward.store(&headers, response(&length, streamed().1));
    assert_eq!(status(&passed), "socket-host; fwd=uri-miss");
    drop(sender);
    drop(arriving.into_body().collect().await);
    fetch(&cache, get("/3"), immutable("content")).await;
    hit(&cache, get("/3"));
}

#[tokio::test]
async fn responses_are_purged() {
    let cache = cache(100_000);
    let fill = async || {
        for path in ["/static/a%20b", "/static/a%20b?v", "/static/b", "/other"] {
            fetch(&cache, get(path), immutable("content")).await;
        }
    };
    fill().await;
    assert_eq!(cache.purge(&Purge::Path("/static/a".to_owned())), 0);
    assert_eq!(cache.purge(&Purge::Path("/static/a b".to_owned())), 2);
    hit(&cache, get("/static/b"));
    assert_eq!(cache.purge(&Purge::Prefix("/static/".to_owned())), 1);
    hit(&cache, get("/other"));
    assert_eq!(cache.purge(&Purge::All), 1);
    assert_eq!(cache.size(), (0, 0));
    fill().await;
    assert_eq!(cache.size().0, 4);
}

#[tokio::test]
async fn a_response_from_before_a_purge_is_not_stored() {
    let cache = cache(100_000);
    let (headers, forward) = miss(&cache, get("/a"));
    let waiter = wait(&cache, get("/a"));
    tokio::task::yield_now().await;
    cache.purge(&Purge::Prefix("/a".to_owned()));
    // A later request does not wait for the earlier one.
    let (new_headers, new_forward) = miss(&cache, get("/a"));
    content(forward.store(&headers, immutable("old"))).await;
    let Lookup::Respond(response) = waiter.await.unwrap() else {
        panic!("forwarded");
    };
    assert_eq!(content(response).await, "old");
    assert_eq!(cache.size().0, 0);
    content(new_forward.store(&new_headers, immutable("new"))).await;
    assert_eq!(content(hit(&cache, get("/a"))).await, "new");
}

#[tokio::test]
async fn a_change_removes_what_is_stored() {
    let cache = cache(100_000);
    for path in ["/a", "/b"] {
        fetch(&cache, get(path), immutable("old")).await;
    }
    let change = |status: StatusCode| {
        let (_, forward) = miss(&cache, request(Method::PUT, "/a", &[]));
        let mut changed = Response::new(empty());
        *changed.status_mut() = status;
        forward.pass(&mut changed);
        assert!(!changed.headers().contains_key("cache-status"));
    };
    change(StatusCode::FORBIDDEN);
    hit(&cache, get("/a"));
    change(StatusCode::NO_CONTENT);
    hit(&cache, get("/b"));
    let (headers, forward) = miss(&cache, get("/a"));
    change(StatusCode::SEE_OTHER);
    content(forward.store(&headers, immutable("old"))).await;
    let (headers, forward) = miss(&cache, get("/a"));
    content(forward.store(&headers, immutable("new"))).await;
    assert_eq!(content(hit(&cache, get("/a"))).await, "new");
}

#[tokio::test]
async fn caches_behind_this_one_keep_their_status() {
    let cache = cache(10_000);
    let headers = [
        ("cache-control", IMMUTABLE),
        ("cache-status", "origin; hit"),
        ("connection", "x-hop"),
        ("x-hop", "1"),
    ];
    fetch(&cache, get("/"), response(&headers, full("x"))).await;
    let response = hit(&cache, get("/"));
    assert_eq!(status(&response), "origin; hit, socket-host; hit");
    assert!(!response.headers().contains_key("x-hop"));
}

#[tokio::test]
async fn a_request_with_credentials_gets_what_is_public() {
    let cache = cache(10_000);
    let authorized = || request(Method::GET, "/", &[("authorization", "Bearer x")]);
    fetch(&cache, authorized(), immutable("content")).await;
    hit(&cache, authorized());
    hit(&cache, get("/"));
    let vary = [("cache-control", IMMUTABLE), ("vary", "authorization")];
    let (headers, forward) = miss(
        &cache,
        request(Method::GET, "/me", &[("authorization", "x")]),
    );
    content(forward.store(&headers, response(&vary, full("me")))).await;
    let _ = miss(&cache, get("/me"));
}

#[tokio::test]
async fn the_cache_of_an_application_is_replaced() {
    let current = CurrentCache::new(Metrics::default().cache_counters());
    assert!(current.get().is_none());
    current.replace(Some(CacheLimits::DEFAULT));
    let old = current.get().unwrap();
    let (headers, forward) = miss(&old, get("/"));
    current.replace(Some(CacheLimits::DEFAULT));
    content(forward.store(&headers, immutable("old"))).await;
    let _ = miss(&current.get().unwrap(), get("/"));
    current.replace(None);
    assert!(current.get().is_none());
}

#[tokio::test]
async fn nothing_is_fetched_for_a_host_that_is_dropped() {
    let current = CurrentCache::new(Metrics::default().cache_counters());
    current.replace(Some(CacheLimits::DEFAULT));
    let (headers, forward) = miss(&current.get().unwrap(), get("/"));
    let (sender, body) = streamed();
    let passed = forward.store(&headers, response(&[("cache-control", IMMUTABLE)], body));
    drop(current);
    passed.into_body().collect().await.unwrap_err();
    assert!(sender.is_closed());
}

#[tokio::test]
async fn requests_of_the_host_are_ignored() {
    let cache = cache(10_000);
    let mut of_host = get("/");
    of_host.extensions_mut().insert(Caller::Host);
    let options = request(Method::OPTIONS, "/", &[]);
    for request in [of_host, options] {
        let lookup = look_up(&cache, request).await;
        assert!(matches!(lookup, Lookup::Forward(None)));
    }
    assert_eq!(HeaderValue::from_static(HIT), "socket-host; hit");
}
