//! Redis: key-value stores in a server, and the interfaces for it.

use std::time::{Duration, Instant};

use http::StatusCode;
use serde_json::json;
use spin_runtime::{Manifest, RuntimeConfig};
use tests::Redis;

use crate::fixture::{Fixture, encode, get, load_error_with, logged, manifest};

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

fn outbound(hosts: &str) -> Manifest {
    manifest(&format!("allowed_outbound_hosts = [{hosts:?}]"))
}

#[tokio::test]
async fn every_function_of_the_interface_works() {
    let redis = Redis::start().unwrap();
    let app = Fixture::of(&outbound(&redis.url()));
    let response = app
        .ok(&format!("/probe/redis?address={}", encode(&redis.url())))
        .await;
    let mut response: serde_json::Value = serde_json::from_str(&response).unwrap();
    let not_a_number = response["not_a_number"].take();
    assert!(
        not_a_number.as_str().unwrap().contains("not an integer"),
        "{not_a_number}"
    );
    assert_eq!(
        response,
        json!({
            "text": "one", "missing": null, "number": 2, "not_a_number": null,
            "added": 2, "removed": 1, "members": ["a"], "deleted": 2,
        })
    );
    assert_eq!(redis.command(&["KEYS", "*"]).unwrap(), "number");

    let execute = async |command: &str, arguments: &str| {
        let address = encode(&redis.url());
        let arguments = encode(arguments);
        app.ok(&format!(
            "/probe/redis-execute?address={address}&command={command}&arguments={arguments}"
        ))
        .await
    };
    assert_eq!(execute("SET", "n,5").await, "status OK");
    assert_eq!(execute("INCRBY", "n,-7").await, "-2");
    assert_eq!(execute("MGET", "n,none").await, "-2,nil");
    assert_eq!(execute("RPUSH", "list,a,b").await, "2");
    assert_eq!(execute("LRANGE", "list,0,-1").await, "a,b");
    let error = app
        .send(get(&format!(
            "/probe/redis-execute?address={}&command=NOPE",
            encode(&redis.url())
        )))
        .await
        .unwrap();
    assert!(error.body().contains("unknown command"), "{error:?}");
}

#[tokio::test]
async fn the_earlier_interface_works() {
    let redis = Redis::start().unwrap();
    let text = std::fs::read_to_string(
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/spin.toml"),
    )
    .unwrap();
    let port = format!("port = {{ default = \"{}\" }}", redis.address.port());
    let manifest = Manifest::parse(
        &text.replace("port = { default = \"1\" }", &port),
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/spin.toml"),
        spin_runtime::ManifestUse::Embedded,
    )
    .unwrap();
    let app = Fixture::of(&manifest);
    let response = app.ok(&format!("/probe02/redis?{}", redis.url())).await;
    assert_eq!(response, "one 1 2 1 [\"a\"] echoed 3");
}

#[test]
fn only_allowed_servers_are_connected_to() {
    let log = logged(async {
        let redis = Redis::start().unwrap();
        let app = Fixture::of(&outbound("redis://other.example"));
        for address in [
            &*redis.url().replace("redis://", "redis://user:secret@"),
            "redis://other.example:1",
            "rediss://other.example",
            "unix:///var/run/redis.sock",
            "redis+unix://other.example/redis.sock",
            "other.example",
            "",
        ] {
            let path = format!("/probe/redis?address={}", encode(address));
            let response = app.send(get(&path)).await.unwrap();
            assert!(
                response.body().contains("InvalidAddress"),
                "{address}: {response:?}"
            );
        }
    });
    assert!(log.contains("missing_entry=redis://127.0.0.1:"), "{log}");
    assert!(!log.contains("secret"), "{log}");
}

#[tokio::test]
async fn connections_are_limited() {
    let redis = Redis::start().unwrap();
    let manifest = outbound(&redis.url());
    let app = Fixture::at(&manifest, tempfile::tempdir().unwrap(), |options| {
        options.limits.redis_connections = 0;
    });
    let path = format!("/probe/redis?address={}", encode(&redis.url()));
    let response = app.send(get(&path)).await.unwrap();
    assert!(
        response.body().contains("TooManyConnections"),
        "{response:?}"
    );
}

#[tokio::test]
async fn results_are_limited() {
    let redis = Redis::start().unwrap();
    let manifest = outbound(&redis.url());
    let app = Fixture::at(&manifest, tempfile::tempdir().unwrap(), |options| {
        options.limits.query_result_bytes = 100;
    });
    let long = "x".repeat(101);
    redis.command(&["SADD", "set", &long]).unwrap();
    redis.command(&["SET", "long", &long]).unwrap();
    let address = encode(&redis.url());
    for path in [
        // Reads a text and then the members of the set.
        format!("/probe/redis?address={address}"),
        format!("/probe/redis-execute?address={address}&command=GET&arguments=long"),
    ] {
        let response = app.send(get(&path)).await.unwrap();
        assert!(
            response
                .body()
                .contains("query result exceeds limit of 100 bytes"),
            "{path}: {response:?}"
        );
    }
}
