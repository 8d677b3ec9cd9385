//! The labels of stores and databases, and the runtime configuration of stores.

use spin_runtime::RuntimeConfig;

use tests::wasm;

use crate::fixture::{Fixture, load_error, load_error_with, manifest};

fn config(text: &str) -> RuntimeConfig {
    RuntimeConfig::parse(text, "/config/runtime-config.toml").unwrap()
}

#[tokio::test]
async fn unknown_labels_are_errors_at_the_start() {
    let probe = wasm("probe");
    let stores = format!("source = {probe:?}\nkey_value_stores = [\"default\", \"defalt\"]");
    let error = load_error(&stores);
    assert_eq!(
        error,
        "component probe: unknown key-value store \"defalt\" in key_value_stores (did you mean \
         `default`?); known: default; define [key_value_store.defalt] in a runtime configuration, \
         and pass it with --runtime-config-file"
    );
    let databases = manifest("sqlite_databases = [\"orders\"]");
    let error = load_error_with(&databases, |options| {
        options.runtime_config = config("sqlite_database.other = { type = \"spin\" }");
    });
    assert!(
        error.contains(
            "unknown SQLite database \"orders\" in sqlite_databases; known: default, other"
        ),
        "{error}"
    );
}

#[tokio::test]
async fn stores_may_share_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kv.db");
    let text = format!(
        "key_value_store.one = {{ type = \"spin\", path = {file:?} }}\n\
         key_value_store.two = {{ type = \"spin\", path = {file:?} }}\n\
         key_value_store.memory = {{ type = \"spin\" }}\n"
    );
    let probe = wasm("probe");
    let manifest = crate::fixture::parse(&format!(
        "source = {probe:?}\nkey_value_stores = [\"one\", \"two\", \"memory\"]"
    ));
    let app = Fixture::at(&manifest, tempfile::tempdir().unwrap(), |options| {
        options.runtime_config = config(&text);
    });
    for store in ["one", "two", "memory"] {
        app.ok(&format!("/probe/set?store={store}&key=a&value={store}"))
            .await;
    }
    for store in ["one", "two", "memory"] {
        assert_eq!(
            app.ok(&format!("/probe/get?store={store}&key=a")).await,
            store
        );
    }
    let spin = rusqlite::Connection::open(&file).unwrap();
    let value: Vec<u8> = spin
        .query_row(
            "SELECT value FROM spin_key_value WHERE store = 'two'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(value, b"two");
    // Nobody may open the default store.
    assert!(!app.state.path().join("sqlite_key_value.db").exists());
}

#[tokio::test]
async fn results_of_stores_are_limited() {
    let app = Fixture::with(|options| options.limits.query_result_bytes = 4000);
    let long = "x".repeat(3000);
    app.ok(&format!("/probe/set?key=a&value={long}")).await;
    assert_eq!(app.ok("/probe/get?key=a").await, long);
    let limited = "query result exceeds limit of 4000 bytes";
    let error = app
        .send(crate::fixture::get("/probe/get-many?keys=a,a"))
        .await
        .unwrap();
    assert!(error.body().contains(limited), "{error:?}");
    app.ok("/probe/fill?keys=500").await;
    let error = app
        .send(crate::fixture::get("/probe/list-keys"))
        .await
        .unwrap();
    assert!(error.body().contains(limited), "{error:?}");
    // The limit of a stream applies to each key.
    assert_eq!(app.ok("/probe/keys").await.split(',').count(), 501);
}

#[tokio::test]
async fn keys_are_listed_without_cursors() {
    let app = Fixture::new();
    app.ok("/probe/fill?keys=2").await;
    let keys = app.ok("/probe/list-keys").await;
    assert_eq!(keys, "key-0000,key-0001; next: None");
    let error = app
        .send(crate::fixture::get("/probe/list-keys?cursor=key-0000"))
        .await
        .unwrap();
    let body = error.body();
    assert!(body.contains("list_keys: cursor not supported"), "{body}");
}
