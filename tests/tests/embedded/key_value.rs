//! Key-value stores.

use http::StatusCode;

use crate::fixture::{Fixture, get, manifest};

#[tokio::test]
async fn keys_and_values_are_kept() {
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

    app = app.again();
    assert_eq!(app.ok("/probe/get?key=a").await, "3");
    assert_eq!(app.ok("/probe/keys").await, "a,n");
    assert_eq!(app.ok("/probe/increment?key=n&by=2").await, "42");
}

#[tokio::test]
async fn the_file_is_spins() {
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
    // What another process writes is seen, also while both have the file open.
    spin.execute(
        "UPDATE spin_key_value SET value = x'6869' WHERE key = 'a'",
        [],
    )
    .unwrap();
    assert_eq!(app.ok("/probe/get?key=a").await, "hi");
}

#[tokio::test]
async fn a_file_that_another_process_made_and_reads_is_used_as_it_is() {
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
async fn increments_at_once_never_share_a_number() {
    let app = Fixture::with(|options| options.limits.concurrent_requests_per_instance = 2);
    let increments = (0..200).map(|_| app.ok("/probe/increment?key=n&by=1"));
    let sums = futures_util::future::join_all(increments).await;
    let mut sums: Vec<u64> = sums.iter().map(|sum| sum.parse().unwrap()).collect();
    sums.sort_unstable();
    assert_eq!(sums, (1..=200).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_on_one_file_never_share_a_number_either() {
    let one = Fixture::new();
    let two = one.beside();
    let increments = (0..100).flat_map(|_| [&one, &two]);
    let increments = increments.map(|app| app.ok("/probe/increment?key=n&by=1"));
    let sums = futures_util::future::join_all(increments).await;
    let mut sums: Vec<u64> = sums.iter().map(|sum| sum.parse().unwrap()).collect();
    sums.sort_unstable();
    assert_eq!(sums, (1..=200).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_is_no_number_is_not_incremented() {
    let app = Fixture::new();
    app.ok("/probe/set?key=text&value=abc").await;
    let answer = app
        .answer(get("/probe/increment?key=text&by=1"))
        .await
        .unwrap();
    assert!(answer.body().contains("not a number"), "{}", answer.body());
    app.ok(&format!("/probe/increment?key=most&by={}", i64::MAX))
        .await;
    let answer = app
        .answer(get("/probe/increment?key=most&by=1"))
        .await
        .unwrap();
    assert!(answer.body().contains("out of range"), "{}", answer.body());
    assert_eq!(app.ok("/probe/get?key=text").await, "abc");
}

#[tokio::test]
async fn a_swap_happens_only_if_nothing_changed() {
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
async fn a_listing_has_all_keys() {
    let app = Fixture::new();
    app.ok("/probe/fill?keys=1500").await;
    let keys = app.ok("/probe/keys").await;
    let expected: Vec<_> = (0..1500).map(|n| format!("key-{n:04}")).collect();
    assert_eq!(keys.split(',').collect::<Vec<_>>(), expected);
    assert_eq!(app.ok("/probe02/keys").await.split(',').count(), 1500);
}

#[tokio::test]
async fn stores_open_by_the_manifests_labels_only() {
    let app = Fixture::new();
    for (store, error) in [
        ("forbidden", "AccessDenied"),
        ("unconfigured", "NoSuchStore"),
    ] {
        let answer = app
            .answer(get(&format!("/probe/keys?store={store}")))
            .await
            .unwrap();
        assert!(answer.body().contains(error), "{store}: {}", answer.body());
    }
}
