//! Instances: their limits and their end.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt as _;
use spin_runtime::backend::BackendError;

use crate::fixture::{Fixture, get, logged};

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_ends_only_its_own_request() {
    let app = Fixture::new();
    for path in ["/probe/trap", "/probe02/trap"] {
        let error = app.send(get(path)).await.unwrap_err();
        let BackendError::Failed { component, source } = &error else {
            panic!("{error:?}")
        };
        assert_eq!(Some(component.as_str()), path.split('/').nth(1));
        let source = format!("{source:#}");
        assert!(
            source.contains("unreachable") && source.contains("backtrace"),
            "{source}"
        );
    }
    assert_eq!(app.ok("/probe/").await, "probe");
    assert_eq!(app.ok("/probe02/seen").await, "1");
}

#[test]
fn a_trap_is_logged_with_component_route_and_backtrace() {
    let log = logged(async {
        let app = Fixture::new();
        app.send(get("/probe/trap")).await.unwrap_err();
    });
    for part in [
        "ERROR",
        "component=\"probe\"",
        "route=\"/probe/...\"",
        "backtrace",
        "unreachable",
    ] {
        assert!(log.contains(part), "{part} in {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_response_ends_at_its_deadline() {
    let app = Fixture::with(|options| options.limits.request_timeout = Duration::from_secs(2));
    for path in ["/probe/hang", "/probe/spin", "/probe02/spin"] {
        let start = Instant::now();
        let error = app.send(get(path)).await.unwrap_err();
        let BackendError::Deadline { component, limit } = &error else {
            panic!("{path}: {error:?}")
        };
        assert_eq!(Some(component.as_str()), path.split('/').nth(1));
        assert_eq!(*limit, Duration::from_secs(2));
        let elapsed = start.elapsed();
        assert!(
            elapsed >= *limit && elapsed < Duration::from_secs(8),
            "{path} took {elapsed:?}"
        );
    }
    assert_eq!(app.ok("/probe/").await, "probe");
}

/// Runs on one thread, to which a busy guest must yield regularly.
#[tokio::test]
async fn a_busy_guest_yields_to_others() {
    let app = Fixture::with(|options| options.limits.request_timeout = Duration::from_secs(6));
    let others = async {
        for _ in 0..5 {
            assert_eq!(app.ok("/probe/").await, "probe");
        }
        Instant::now()
    };
    let start = Instant::now();
    let (spun, done) = tokio::join!(app.send(get("/probe/spin")), others);
    assert!(
        matches!(spun, Err(BackendError::Deadline { .. })),
        "{spun:?}"
    );
    assert!(
        done - start < Duration::from_secs(5),
        "after {:?}",
        done - start
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_limited() {
    let app = Fixture::with(|options| options.limits.instance_memory_bytes = 64 << 20);
    assert_eq!(app.ok("/probe/alloc?mib=16").await, (16 << 20).to_string());
    let error = app.send(get("/probe/alloc?mib=128")).await.unwrap_err();
    assert!(matches!(error, BackendError::Failed { .. }), "{error:?}");
    assert_eq!(app.ok("/probe/alloc?mib=16").await, (16 << 20).to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_are_reused_as_often_as_configured() {
    let app = Fixture::with(|options| options.limits.requests_per_instance = 3);
    let mut seen = Vec::new();
    for _ in 0..7 {
        seen.push(app.ok("/probe/seen").await);
    }
    assert_eq!(seen, ["1", "2", "3", "1", "2", "3", "1"]);
    // WASI 0.2 instances serve one request.
    for _ in 0..3 {
        assert_eq!(app.ok("/probe02/seen").await, "1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_request_shares_its_instance() {
    // On a busy machine, another instance may start for one of two concurrent requests.
    for _ in 0..10 {
        if waiting_request_shares_its_instance().await {
            return;
        }
    }
    panic!("the waiting request always has an instance of its own");
}

/// Returns `false` if another instance has started.
async fn waiting_request_shares_its_instance() -> bool {
    // A busy machine must not make the instance look idle.
    let app = Fixture::with(|options| {
        options.limits.idle_instance_timeout = Duration::from_secs(60);
    });
    assert_eq!(app.ok("/probe/seen").await, "1");
    // The instance also counts the sleeping request once that has started.
    let others = async {
        for before in 1.. {
            match app.ok("/probe/seen").await.parse::<u32>() {
                Ok(seen) if seen == before + 2 => return Some(Instant::now()),
                Ok(seen) if seen == before + 1 => {}
                _ => return None,
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        None
    };
    let sleeping = async {
        assert_eq!(app.ok("/probe/sleep?ms=3000").await, "slept");
        Instant::now()
    };
    let (counted, woke) = tokio::join!(others, sleeping);
    counted.is_some_and(|counted| counted < woke)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_streamed() {
    let app = Fixture::with(|options| options.limits.request_timeout = Duration::from_secs(3));
    let start = Instant::now();
    let mut response = app
        .call(get("/probe/stream?chunks=5&ms=800"))
        .await
        .unwrap();
    let first = response
        .body_mut()
        .frame()
        .await
        .unwrap()
        .unwrap()
        .into_data()
        .unwrap();
    assert_eq!(first, "0\n");
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    // The body takes longer than the deadline, which applies to the head.
    let rest = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(rest, "1\n2\n3\n4\n");
    assert!(start.elapsed() >= Duration::from_secs(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_body_is_an_error() {
    let app = Fixture::with(|options| options.limits.request_timeout = Duration::from_secs(2));
    for then in ["trap", "spin"] {
        let path = format!("/probe/stream?chunks=2&ms=1&then={then}");
        let response = app.call(get(&path)).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let mut body = response.into_body();
        let mut seen = Vec::new();
        let error = loop {
            match body.frame().await {
                Some(Ok(frame)) => seen.extend_from_slice(frame.data_ref().unwrap()),
                Some(Err(error)) => break error,
                None => panic!("{then}: a complete body of {:?}", Bytes::from(seen)),
            }
        };
        assert!(
            error.to_string().contains("failed during its response"),
            "{error}"
        );
        assert_eq!(app.ok("/probe/").await, "probe");
    }
}

#[test]
fn a_trap_after_the_response_is_logged() {
    let log = logged(async {
        let app = Fixture::new();
        let response = app
            .call(get("/probe/stream?chunks=1&ms=1&then=trap"))
            .await
            .unwrap();
        response.into_body().collect().await.unwrap_err();
    });
    assert!(
        log.contains("failed after its response") && log.contains("component=probe"),
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_call_frees_its_instance() {
    let app = Fixture::with(|options| {
        options.limits.instances_per_component = 2;
        options.limits.concurrent_requests_per_instance = 1;
        options.limits.request_timeout = Duration::from_secs(20);
    });
    // More calls than instances: each instance must be freed long before the deadline.
    for _ in 0..6 {
        for path in ["/probe/hang", "/probe/spin", "/probe02/spin"] {
            let cancelled = tokio::time::timeout(Duration::from_millis(50), app.call(get(path)));
            assert!(cancelled.await.is_err());
        }
    }
    let start = Instant::now();
    assert_eq!(app.ok("/probe/").await, "probe");
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_body_ends_its_stream() {
    let app = Fixture::with(|options| {
        options.limits.instances_per_component = 1;
        options.limits.requests_per_instance = 1;
    });
    for _ in 0..3 {
        let response = app
            .call(get("/probe/stream?chunks=100000&ms=1"))
            .await
            .unwrap();
        drop(response);
    }
    assert_eq!(app.ok("/probe/").await, "probe");
}

/// Each request takes an instance before the host knows that it could have shared one.
#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_for_a_free_instance() {
    let app = Fixture::with(|options| {
        options.limits.instances_per_component = 2;
        options.limits.idle_instance_timeout = Duration::from_secs(20);
    });
    let responses = futures_util::future::join_all((0..50).map(|_| app.ok("/probe/sleep?ms=10")));
    let responses = tokio::time::timeout(Duration::from_secs(15), responses).await;
    assert_eq!(
        responses.expect("a request waits although an instance is idle"),
        ["slept"; 50]
    );
}
