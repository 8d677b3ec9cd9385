//! Key-value stores.

use http::StatusCode;

use crate::fixture::{Fixture, get, manifest};

#[tokio::test]
async fn keys_and_values_are_persistent() {
    let mut app = Fixture::new();
    assert_eq!(app.status("/probe/get?key=a").await, StatusCode::NOT_FOUND);
    assert_eq!(app.ok("/probe/set?key=a&value=1").await, "done");
    assert_eq!(app.ok("/probe/set?key=b&value=2").await, "done");
    assert_eq!(app.ok("/probe/set?key=a&value=3").await, "done");
    assert_eq!(app.ok("/probe/exists?key=a").await, "Ok(true)");
    assert_eq!(app.ok("/probe/delete?key=b").await, "done");
    assert_eq!(app.ok("/probe/delete?key=b").await, "done");
    assert_eq!(app.ok("/probe/exists?key=b").await, "Ok(false)");
    assert_eq!(app.ok("/probe/increment?key=n&by=40").await, "40");

    app = app.restart();
    assert_eq!(app.ok("/probe/get?key=a").await, "3");
    assert_eq!(app.ok("/probe/keys").await, "a,n");
    assert_eq!(app.ok("/probe/increment?key=n&by=2").await, "42");
}

#[tokio::test]
async fn the_file_has_spins_format() {
    let app = Fixture::new();
    app.ok("/probe/set?key=a&value=1").await;
    app.ok("/probe/increment?key=n&by=-2").await;
    let file = app.state.path().join("sqlite_key_value.db");
    let spin = rusqlite::Connection::open(file).unwrap();
    let row = |key: &str| -> Vec<u8> {
        let sql = "SELECT value FROM spin_key_value WHERE store = 'default' AND key = ?1";
        spin.query_row(sql, [key], |row| row.get(0)).unwrap()
    };
    assert_eq!(row("a"), b"1");
    assert_eq!(row("n"), (-2i64).to_le_bytes());
    // Writes of another process are visible while both have the file open.
    spin.execute(
        "UPDATE spin_key_value SET value = x'6869' WHERE key = 'a'",
        [],
    )
    .unwrap();
    assert_eq!(app.ok("/probe/get?key=a").await, "hi");
}

#[tokio::test]
async fn a_file_that_another_process_has_open_can_be_used() {
    let state = tempfile::tempdir().unwrap();
    let spin = rusqlite::Connection::open(state.path().join("sqlite_key_value.db")).unwrap();
    spin.execute_batch(
        "CREATE TABLE spin_key_value (store TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,
           PRIMARY KEY (store, key));
         INSERT INTO spin_key_value VALUES ('default', 'theirs', x'6f6c64'), ('other', 'x', x'00');",
    )
    .unwrap();
    let mut reading = spin.prepare("SELECT key FROM spin_key_value").unwrap();
    let mut rows = reading.query([]).unwrap();
    rows.next().unwrap().unwrap();
    let app = Fixture::at(&manifest(""), state, |_| {});
    assert_eq!(app.ok("/probe/get?key=theirs").await, "old");
    assert_eq!(app.ok("/probe/keys").await, "theirs");
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_increments_return_distinct_numbers() {
    let app = Fixture::with(|options| options.limits.concurrent_requests_per_instance = 2);
    let increments = (0..200).map(|_| app.ok("/probe/increment?key=n&by=1"));
    let sums = futures_util::future::join_all(increments).await;
    let mut sums: Vec<u64> = sums.iter().map(|sum| sum.parse().unwrap()).collect();
    sums.sort_unstable();
    assert_eq!(sums, (1..=200).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn increments_of_two_hosts_return_distinct_numbers() {
    let one = Fixture::new();
    let two = one.second_host();
    let increments = (0..100).flat_map(|_| [&one, &two]);
    let increments = increments.map(|app| app.ok("/probe/increment?key=n&by=1"));
    let sums = futures_util::future::join_all(increments).await;
    let mut sums: Vec<u64> = sums.iter().map(|sum| sum.parse().unwrap()).collect();
    sums.sort_unstable();
    assert_eq!(sums, (1..=200).collect::<Vec<_>>());
}

#[tokio::test]
async fn incrementing_a_value_that_is_not_a_number_is_an_error() {
    let app = Fixture::new();
    app.ok("/probe/set?key=text&value=abc").await;
    let response = app
        .send(get("/probe/increment?key=text&by=1"))
        .await
        .unwrap();
    assert!(
        response.body().contains("not a number"),
        "{}",
        response.body()
    );
    app.ok(&format!("/probe/increment?key=max&by={}", i64::MAX))
        .await;
    let response = app
        .send(get("/probe/increment?key=max&by=1"))
        .await
        .unwrap();
    assert!(
        response.body().contains("out of range"),
        "{}",
        response.body()
    );
    assert_eq!(app.ok("/probe/get?key=text").await, "abc");
}

#[tokio::test]
async fn compare_and_swap_fails_after_a_change() {
    let app = Fixture::new();
    assert_eq!(
        app.ok("/probe/cas?key=new").await,
        "nothing, someone else's, mine"
    );
    assert_eq!(
        app.ok("/probe/cas?key=new").await,
        "mine, someone else's, mine"
    );
}

#[tokio::test]
async fn all_keys_are_listed() {
    let app = Fixture::new();
    app.ok("/probe/fill?keys=1500").await;
    let keys = app.ok("/probe/keys").await;
    let expected: Vec<_> = (0..1500).map(|n| format!("key-{n:04}")).collect();
    assert_eq!(keys.split(',').collect::<Vec<_>>(), expected);
    assert_eq!(app.ok("/probe02/keys").await.split(',').count(), 1500);
}

#[tokio::test]
async fn only_stores_in_the_manifest_can_be_opened() {
    let app = Fixture::new();
    let response = app.send(get("/probe/keys?store=forbidden")).await.unwrap();
    let body = response.body();
    assert!(body.contains("AccessDenied"), "{body}");
}
