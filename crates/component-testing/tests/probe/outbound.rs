//! Requests to other servers, and publishing.

use std::time::Duration;

use component_testing::{
    PublishFailure, Reply, TestAppBuilder,
    grip::{Item, Key, publish, signature},
    http::Request,
};

use crate::{probe, probe02};

/// Returns the probe, which may send requests to `api.test`.
fn with_api() -> TestAppBuilder {
    probe().allowed_outbound_host("https://api.test")
}

const FETCH: &str = "/fetch?url=https://api.test/price";

#[test]
fn a_fake_server_answers() {
    for (builder, path) in [
        (with_api(), FETCH),
        (probe02(), "/fetch?https://api.test/price"),
    ] {
        let builder = builder.allowed_outbound_host("https://api.test");
        let app = builder
            .outbound(|request| Reply::ok(format!("{} 7", request.uri.path())))
            .build()
            .unwrap();
        assert_eq!(app.get(path).text(), "/price 7");
        let requests = app.outbound_requests();
        assert_eq!(requests.len(), 1);
        assert_eq!(requests[0].uri, "https://api.test/price");
    }
}

#[test]
fn a_server_can_fail_and_be_slow() {
    let reply_with = |reply: fn() -> Reply| {
        let app = with_api().outbound(move |_| reply()).build().unwrap();
        let start = app.now();
        let response = app.get(FETCH);
        let taken = app.now().duration_since(start).unwrap();
        (response.status().as_u16(), response.text(), taken)
    };
    let (status, _, _) = reply_with(|| Reply::status(503));
    assert_eq!(status, 503);
    let (status, text, _) = reply_with(Reply::refuse);
    assert!(
        status == 502 && text.contains("ConnectionRefused"),
        "{text}"
    );
    let (_, text, taken) = reply_with(|| Reply::ok("late").after(Duration::from_secs(9)));
    assert_eq!((text.as_str(), taken), ("late", Duration::from_secs(9)));
    let (status, _, taken) = reply_with(|| Reply::ok("late").after(Duration::from_secs(99)));
    assert_eq!((status, taken), (504, Duration::from_secs(30)));
}

#[test]
fn without_a_fake_a_request_fails_clearly() {
    let app = with_api().build().unwrap();
    let response = app.get(FETCH);
    assert_eq!(response.status(), 502);
    assert!(
        response
            .text()
            .contains("no fake server for https://api.test"),
        "{response:?}"
    );
}

#[test]
fn hosts_must_be_allowed() {
    let app = probe().outbound(|_| Reply::ok("never")).build().unwrap();
    let response = app.get(FETCH);
    assert!(
        response.text().contains("HttpRequestDenied"),
        "{response:?}"
    );
    assert!(app.outbound_requests().is_empty());
    let warnings = app.warnings();
    let denied = |line: &String| line.contains("missing_entry=\"https://api.test\"");
    assert!(warnings.iter().any(denied), "{warnings:?}");
}

#[test]
fn sockets_and_redis_are_refused() {
    let app = probe()
        .allowed_outbound_host("*://127.0.0.1:1")
        .build()
        .unwrap();
    let tcp = app.get("/tcp?to=127.0.0.1:1").text();
    assert!(tcp.contains("Err"), "{tcp}");
    let redis = app.get("/redis?address=redis://127.0.0.1:1");
    assert!(redis.text().contains("Redis is not simulated"), "{redis:?}");
}

const CONTROL: &str = "http://127.0.0.1:5561/publish/";

/// Returns a request that the probe forwards to the control port.
fn publish_request(token: Option<&str>) -> Request<String> {
    let mut request = Request::post(format!("/forward?url={CONTROL}"));
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    request
        .body(publish::to_json(&[Item::ws_text("news", "hi")]))
        .unwrap()
}

#[test]
fn publish_requests_are_recognized_and_checked() {
    let app = probe().variable("grip_key", "secret").build().unwrap();
    let token = |key: &str| {
        let key = Key::parse(key).unwrap();
        signature::sign(&key, "probe", app.now(), Duration::from_secs(60))
    };
    assert_eq!(app.request(publish_request(None)).text(), "Published\n");
    assert_eq!(
        app.request(publish_request(Some(&token("secret"))))
            .status(),
        200
    );
    let refused = app.request(publish_request(Some(&token("other"))));
    assert_eq!(refused.status(), 401);
    let expired = token("secret");
    app.advance(Duration::from_secs(60));
    assert_eq!(app.request(publish_request(Some(&expired))).status(), 401);
    let rubbish = Request::post(format!("/forward?url={CONTROL}"))
        .body("{}")
        .unwrap();
    let rubbish = app.request(rubbish);
    assert_eq!(rubbish.status(), 400);
    assert!(rubbish.text().contains("items"), "{rubbish:?}");

    let publications = app.publications();
    assert_eq!(publications.len(), 2);
    assert_eq!(publications[0].component, "probe");
    assert_eq!(publications[0].item, Item::ws_text("news", "hi"));
    assert!(app.outbound_requests().is_empty());
}

#[test]
fn publishing_can_fail() {
    let app = probe().build().unwrap();
    let publish = || app.request(publish_request(None));
    app.fail_publishes(PublishFailure::Status(503));
    assert_eq!(publish().status(), 503);
    app.fail_publishes(PublishFailure::Unreachable);
    assert!(publish().text().contains("ConnectionRefused"));
    assert!(app.publications().is_empty());
    app.fail_publishes(PublishFailure::ResponseLost);
    assert_eq!(publish().status(), 502);
    assert_eq!(app.publications().len(), 1);
    app.accept_publishes();
    assert_eq!(publish().status(), 200);
}
