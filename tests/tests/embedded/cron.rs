//! Events of cron triggers.

use std::time::{Duration, Instant};

use spin_runtime::{Manifest, backend::BackendError};

use tests::wasm;

use crate::fixture::{Fixture, load_error, parse_text};

const TIMESTAMP: u64 = 1_767_225_600;

/// Returns a manifest with a trigger for each component, which is a file and its environment.
fn manifest(components: &[(&str, &str, &str)]) -> Manifest {
    let mut text = "spin_manifest_version = 2\napplication.name = \"cron\"\n".to_owned();
    for (id, file, environment) in components {
        let file = wasm(file);
        text += &format!(
            "[[trigger.cron]]\ncomponent = {id:?}\ncron_expression = \"0 0 0 * * *\"\n\
             [component.{id}]\nsource = {file:?}\nenvironment = {{ {environment} }}\n"
        );
    }
    parse_text(&text)
}

/// Returns the output of a component of a fixture, which is closed.
fn output(app: Fixture, id: &str) -> String {
    let state = app.close();
    std::fs::read_to_string(state.path().join(format!("logs/{id}_stdout.txt"))).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_reach_the_component() {
    let app = Fixture::of(&manifest(&[("report", "scheduled", "")]));
    assert_eq!(app.components(), ["report"]);
    for timestamp in [TIMESTAMP, TIMESTAMP + 1] {
        app.call_cron("report", timestamp).await.unwrap();
    }
    assert_eq!(app.instances(), [("report".to_owned(), 0)]);
    let error = app.call_cron("other", TIMESTAMP).await.unwrap_err();
    assert!(matches!(error, BackendError::NoRoute { .. }), "{error}");
    let expected = format!("event {TIMESTAMP}\nevent {}\n", TIMESTAMP + 1);
    assert_eq!(output(app, "report"), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_name_the_component_and_the_cause() {
    let components = [
        ("refuses", "scheduled", "BEHAVIOR = \"error\""),
        ("traps", "scheduled", "BEHAVIOR = \"trap\""),
    ];
    let app = Fixture::of(&manifest(&components));
    for (id, cause) in [
        (
            "refuses",
            "handle-cron-event returned an error: out of paper",
        ),
        ("traps", "unreachable"),
    ] {
        let error = app.call_cron(id, TIMESTAMP).await.unwrap_err();
        let BackendError::Failed { component, source } = &error else {
            panic!("{error:?}")
        };
        assert_eq!(component, id);
        let source = format!("{source:#}");
        assert!(source.contains(cause), "{source}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_ends_at_its_deadline() {
    let manifest = manifest(&[("spins", "scheduled", "BEHAVIOR = \"spin\"")]);
    let limit = Duration::from_secs(1);
    let state = tempfile::tempdir().unwrap();
    let app = Fixture::at(&manifest, state, |options| {
        options.limits.request_timeout = limit;
    });
    let start = Instant::now();
    let error = app.call_cron("spins", TIMESTAMP).await.unwrap_err();
    assert!(matches!(error, BackendError::Deadline { .. }), "{error}");
    let elapsed = start.elapsed();
    assert!(elapsed >= limit && elapsed < limit * 10, "{elapsed:?}");
    assert_eq!(app.instances(), [("spins".to_owned(), 0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_may_handle_requests_and_events() {
    let file = wasm("probe02");
    let text = format!(
        "spin_manifest_version = 2\napplication.name = \"both\"\n\
         [[trigger.http]]\nroute = \"/...\"\ncomponent = \"both\"\n\
         [[trigger.cron]]\ncomponent = \"both\"\ncron_expression = \"@daily\"\n\
         [component.both]\nsource = {file:?}\n"
    );
    let app = Fixture::of(&parse_text(&text));
    assert_eq!(app.components(), ["both"]);
    assert_eq!(app.ok("/print").await, "printed");
    app.call_cron("both", TIMESTAMP).await.unwrap();
    let expected = format!("from probe02\nevent {TIMESTAMP}\n");
    assert_eq!(output(app, "both"), expected);
}

#[test]
fn components_must_export_what_their_triggers_call() {
    let file = wasm("scheduled");
    let error = load_error(&format!("source = {file:?}"));
    for part in ["component probe", "scheduled.wasm", "no HTTP handler"] {
        assert!(error.contains(part), "no {part:?} in {error}");
    }
    // The trigger is part of the component's text, which ends the manifest.
    let file = wasm("probe");
    let error = load_error(&format!(
        "source = {file:?}\n[[trigger.cron]]\ncomponent = \"probe\"\ncron_expression = \"@daily\""
    ));
    for part in [
        "component probe",
        "probe.wasm",
        "does not export handle-cron-event",
        "[[application.tool.socket-host.timer]]",
    ] {
        assert!(error.contains(part), "no {part:?} in {error}");
    }
}
