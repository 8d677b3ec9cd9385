//! Requests to components and their responses.

use std::collections::BTreeMap;

use http::StatusCode;
use spin_runtime::backend::{BackendError, Caller};

use crate::fixture::{Fixture, Headers, get, post, request};

#[tokio::test(flavor = "multi_thread")]
async fn requests_and_responses_are_passed_unchanged() {
    let app = Fixture::new();
    let response = app.send(post("/probe/echo", "some body")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["x-method"], "POST");
    assert_eq!(response.body(), "some body");

    let big = vec![b'x'; 3 << 20];
    let response = app.send(post("/probe/echo", big.clone())).await.unwrap();
    assert!(
        response.body().as_bytes() == big,
        "received {} bytes",
        response.body().len()
    );

    assert_eq!(
        app.ok("/probe/uri?a=b%20c").await,
        "http://example.com:3000/probe/uri?a=b%20c"
    );
}

#[tokio::test]
async fn components_receive_spins_headers() {
    let app = Fixture::new();
    let mut request = get("/probe/headers?x=1");
    for (name, value) in [
        ("connection", "keep-alive, x-mine"),
        ("x-mine", "kept"),
        ("upgrade", "websocket"),
        ("spin-client-addr", "6.6.6.6:6"),
        ("spin-forged", "1"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let seen: Headers = serde_json::from_str(app.send(request).await.unwrap().body()).unwrap();
    for (name, value) in [
        ("host", "example.com:3000"),
        ("x-mine", "kept"),
        ("upgrade", "websocket"),
        ("spin-full-url", "http://example.com:3000/probe/headers?x=1"),
        ("spin-path-info", "/headers"),
        ("spin-matched-route", "/probe/..."),
        ("spin-raw-component-route", "/probe/..."),
        ("spin-component-route", "/probe"),
        ("spin-base-path", "/"),
        ("spin-client-addr", "192.0.2.7:4321"),
    ] {
        assert_eq!(
            seen.get(name).map(String::as_str),
            Some(value),
            "{name} in {seen:?}"
        );
    }
    assert!(
        !seen.contains_key("connection") && !seen.contains_key("spin-forged"),
        "{seen:?}"
    );
    let seen: Headers = serde_json::from_str(&app.ok("/users/42/headers").await).unwrap();
    assert_eq!(seen["spin-path-match-user-id"], "42");
}

#[tokio::test]
async fn clients_cannot_use_internal_host_names() {
    let app = Fixture::new();
    for (uri, host) in [
        ("/probe/headers", "hidden.spin.internal"),
        ("/probe/headers", "hidden.spin.internal:80"),
        ("/probe/headers", "Hidden.Spin.Internal"),
        (
            "http://hidden.spin.internal/probe/headers",
            "hidden.spin.internal",
        ),
    ] {
        let mut request = get(uri);
        request.headers_mut().insert("host", host.parse().unwrap());
        let seen: Headers = serde_json::from_str(app.send(request).await.unwrap().body()).unwrap();
        assert!(!seen.contains_key("host"), "{uri} {host}: {seen:?}");
        assert_eq!(seen["spin-full-url"], "http://localhost/probe/headers");
    }
    for host in [
        "spin.internal",
        "hidden.spin.internal.example",
        "a.b.spin.internal",
    ] {
        let mut request = get("/probe/headers");
        request.headers_mut().insert("host", host.parse().unwrap());
        let seen: Headers = serde_json::from_str(app.send(request).await.unwrap().body()).unwrap();
        assert_eq!(seen["host"], host);
    }
    let mut request = get("http://hidden.spin.internal/probe/uri");
    request.headers_mut().remove("host");
    let response = app.send(request).await.unwrap();
    assert_eq!(response.body(), "http://localhost/probe/uri");
}

#[tokio::test]
async fn spins_built_in_routes_and_static_responses_are_served() {
    let app = Fixture::new();
    assert_eq!(app.ok("/.well-known/spin/health").await, "OK");
    let info = app.ok("/.well-known/spin/info").await;
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(
        info,
        serde_json::json!({ "name": "fixtures", "version": "1.2.3" })
    );
    let teapot = app.send(get("/teapot")).await.unwrap();
    assert_eq!(teapot.status(), StatusCode::IM_A_TEAPOT);
    assert_eq!(teapot.headers()["x-kind"], "short and stout");
    assert_eq!(teapot.body(), "tip me over");
    for path in [
        "/",
        "/nothing",
        "/probes",
        "/.well-known/spin/other",
        "/hidden",
    ] {
        let error = app.send(get(path)).await.unwrap_err();
        assert!(
            matches!(&error, BackendError::NoRoute { path: of } if of == path),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn the_environment_contains_only_manifest_and_options() {
    let app = Fixture::with(|options| {
        options.environment = [("OVERRIDDEN", "by option"), ("FROM_OPTION", "1")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
    });
    assert!(
        std::env::vars().count() > 2,
        "the test needs an environment that components must not see"
    );
    let seen: BTreeMap<String, String> = serde_json::from_str(&app.ok("/probe/env").await).unwrap();
    let expected = [
        ("FROM_MANIFEST", "yes"),
        ("FROM_OPTION", "1"),
        ("OVERRIDDEN", "by option"),
    ];
    assert_eq!(
        seen,
        expected
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    );
}

#[tokio::test]
async fn components_see_only_their_own_variables() {
    let app = Fixture::new();
    assert_eq!(app.ok("/probe/variable/greeting").await, "hello, world");
    assert_eq!(app.ok("/probe02/variable").await, "hello to 0.2");
    // Defined for the application, but not for the component.
    let undefined = app.ok("/probe/variable/port").await;
    assert!(undefined.contains("Undefined"), "{undefined}");
    let invalid = app.ok("/probe/variable/NO").await;
    assert!(invalid.contains("InvalidName"), "{invalid}");
}

#[tokio::test]
async fn wasi_0_2_components_have_the_same_features() {
    let app = Fixture::new();
    let response = app.send(post("/probe02/echo", "echoed")).await.unwrap();
    assert_eq!(response.body(), "echoed");
    assert_eq!(app.ok("/probe02/host").await, "none", "hidden, as in Spin");
    assert_eq!(app.ok("/probe02/keep").await, "value");
    assert_eq!(app.ok("/probe/get?key=kept%20by%200.2").await, "value");
    assert_eq!(app.ok("/probe02/read").await, "hello from a file\n");
    let own = app.ok("/probe02/fetch?http://self.alt/probe/").await;
    assert_eq!(own, "probe");
    assert_eq!(app.status("/probe02/nothing").await, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn timers_have_no_client_address() {
    let app = Fixture::new();
    let mut request = request("GET", "/probe/headers", "");
    request.extensions_mut().insert(Caller::Host);
    let seen: Headers = serde_json::from_str(app.send(request).await.unwrap().body()).unwrap();
    assert_eq!(seen["spin-client-addr"], "0.0.0.0:0");
}

#[tokio::test]
async fn output_of_components_is_written_to_log_files() {
    let mut app = Fixture::new();
    app.ok("/probe/print?line=one%20line").await;
    app.ok("/probe02/print").await;
    app = app.restart();
    app.ok("/probe/print?line=another").await;
    let state = app.close();
    let log = |name: &str| std::fs::read_to_string(state.path().join("logs").join(name)).unwrap();
    assert_eq!(log("probe_stdout.txt"), "one line\nanother\n");
    assert_eq!(log("probe_stderr.txt"), "one line\nanother\n");
    assert_eq!(log("probe02_stdout.txt"), "from probe02\n");
    assert_eq!(log("hidden_stdout.txt"), "");
}
