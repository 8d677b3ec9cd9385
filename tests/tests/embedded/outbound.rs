//! Requests that components send.

use std::time::{Duration, Instant};

use crate::fixture::{Fixture, Headers, get, logged, manifest, post, server};

fn fetch(url: &str) -> String {
    format!("/probe/fetch?url={url}")
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_out_to_allowed_hosts_only() {
    let server = server().await;
    let port = server.port();
    let allowed = format!("allowed_outbound_hosts = [\"http://127.0.0.1:{port}\"]");
    let app = Fixture::of(&manifest(&allowed));
    assert_eq!(
        app.ok(&fetch(&format!("http://127.0.0.1:{port}/a?b")))
            .await,
        format!("GET /a?b at 127.0.0.1:{port}: ")
    );
    let sent = post(
        &format!("/probe/forward?url=http://127.0.0.1:{port}/in"),
        "a body",
    );
    let answer = app.answer(sent).await.unwrap();
    assert_eq!(
        answer.body(),
        &format!("POST /in at 127.0.0.1:{port}: a body")
    );
    for denied in [
        format!("http://localhost:{port}/"),
        format!("https://127.0.0.1:{port}/"),
        "http://127.0.0.1:9/".into(),
        "http://hidden.spin.internal/".into(),
        "http://self/probe/".into(),
        "http://self.alt/probe/".into(),
    ] {
        let answer = app.answer(get(&fetch(&denied))).await.unwrap();
        assert!(
            answer.body().contains("HttpRequestDenied"),
            "{denied}: {}",
            answer.body()
        );
    }
}

#[test]
fn a_denied_request_says_which_entry_is_missing() {
    let log = logged(async {
        let app = Fixture::new();
        app.answer(get(&fetch("https://example.org:8443/x")))
            .await
            .unwrap();
    });
    let says = "request denied: host not in allowed_outbound_hosts";
    let entry = "missing_entry=\"https://example.org:8443\"";
    assert!(
        log.contains(says) && log.contains(entry) && log.contains("component=probe"),
        "{log}"
    );
}

#[tokio::test]
async fn servers_that_are_not_there_have_their_error() {
    let app = Fixture::of(&manifest("allowed_outbound_hosts = [\"*://*:*\"]"));
    // Bound and closed again: nobody listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let refused = app
        .answer(get(&fetch(&format!("http://127.0.0.1:{port}/"))))
        .await
        .unwrap();
    assert!(
        refused.body().contains("ConnectionRefused"),
        "{}",
        refused.body()
    );
    let unknown = app
        .answer(get(&fetch("http://nowhere.invalid/")))
        .await
        .unwrap();
    assert!(unknown.body().contains("DnsError"), "{}", unknown.body());
}

#[tokio::test(flavor = "multi_thread")]
async fn components_call_one_another_without_a_network() {
    let app = Fixture::new();
    let seen = app
        .ok(&fetch("http://hidden.spin.internal/headers?q=1"))
        .await;
    let seen: Headers = serde_json::from_str(&seen).unwrap();
    assert_eq!(seen["spin-path-info"], "/headers", "{seen:?}");
    assert_eq!(seen["spin-raw-component-route"], "/...");
    assert_eq!(seen["spin-client-addr"], "0.0.0.0:0");
    assert!(!seen.contains_key("host"), "{seen:?}");
    // By its own routes the application knows the client that it all began with.
    for own in [
        "http://self/probe/headers",
        "http://self.alt/probe/headers",
        "/probe/headers",
    ] {
        let seen: Headers = serde_json::from_str(&app.ok(&fetch(own)).await).unwrap();
        assert_eq!(seen["spin-client-addr"], "192.0.2.7:4321", "{own}");
        assert_eq!(seen["spin-matched-route"], "/probe/...", "{own}");
    }
    // Bodies pass, and other ABIs.
    let url = "http://probe02.spin.internal/probe02/echo";
    let sent = post(&format!("/probe/forward?url={url}"), "through two");
    assert_eq!(app.answer(sent).await.unwrap().body(), "through two");
    assert_eq!(
        app.ok("/probe02/fetch?http://hidden.spin.internal/").await,
        "probe"
    );
    // There is no such route.
    let answer = app
        .answer(get(&fetch("http://self/nothing")))
        .await
        .unwrap();
    assert!(
        answer.body().contains("DestinationNotFound"),
        "{}",
        answer.body()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_at_once_in_one_instance_are_told_apart() {
    let app = Fixture::new();
    // From here on there is an instance that takes them all.
    assert_eq!(app.ok("/probe/seen").await, "1");
    let ask = async |client: &str| {
        let mut asked = get("/probe/fetch-late?ms=100&url=http://self/probe/headers");
        let caller = spin_runtime::backend::Caller::Client(client.parse().unwrap());
        asked.extensions_mut().insert(caller);
        let seen = app.answer(asked).await.unwrap();
        let seen: Headers = serde_json::from_str(seen.body()).unwrap();
        assert_eq!(seen["spin-client-addr"], client);
    };
    tokio::join!(ask("192.0.2.1:1"), ask("192.0.2.2:2"), ask("192.0.2.3:3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn components_that_call_in_circles_are_stopped() {
    let app = Fixture::with(|options| options.limits.request_timeout = Duration::from_secs(10));
    let start = Instant::now();
    let circle = "/probe/loop?url=http://hidden.spin.internal/loop";
    let answer = app.answer(get(circle)).await.unwrap();
    assert!(answer.body().contains("LoopDetected"), "{}", answer.body());
    assert!(
        start.elapsed() < Duration::from_secs(8),
        "{:?}",
        start.elapsed()
    );
}
