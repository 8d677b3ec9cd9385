//! What passes between a request and a component.

use std::collections::BTreeMap;

use http::StatusCode;
use spin_runtime::backend::{BackendError, Caller};

use crate::fixture::{Fixture, Headers, get, post, request};

#[tokio::test(flavor = "multi_thread")]
async fn a_request_and_its_answer_pass_as_they_are() {
    let app = Fixture::new();
    let answer = app.answer(post("/probe/echo", "some body")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["x-method"], "POST");
    assert_eq!(answer.body(), "some body");

    let big = vec![b'x'; 3 << 20];
    let answer = app.answer(post("/probe/echo", big.clone())).await.unwrap();
    assert!(
        answer.body().as_bytes() == big,
        "{} bytes came back",
        answer.body().len()
    );

    assert_eq!(
        app.ok("/probe/uri?a=b%20c").await,
        "http://example.com:3000/probe/uri?a=b%20c"
    );
}

#[tokio::test]
async fn components_are_told_what_spin_tells_them() {
    let app = Fixture::new();
    let mut asked = get("/probe/headers?x=1");
    for (name, value) in [
        ("connection", "keep-alive, x-mine"),
        ("x-mine", "kept"),
        ("upgrade", "websocket"),
        ("spin-client-addr", "6.6.6.6:6"),
        ("spin-forged", "1"),
    ] {
        asked.headers_mut().insert(name, value.parse().unwrap());
    }
    let seen: Headers = serde_json::from_str(app.answer(asked).await.unwrap().body()).unwrap();
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
async fn nobody_outside_is_another_component() {
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
        let mut asked = get(uri);
        asked.headers_mut().insert("host", host.parse().unwrap());
        let seen: Headers = serde_json::from_str(app.answer(asked).await.unwrap().body()).unwrap();
        assert!(!seen.contains_key("host"), "{uri} {host}: {seen:?}");
        assert_eq!(seen["spin-full-url"], "http://localhost/probe/headers");
    }
    for host in [
        "spin.internal",
        "hidden.spin.internal.example",
        "a.b.spin.internal",
    ] {
        let mut asked = get("/probe/headers");
        asked.headers_mut().insert("host", host.parse().unwrap());
        let seen: Headers = serde_json::from_str(app.answer(asked).await.unwrap().body()).unwrap();
        assert_eq!(seen["host"], host);
    }
    let mut asked = get("http://hidden.spin.internal/probe/uri");
    asked.headers_mut().remove("host");
    let answer = app.answer(asked).await.unwrap();
    assert_eq!(answer.body(), "http://localhost/probe/uri");
}

#[tokio::test]
async fn the_host_answers_for_itself_where_spin_does() {
    let app = Fixture::new();
    assert_eq!(app.ok("/.well-known/spin/health").await, "OK");
    let info = app.ok("/.well-known/spin/info").await;
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(
        info,
        serde_json::json!({ "name": "fixtures", "version": "1.2.3" })
    );
    let teapot = app.answer(get("/teapot")).await.unwrap();
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
        let error = app.answer(get(path)).await.unwrap_err();
        assert!(
            matches!(&error, BackendError::NoRoute { path: of } if of == path),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn the_environment_is_the_manifests_and_the_options_alone() {
    let app = Fixture::with(|options| {
        options.environment = [("OVERRIDDEN", "by option"), ("FROM_OPTION", "1")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
    });
    assert!(
        std::env::vars().count() > 2,
        "the test itself has an environment that must not show"
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
async fn variables_are_those_of_the_component() {
    let app = Fixture::new();
    assert_eq!(app.ok("/probe/variable/greeting").await, "hello, world");
    assert_eq!(app.ok("/probe02/variable").await, "hello to 0.2");
    // The application has it, the component does not.
    let undefined = app.ok("/probe/variable/port").await;
    assert!(undefined.contains("Undefined"), "{undefined}");
    let invalid = app.ok("/probe/variable/NO").await;
    assert!(invalid.contains("InvalidName"), "{invalid}");
}

#[tokio::test]
async fn wasi_0_2_components_have_the_same() {
    let app = Fixture::new();
    let answer = app.answer(post("/probe02/echo", "echoed")).await.unwrap();
    assert_eq!(answer.body(), "echoed");
    assert_eq!(app.ok("/probe02/host").await, "example.com:3000");
    assert_eq!(app.ok("/probe02/keep").await, "value");
    assert_eq!(app.ok("/probe/get?key=kept%20by%200.2").await, "value");
    assert_eq!(app.ok("/probe02/read").await, "hello from a file\n");
    assert_eq!(app.ok("/probe02/fetch?http://self/probe/").await, "probe");
    assert_eq!(app.ok("/probe02/fetch?/probe/").await, "probe");
    assert_eq!(app.status("/probe02/nothing").await, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn timers_have_no_client_address() {
    let app = Fixture::new();
    let mut asked = request("GET", "/probe/headers", "");
    asked.extensions_mut().insert(Caller::Host);
    let seen: Headers = serde_json::from_str(app.answer(asked).await.unwrap().body()).unwrap();
    assert_eq!(seen["spin-client-addr"], "0.0.0.0:0");
}

#[tokio::test]
async fn what_components_print_is_in_their_log_files() {
    let mut app = Fixture::new();
    app.ok("/probe/print?line=one%20line").await;
    app.ok("/probe02/print").await;
    app = app.again();
    app.ok("/probe/print?line=another").await;
    let state = app.close();
    let log = |name: &str| std::fs::read_to_string(state.path().join("logs").join(name)).unwrap();
    assert_eq!(log("probe_stdout.txt"), "one line\nanother\n");
    assert_eq!(log("probe_stderr.txt"), "one line\nanother\n");
    assert_eq!(log("probe02_stdout.txt"), "from probe02\n");
    assert_eq!(log("hidden_stdout.txt"), "");
}
