//! Key-value stores in a Redis server.

use std::time::{Duration, Instant};

use http::StatusCode;
use spin_runtime::RuntimeConfig;
use tests::Redis;

use crate::fixture::{Fixture, get, load_error_with, logged, manifest};

/// Loads the probe with a default store in Redis.
fn store(url: &str) -> Fixture {
    let config = format!("key_value_store.default = {{ type = \"redis\", url = {url:?} }}");
    Fixture::at(&manifest(""), tempfile::tempdir().unwrap(), |options| {
        options.runtime_config = RuntimeConfig::parse(&config, "runtime-config.toml").unwrap();
        options.limits.redis_timeout = Duration::from_secs(2);
    })
}

#[tokio::test]
async fn a_store_has_spins_format() {
    let redis = Redis::start().unwrap();
    let app = store(&redis.url());
    assert_eq!(app.status("/probe/get?key=a").await, StatusCode::NOT_FOUND);
    app.ok("/probe/set?key=a&value=1").await;
    assert_eq!(app.ok("/probe/exists?key=a").await, "Ok(true)");
    assert_eq!(app.ok("/probe/increment?key=n&by=40").await, "40");
    assert_eq!(app.ok("/probe/increment?key=n&by=-42").await, "-2");
    assert_eq!(redis.command(&["GET", "a"]).unwrap(), "1");
    assert_eq!(redis.command(&["GET", "n"]).unwrap(), "-2");
    redis.command(&["SET", "theirs", "old"]).unwrap();
    assert_eq!(app.ok("/probe/get?key=theirs").await, "old");
    assert_eq!(
        app.ok("/probe/get-many?keys=a,none,n,a").await,
        "a=1,none=nothing,n=-2,a=1"
    );
    assert_eq!(app.ok("/probe/list-keys").await, "a,n,theirs; next: None");
    assert_eq!(app.ok("/probe/delete?key=theirs").await, "done");
    assert_eq!(app.ok("/probe/exists?key=theirs").await, "Ok(false)");
    assert!(!app.state.path().join("sqlite_key_value.db").exists());
}

#[tokio::test]
async fn a_swap_fails_after_a_change() {
    let redis = Redis::start().unwrap();
    let app = store(&redis.url());
    assert_eq!(
        app.ok("/probe/cas?key=new").await,
        "nothing, someone else's, mine"
    );
    assert_eq!(
        app.ok("/probe/cas?key=new").await,
        "mine, someone else's, mine"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn all_keys_are_listed() {
    let redis = Redis::start().unwrap();
    let app = store(&redis.url());
    app.ok("/probe/fill?keys=1500").await;
    let expected: Vec<_> = (0..1500).map(|n| format!("key-{n:04}")).collect();
    let mut keys: Vec<_> = app
        .ok("/probe/keys")
        .await
        .split(',')
        .map(str::to_owned)
        .collect();
    keys.sort_unstable();
    assert_eq!(keys, expected);
    let listed = app.ok("/probe/list-keys").await;
    assert_eq!(listed, format!("{}; next: None", expected.join(",")));
}

#[tokio::test(flavor = "multi_thread")]
async fn increments_of_two_hosts_return_distinct_numbers() {
    let redis = Redis::start().unwrap();
    let (one, two) = (store(&redis.url()), store(&redis.url()));
    let increments = (0..100).flat_map(|_| [&one, &two]);
    let increments = increments.map(|app| app.ok("/probe/increment?key=n&by=1"));
    let sums = futures_util::future::join_all(increments).await;
    let mut sums: Vec<u64> = sums.iter().map(|sum| sum.parse().unwrap()).collect();
    sums.sort_unstable();
    assert_eq!(sums, (1..=200).collect::<Vec<_>>());
}

#[tokio::test]
async fn errors_of_the_server_reach_the_guest() {
    let redis = Redis::start().unwrap();
    let app = store(&redis.url());
    redis.command(&["RPUSH", "list", "a"]).unwrap();
    redis.command(&["SET", "text", "abc"]).unwrap();
    for (path, error) in [
        ("/probe/get?key=list", "WRONGTYPE"),
        ("/probe/increment?key=text&by=1", "not an integer"),
        ("/probe/cas?key=list", "WRONGTYPE"),
    ] {
        let response = app.send(get(path)).await.unwrap();
        assert!(response.body().contains(error), "{path}: {response:?}");
    }
}

#[test]
fn a_store_survives_an_outage_of_its_server() {
    let log = logged(async {
        let mut redis = Redis::start().unwrap();
        redis.stop().unwrap();
        // The server need not run when the application starts.
        let app = store(&redis.url());
        let start = Instant::now();
        let response = app.send(get("/probe/set?key=a&value=1")).await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
        assert!(response.body().contains("Redis: "), "{response:?}");
        assert!(start.elapsed() < Duration::from_secs(10));

        redis.restart().unwrap();
        app.ok("/probe/set?key=a&value=1").await;
        redis.stop().unwrap();
        redis.restart().unwrap();
        assert_eq!(app.ok("/probe/get?key=a").await, "1");
    });
    assert!(log.contains("Redis operation failed"), "{log}");
    assert!(log.contains("store=\"default\""), "{log}");
}

#[test]
fn an_invalid_url_is_an_error_at_the_start() {
    let error = load_error_with(&manifest(""), |options| {
        let text = "key_value_store.default = { type = \"redis\", url = \"http://u:secret@h\" }";
        options.runtime_config = RuntimeConfig::parse(text, "runtime-config.toml").unwrap();
    });
    assert!(
        error.contains("key-value store default: invalid url"),
        "{error}"
    );
    assert!(!error.contains("secret"), "{error}");
}
