//! Requests sent by components.

use std::time::{Duration, Instant};

use http::StatusCode;
use spin_runtime::backend::{Caller, Client};

use crate::fixture::{Fixture, Headers, encode, get, logged, manifest, post, server};

fn fetch(url: &str) -> String {
    format!("/probe/fetch?url={url}")
}

#[tokio::test(flavor = "multi_thread")]
async fn only_allowed_hosts_can_be_requested() {
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
    let response = app.send(sent).await.unwrap();
    assert_eq!(
        response.body(),
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
        let response = app.send(get(&fetch(&denied))).await.unwrap();
        assert!(
            response.body().contains("HttpRequestDenied"),
            "{denied}: {}",
            response.body()
        );
    }
}

#[test]
fn a_denied_request_logs_the_missing_entry() {
    let log = logged(async {
        let app = Fixture::new();
        app.send(get(&fetch("https://example.org:8443/x")))
            .await
            .unwrap();
    });
    let message = "request denied: host not in allowed_outbound_hosts";
    let entry = "missing_entry=\"https://example.org:8443\"";
    assert!(
        log.contains(message) && log.contains(entry) && log.contains("component=probe"),
        "{log}"
    );
}

#[tokio::test]
async fn unreachable_servers_are_reported_by_cause() {
    let app = Fixture::of(&manifest("allowed_outbound_hosts = [\"*://*:*\"]"));
    // A free port.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let refused = app
        .send(get(&fetch(&format!("http://127.0.0.1:{port}/"))))
        .await
        .unwrap();
    assert!(
        refused.body().contains("ConnectionRefused"),
        "{}",
        refused.body()
    );
    let unknown = app
        .send(get(&fetch("http://nowhere.invalid/")))
        .await
        .unwrap();
    assert!(unknown.body().contains("DnsError"), "{}", unknown.body());
}

#[tokio::test(flavor = "multi_thread")]
async fn components_read_bodies_that_others_still_write() {
    let app = Fixture::new();
    let url = encode("http://self.alt/probe/stream?chunks=3&ms=50");
    let streamed = app.ok(&format!("/probe/fetch?url={url}")).await;
    assert!(streamed.contains("0\n1\n2\n"), "{streamed}");
    let streamed = app.ok(&format!("/probe/forward?url={url}")).await;
    assert_eq!(streamed, "0\n1\n2\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn components_call_each_other_without_a_network() {
    let app = Fixture::new();
    let seen = app
        .ok(&fetch("http://hidden.spin.internal/headers?q=1"))
        .await;
    let seen: Headers = serde_json::from_str(&seen).unwrap();
    assert_eq!(seen["spin-path-info"], "/headers", "{seen:?}");
    assert_eq!(seen["spin-raw-component-route"], "/...");
    assert_eq!(seen["spin-client-addr"], "0.0.0.0:0");
    assert!(!seen.contains_key("host"), "{seen:?}");
    // Calls to the application's own routes keep the client's address.
    let own = app.ok(&fetch("http://self.alt/probe/headers")).await;
    let seen: Headers = serde_json::from_str(&own).unwrap();
    assert_eq!(seen["spin-client-addr"], "192.0.2.7:4321");
    assert_eq!(seen["spin-matched-route"], "/probe/...");
    // As in Spin, there are no other ways to call them.
    for (own, error) in [
        ("http://self/probe/headers", "HttpRequestDenied"),
        ("/probe/headers", "HttpRequestUriInvalid"),
    ] {
        let response = app.send(get(&fetch(own))).await.unwrap();
        assert!(response.body().contains(error), "{}", response.body());
    }
    // Bodies are passed on, and other ABIs work.
    let url = "http://probe02.spin.internal/probe02/echo";
    let sent = post(&format!("/probe/forward?url={url}"), "through two");
    assert_eq!(app.send(sent).await.unwrap().body(), "through two");
    assert_eq!(
        app.ok("/probe02/fetch?http://hidden.spin.internal/").await,
        "probe"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_called_components_are_responses() {
    let app = Fixture::new();
    for (url, status) in [
        ("http://self.alt/nothing", StatusCode::NOT_FOUND),
        (
            "http://self.alt/probe02/trap",
            StatusCode::INTERNAL_SERVER_ERROR,
        ),
        (
            "http://hidden.spin.internal/trap",
            StatusCode::INTERNAL_SERVER_ERROR,
        ),
    ] {
        let response = app.send(get(&fetch(url))).await.unwrap();
        assert_eq!(response.status(), status, "{url}");
        assert_eq!(response.body(), "", "{url}");
    }
}

#[tokio::test]
async fn unknown_components_are_errors() {
    for (allowed, error) in [
        ("http://missing.spin.internal", "DestinationNotFound"),
        ("*://*:*", "DestinationNotFound"),
        ("http://*.spin.internal", "HttpRequestDenied"),
    ] {
        let app = Fixture::of(&manifest(&format!(
            "allowed_outbound_hosts = [{allowed:?}]"
        )));
        let response = app.send(get(&fetch("http://missing.spin.internal/")));
        let response = response.await.unwrap();
        assert!(
            response.body().contains(error),
            "{allowed}: {}",
            response.body()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_callers_of_one_instance_are_distinguished() {
    let app = Fixture::new();
    // Creates an instance that serves all of them.
    assert_eq!(app.ok("/probe/seen").await, "1");
    let send = async |client: &str| {
        let mut request = get("/probe/fetch-late?ms=100&url=http://self.alt/probe/headers");
        let caller = Caller::Client(Client::plain(client.parse().unwrap()));
        request.extensions_mut().insert(caller);
        let seen = app.send(request).await.unwrap();
        let seen: Headers = serde_json::from_str(seen.body()).unwrap();
        assert_eq!(seen["spin-client-addr"], client);
    };
    tokio::join!(
        send("192.0.2.1:1"),
        send("192.0.2.2:2"),
        send("192.0.2.3:3")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn call_loops_are_detected() {
    let app = Fixture::with(|options| options.limits.request_timeout = Duration::from_secs(10));
    let start = Instant::now();
    let path = "/probe/loop?url=http://hidden.spin.internal/loop";
    let response = app.send(get(path)).await.unwrap();
    assert!(
        response.body().contains("LoopDetected"),
        "{}",
        response.body()
    );
    assert!(
        start.elapsed() < Duration::from_secs(8),
        "{:?}",
        start.elapsed()
    );
}
