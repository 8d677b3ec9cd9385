//! More requests than a component has instances for.

use std::time::{Duration, Instant};

use spin_runtime::backend::{BackendError, Busy, WaitsForCapacity};

use crate::fixture::{Fixture, get};

const TIMEOUT: Duration = Duration::from_secs(2);

/// Returns an application with one instance, for which one request may wait.
fn one_instance() -> Fixture {
    Fixture::with(|options| {
        let limits = &mut options.limits;
        limits.instances_per_component = 1;
        limits.requests_per_instance = 1;
        limits.waiting_requests = 1;
        limits.request_timeout = TIMEOUT;
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_beyond_the_bound_fail_at_once() {
    let app = one_instance();
    // It occupies the instance until the body has been read.
    let occupying = app.call(get("/probe/stream?chunks=1000&ms=1")).await;
    let occupying = occupying.unwrap();
    let start = Instant::now();
    let timed = async |marked: bool| {
        let mut request = get("/probe/");
        if marked {
            request.extensions_mut().insert(WaitsForCapacity);
        }
        (app.call(request).await.map(|_| ()), start.elapsed())
    };
    // Polled in this order.
    let (waiting, excess, marked) = tokio::join!(biased; timed(false), timed(false), timed(true));
    for (result, _) in [&waiting, &excess, &marked] {
        let cause = match result {
            Err(BackendError::Busy { component, cause }) if component == "probe" => cause,
            other => panic!("{other:?}"),
        };
        assert_eq!(*cause, Busy::Requests);
    }
    assert!(waiting.1 >= TIMEOUT && marked.1 >= TIMEOUT);
    assert!(excess.1 < TIMEOUT, "{:?}", excess.1);
    drop(occupying);
    // Until an instance is free again, those that have failed may occupy the places of others.
    let served = tests::eventually("a response", async || app.send(get("/probe/")).await.ok());
    assert_eq!(served.await.unwrap().into_body(), "probe");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waits_is_served_when_an_instance_is_free() {
    let app = one_instance();
    let occupying = app.call(get("/probe/stream?chunks=1000&ms=1")).await;
    let free = async {
        tokio::task::yield_now().await;
        drop(occupying.unwrap());
    };
    let (served, ()) = tokio::join!(app.ok("/probe/"), free);
    assert_eq!(served, "probe");
}
