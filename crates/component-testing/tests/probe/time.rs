//! Time and random numbers.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant, UNIX_EPOCH},
};

use crate::{probe, probe02, reproducible};

const START: Duration = Duration::from_millis(1_700_000_000_123);

#[test]
fn clocks_start_at_the_time_of_the_test_and_follow_pauses() {
    let start = UNIX_EPOCH + START;
    for (builder, path) in [(probe(), "/time?ms=5000"), (probe02(), "/time?5000")] {
        let app = builder.start_time(start).build().unwrap();
        assert_eq!(app.get(path).text(), "1700000000123 5000", "{path}");
        assert_eq!(app.now(), start + Duration::from_secs(5));
        app.advance(Duration::from_secs(3600));
        assert_eq!(app.get(path).text(), "1700003605123 5000", "{path}");
    }
}

#[test]
fn pauses_take_no_real_time() {
    let app = probe().build().unwrap();
    let since = Instant::now();
    for _ in 0..10 {
        assert_eq!(app.get("/sleep?ms=20000").text(), "slept");
    }
    assert!(
        since.elapsed() < Duration::from_secs(20),
        "{:?}",
        since.elapsed()
    );
}

#[test]
fn a_request_that_waits_for_nothing_takes_no_time() {
    let app = probe().build().unwrap();
    let start = app.now();
    app.get("/set?key=a&value=b");
    app.get("/");
    assert_eq!(app.now(), start);
}

#[test]
fn instances_live_as_long_as_the_limits_allow_by_the_clock_of_the_test() {
    let app = probe().build().unwrap();
    assert_eq!(app.get("/seen").text(), "1");
    app.advance(Duration::from_millis(900));
    assert_eq!(app.get("/seen").text(), "2");
    // A request that starts late in the life of an instance has all of its time.
    for request in 3..100 {
        app.advance(Duration::from_millis(900));
        assert_eq!(app.get("/seen").text(), request.to_string());
    }
    app.advance(Duration::from_millis(1100));
    assert_eq!(app.get("/seen").text(), "1");
}

#[test]
fn random_numbers_come_from_the_seed() {
    let mut seen = BTreeSet::new();
    for seed in 0..4 {
        let numbers = reproducible(|| {
            let app = probe().seed(seed).build().unwrap();
            let first = app.get("/random").text();
            let second = app.get("/random").text();
            let app02 = probe02().seed(seed).build().unwrap();
            [
                first,
                second,
                app02.get("/random").text(),
                app02.get("/random").text(),
            ]
        });
        seen.extend(numbers);
    }
    assert_eq!(seen.len(), 16, "{seen:?}");
}
