//! Applications with a manifest.

use std::time::{Duration, UNIX_EPOCH};

use component_testing::{TestApp, TestAppBuilder, http::StatusCode};
use tempfile::TempDir;

use crate::wasm;

/// Returns an application with the probe, the component for cron triggers, and more of a manifest. Its
/// clock starts at the beginning of a minute.
fn app(more: &str) -> (TempDir, TestAppBuilder) {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        r#"
        spin_manifest_version = 2
        application.name = "test"
        variables.greeting = {{ default = "hello" }}
        [[trigger.http]]
        route = "/users/:user_id/headers"
        component = "probe"
        [[trigger.http]]
        route = "/probe/..."
        component = "probe"
        [[trigger.cron]]
        cron_expression = "0 * * * * *"
        component = "scheduled"
        [component.probe]
        source = {probe:?}
        key_value_stores = ["default", "other"]
        variables = {{ greeting = "{{{{ greeting }}}}, world" }}
        [component.scheduled]
        source = {scheduled:?}
        {more}"#,
        probe = wasm("probe"),
        scheduled = wasm("scheduled"),
    );
    let manifest = folder.path().join("spin.toml");
    std::fs::write(&manifest, text).unwrap();
    let start = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let builder = TestApp::from_manifest(folder.path()).start_time(start);
    (folder, builder)
}

#[test]
fn routes_variables_and_stores_are_those_of_the_manifest() {
    let (_folder, builder) = app("");
    let app = builder
        .variable("greeting", "good morning")
        .build()
        .unwrap();
    let headers: serde_json::Value = app.get("/users/7/headers").json();
    assert_eq!(headers["spin-path-match-user-id"], "7", "{headers}");
    assert!(headers["grip-sig"].is_string(), "{headers}");
    assert_eq!(app.get("/none").status(), StatusCode::NOT_FOUND);
    assert_eq!(
        app.get("/probe/variable/greeting").text(),
        "good morning, world"
    );
    app.get("/probe/set?store=other&key=a&value=b");
    assert_eq!(app.store("other").keys(), ["a"]);
    assert!(app.store("default").keys().is_empty());
    assert_eq!(app.failures(), []);

    let (_folder, builder) = self::app("");
    let error = builder.variable("unknown", "x").build().unwrap_err();
    assert!(
        format!("{error:#}").contains("unknown variable"),
        "{error:#}"
    );
}

#[test]
fn cron_triggers_are_called_by_the_clock_or_by_hand() {
    let (_folder, builder) = app("");
    let app = builder.with_timers().build().unwrap();
    app.advance(Duration::from_millis(119_999));
    assert_eq!(app.log("scheduled"), "event 1800000060\n");
    app.advance(Duration::from_millis(1));
    assert_eq!(app.log("scheduled"), "event 1800000060\nevent 1800000120\n");

    let (_folder, builder) = self::app("environment = { BEHAVIOR = \"error\" }");
    let app = builder.build().unwrap();
    app.advance(Duration::from_secs(600));
    assert_eq!(app.log("scheduled"), "");
    let error = app.run_cron("scheduled").unwrap_err();
    assert!(error.contains("out of paper"), "{error}");
    assert_eq!(app.failures()[0].target, "scheduled");
    assert!(app.run_cron("probe").is_err());
}

#[test]
fn timers_are_called_by_the_clock_or_by_hand() {
    let timer = r#"
        [application.tool.socket-host]
        private = ["/probe/print"]
        [[application.tool.socket-host.timer]]
        request = "GET /probe/print?line=tick"
        every = "10s"
        "#;
    let (_folder, builder) = app(timer);
    let app = builder.build().unwrap();
    app.advance(Duration::from_secs(60));
    assert_eq!(app.log("probe"), "");
    assert_eq!(app.get("/probe/print?line=client").status(), 404);
    assert_eq!(app.run_timer("/probe/print?line=tick").text(), "printed");
    assert_eq!(
        app.run_timer("GET /probe/print?line=other").text(),
        "printed"
    );
    assert_eq!(app.log("probe"), "tick\ntick\nother\nother\n");

    let (_folder, builder) = self::app(timer);
    let app = builder.with_timers().build().unwrap();
    app.advance(Duration::from_secs(29));
    assert_eq!(app.log("probe"), "tick\n".repeat(2 * 3));
}

#[test]
#[should_panic(expected = "the manifest has no timer with the path \"/other\"")]
fn an_unknown_timer_is_a_panic() {
    let (_folder, builder) = app("");
    builder.build().unwrap().run_timer("/other");
}
