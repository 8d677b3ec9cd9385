//! What an author sees when a component fails.

use std::time::Duration;

use component_testing::{
    Limits, TestApp,
    http::{Request, StatusCode},
};

use crate::{probe, probe02};

#[test]
fn a_trap_is_a_500_with_a_cause() {
    for builder in [probe(), probe02()] {
        let app = builder.build().unwrap();
        let response = app.get("/trap");
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let [failure] = &app.failures()[..] else {
            panic!("one failure: {:?}", app.failures())
        };
        assert_eq!(failure.target, "/trap");
        assert!(failure.error.contains("unreachable"), "{failure:?}");
        // Later requests get another instance.
        assert_eq!(app.get("/seen").text(), "1");
    }
    let app = probe().build().unwrap();
    app.get("/trap");
    assert!(app.log("probe").contains("trap"), "{:?}", app.log("probe"));
}

#[test]
fn a_request_that_hangs_times_out_by_the_clock_of_the_test() {
    let app = probe().build().unwrap();
    let start = app.now();
    assert_eq!(app.get("/hang").status(), StatusCode::GATEWAY_TIMEOUT);
    let limit = Limits::DEFAULT.request_timeout;
    assert_eq!(app.now(), start + limit);
    assert!(
        app.failures()[0].error.contains("timed out"),
        "{:?}",
        app.failures()
    );
}

#[test]
fn a_response_may_take_as_long_as_the_limits_allow() {
    let limits = Limits {
        request_timeout: Duration::from_secs(1000),
        ..Limits::DEFAULT
    };
    let app = probe().limits(limits).build().unwrap();
    assert_eq!(app.get("/sleep?ms=999000").text(), "slept");
}

#[test]
fn a_failure_after_the_response_is_a_warning() {
    let app = probe().build().unwrap();
    assert_eq!(app.get("/after-response?then=trap").status(), 200);
    app.advance(Duration::from_millis(50));
    let warnings = app.warnings();
    let is_late = |line: &String| line.contains("component failed after its response");
    assert!(warnings.iter().any(is_late), "{warnings:?}");
}

#[test]
fn an_endless_loop_is_stopped() {
    let limits = Limits {
        request_timeout: Duration::from_millis(200),
        ..Limits::DEFAULT
    };
    for (builder, path) in [
        (probe(), "/spin"),
        (probe(), "/read-without-end"),
        (probe02(), "/spin"),
    ] {
        let app = builder.limits(limits).build().unwrap();
        assert_eq!(app.get(path).status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(
            app.failures()[0].error.contains("computed"),
            "{:?}",
            app.failures()
        );
    }
}

#[test]
fn long_computations_take_no_time_of_the_clock() {
    let app = probe().build().unwrap();
    let start = app.now();
    let requests = (0..3).map(|_| Request::get("/compute?steps=30").body("").unwrap());
    for response in app.concurrently(requests) {
        assert_eq!(response.status(), 200);
    }
    assert_eq!(app.now(), start);
}

#[test]
fn a_body_arrives_in_parts() {
    let app = probe().build().unwrap();
    let start = app.now();
    let response = app.get("/stream?chunks=3&ms=1000");
    assert_eq!(response.text(), "0\n1\n2\n");
    assert_eq!(app.now(), start + Duration::from_secs(3));

    let response = app.get("/stream?chunks=10&ms=20000");
    assert!(response.is_open());
    assert_eq!(response.take_text(), "0\n1\n2\n");
    app.advance(Duration::from_secs(20));
    assert_eq!(response.take_text(), "3\n");
    app.advance(Duration::from_secs(200));
    assert!(
        !response.is_open() && response.error().is_none(),
        "{response:?}"
    );

    let response = app.get("/stream?chunks=1&ms=1&then=trap");
    assert!(response.error().is_some(), "{response:?}");
    assert_eq!(app.failures().len(), 1);
}

#[test]
fn output_is_recorded_by_component() {
    let app = probe().build().unwrap();
    app.get("/print?line=hello");
    // Both streams have the line.
    assert_eq!(app.log("probe"), "hello\nhello\n");
    assert_eq!(app.log("other"), "");
}

#[test]
fn a_component_that_was_not_built_is_an_error_with_its_path() {
    let error = TestApp::from_component("target/none.wasm").build();
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("target/none.wasm: build it before"),
        "{error}"
    );
    let error = TestApp::from_manifest("none/spin.toml").build();
    let error = format!("{:#}", error.unwrap_err());
    assert!(error.contains("none/spin.toml"), "{error}");
    let both = TestApp::from_manifest("none/spin.toml").key_value_store("default");
    let error = both.build().unwrap_err().to_string();
    assert!(error.contains("none/spin.toml: set them there"), "{error}");
}
