//! The first application, which is served while its components are compiled.

use std::{path::Path, sync::Arc, task::Poll, time::Duration};

use futures_util::poll;
use http::StatusCode;
use spin_runtime::{
    Changes, Embedded, EmbeddedOptions, Manifest, Variables,
    backend::{Backend as _, BackendError, Busy},
};
use tempfile::TempDir;
use tests::{large_component, wasm};

use crate::fixture::{application, get};

/// Returns an application that is not loaded, and its state folder.
fn application_without_cache(edit: impl FnOnce(&mut EmbeddedOptions)) -> (Arc<Embedded>, TempDir) {
    let state = tempfile::tempdir().unwrap();
    let mut options = EmbeddedOptions::new(state.path());
    options.cache = false;
    // Tests run concurrently and share the address space.
    options.limits.instances_per_component = 20;
    // Compiling takes long on a busy machine.
    options.limits.request_timeout = Duration::from_secs(600);
    edit(&mut options);
    (Arc::new(Embedded::new(options).unwrap()), state)
}

fn variables(manifest: &Manifest) -> Variables {
    Variables::new(manifest, &[], Default::default(), |_| None).unwrap()
}

/// Returns a manifest with a static response, and with these components and their routes.
fn manifest(components: &[(&str, &Path)]) -> Manifest {
    let mut text = "[[trigger.http]]\nroute = \"/static\"\nstatic_response = {}\n".to_owned();
    for (id, file) in components {
        text += &format!(
            "[[trigger.http]]\nroute = \"/{id}/...\"\ncomponent = \"{id}\"\n\
             [component.{id}]\nsource = {file:?}\n"
        );
    }
    application(&text)
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_until_their_component_is_compiled() {
    let (app, _state) = application_without_cache(|_| {});
    let manifest = manifest(&[("probe", &wasm("probe")), ("typed", &wasm("typed"))]);
    let prepared = app.prepare(&manifest, &variables(&manifest)).unwrap();

    let status = async |path| app.call(get(path)).await.unwrap().status();
    assert_eq!(status("/static").await, StatusCode::OK);
    let health = "/.well-known/spin/health";
    assert_eq!(status(health).await, StatusCode::SERVICE_UNAVAILABLE);
    let mut request = app.call(get("/probe/headers"));
    assert!(poll!(&mut request).is_pending());
    // How the component handles WebSockets is not known yet.
    let mut starting = app.starting("/typed/a").expect("not compiled yet");
    assert!(poll!(&mut starting).is_pending());
    assert!(app.starting("/static").is_none());
    assert!(app.starting("/nothing").is_none());
    assert_eq!(app.instances(), [("probe".into(), 0), ("typed".into(), 0)]);

    let compiling = app.clone();
    let compiled = tokio::task::spawn_blocking(move || compiling.compile(prepared));
    assert_eq!(request.await.unwrap().status(), StatusCode::OK);
    starting.await.unwrap();
    compiled.await.unwrap().unwrap();
    assert_eq!(status(health).await, StatusCode::OK);
    assert!(app.starting("/typed/a").is_none());
    let typed = app.websocket_component("/typed/a");
    assert_eq!(typed.as_deref(), Some("typed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_is_served_while_a_larger_one_is_compiled() {
    let (app, state) = application_without_cache(|_| {});
    let large = state.path().join("large.wasm");
    std::fs::write(&large, large_component(&wasm("probe")).unwrap()).unwrap();
    // The larger one comes first by its id.
    let manifest = manifest(&[("a", &large), ("b", &wasm("probe"))]);
    let prepared = app.prepare(&manifest, &variables(&manifest)).unwrap();
    let compiling = app.clone();
    let compiled = tokio::task::spawn_blocking(move || compiling.compile(prepared));

    let mut large = app.call(get("/a/headers"));
    let response = app.call(get("/b/headers")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(poll!(&mut large).is_pending(), "the larger one is compiled");
    assert_eq!(large.await.unwrap().status(), StatusCode::OK);
    compiled.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn requests_wait_as_long_as_a_request_may_take() {
    let (app, _state) = application_without_cache(|options| {
        options.limits.instances_per_component = 1;
        options.limits.waiting_requests = 1;
    });
    let manifest = manifest(&[("probe", &wasm("probe"))]);
    app.prepare(&manifest, &variables(&manifest)).unwrap();
    let mut waiting = [
        app.call(get("/probe/headers")),
        app.call(get("/probe/headers")),
    ];
    for request in &mut waiting {
        assert!(poll!(request).is_pending());
    }
    let is_busy = |error: &BackendError, expected: Busy| match error {
        BackendError::Busy { cause, .. } => *cause == expected,
        _ => false,
    };
    // There is room for two.
    let error = app.call(get("/probe/headers")).await.unwrap_err();
    assert!(is_busy(&error, Busy::Requests), "{error}");
    for request in waiting {
        let error = request.await.unwrap_err();
        assert!(is_busy(&error, Busy::Starting), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_fail_if_the_application_cannot_run() {
    let (app, state) = application_without_cache(|_| {});
    // It is a component, as far as can be found without the compiler.
    let invalid = state.path().join("invalid.wasm");
    let mut code = std::fs::read(wasm("probe02")).unwrap();
    code.truncate(code.len() / 2);
    std::fs::write(&invalid, code).unwrap();
    let manifest = manifest(&[("a", &invalid), ("b", &wasm("probe"))]);
    let prepared = app.prepare(&manifest, &variables(&manifest)).unwrap();
    let mut requests = [app.call(get("/a/headers")), app.call(get("/b/headers"))];
    for request in &mut requests {
        assert!(matches!(poll!(request), Poll::Pending));
    }
    let error = app.compile(prepared).unwrap_err();
    let error = format!("{error:#}");
    assert!(
        error.starts_with("component a: ") && error.contains("is not a valid component"),
        "{error}"
    );
    for request in requests {
        let error = request.await.unwrap_err();
        assert!(matches!(error, BackendError::Busy { .. }), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_application_can_be_replaced() {
    let (app, _state) = application_without_cache(|options| options.cache = true);
    let manifest = manifest(&[("probe", &wasm("probe"))]);
    let variables = variables(&manifest);
    let prepared = app.prepare(&manifest, &variables).unwrap();
    app.compile(prepared).unwrap();
    let replace = || app.replace(&manifest, &variables, &Changes::default(), || {});
    // It is read again, since the file is not kept.
    assert_eq!(replace().unwrap(), ["probe"]);
    assert_eq!(replace().unwrap(), [""; 0]);
    let response = app.call(get("/probe/headers")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let Err(error) = app.prepare(&manifest, &variables) else {
        panic!("it is prepared a second time")
    };
    assert!(error.to_string().contains("loaded already"), "{error}");
}

#[test]
fn what_the_compiler_does_not_have_to_find_is_found_before() {
    let (app, state) = application_without_cache(|_| {});
    let missing = state.path().join("missing.wasm");
    let text = state.path().join("text.wasm");
    std::fs::write(&text, "(component)").unwrap();
    for (file, expected) in [(&missing, "does not exist"), (&text, "is not WebAssembly")] {
        let manifest = manifest(&[("probe", file)]);
        let Err(error) = app.prepare(&manifest, &variables(&manifest)) else {
            panic!("{} is loaded", file.display())
        };
        let error = format!("{error:#}");
        assert!(
            error.starts_with("component probe: ") && error.contains(expected),
            "{error}"
        );
    }
}
