//! SQLite databases.

use std::time::{Duration, Instant};

use http::StatusCode;
use serde_json::{Value, json};
use spin_runtime::{EmbeddedOptions, RuntimeConfig};

use crate::fixture::{Fixture, encode, get, load_error_with, logged, manifest};

const DEFAULT: &str = "sqlite_databases = [\"default\"]";

/// Returns the response of `path` to a statement with parameters in JSON.
async fn run(app: &Fixture, path: &str, sql: &str, with: Value) -> Value {
    let (sql, with) = (encode(sql), encode(&with.to_string()));
    let response = app.ok(&format!("{path}?sql={sql}&with={with}")).await;
    serde_json::from_str(&response).unwrap_or(Value::String(response))
}

async fn sql(app: &Fixture, sql: &str) -> Value {
    run(app, "/probe/sql", sql, json!([])).await
}

/// Returns the error of a statement.
async fn sql_error(app: &Fixture, sql: &str) -> String {
    let path = format!("/probe/sql?sql={}", encode(sql));
    let response = app.send(get(&path)).await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY, "{response:?}");
    response.into_body()
}

#[tokio::test]
async fn values_of_every_type_are_stored() {
    let mut app = Fixture::new();
    sql(&app, "CREATE TABLE t (id INTEGER PRIMARY KEY, v)").await;
    let values = json!([null, i64::MIN, 1.5, "é", [0, 255]]);
    let insert = "INSERT INTO t (v) VALUES (?), (?), (?), (?), (?)";
    let inserted = run(&app, "/probe/sql", insert, values.clone()).await;
    let expected = json!({ "columns": [], "rows": [], "changes": 5, "id": 5 });
    assert_eq!(inserted, expected);
    app = app.restart();
    for path in ["/probe/sql", "/probe/sql-sync"] {
        let read = run(
            &app,
            path,
            "SELECT v AS value FROM t ORDER BY id",
            json!([]),
        )
        .await;
        assert_eq!(read["columns"], json!(["value"]), "{path}");
        let rows: Vec<_> = read["rows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| &row[0])
            .collect();
        assert_eq!(json!(rows), values, "{path}");
    }
    let path = "/probe/sql-sync";
    let inserted = run(&app, path, "INSERT INTO t (v) VALUES (?)", json!(["x"])).await;
    assert_eq!(
        (&inserted["changes"], &inserted["id"]),
        (&json!(1), &json!(6))
    );
}

#[tokio::test]
async fn the_file_is_that_of_spin() {
    let state = tempfile::tempdir().unwrap();
    let spin = rusqlite::Connection::open(state.path().join("sqlite_db.db")).unwrap();
    spin.execute_batch("CREATE TABLE t (v); INSERT INTO t VALUES ('theirs')")
        .unwrap();
    let app = Fixture::at(&manifest(DEFAULT), state, |_| {});
    assert_eq!(
        sql(&app, "SELECT v FROM t").await["rows"],
        json!([["theirs"]])
    );
    sql(&app, "INSERT INTO t VALUES ('ours')").await;
    let count = |sql: &str| spin.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count("SELECT count(*) FROM t WHERE v = 'ours'"), 1);
    // As Spin leaves it, so that a second file never holds a part of the data.
    let mode: String = spin
        .pragma_query_value(None, "journal_mode", |row| row.get(0))
        .unwrap();
    assert_eq!(mode, "delete");
}

#[tokio::test]
async fn errors_of_statements_reach_the_guest() {
    let app = Fixture::new();
    for (statement, error) in [
        ("SELEC 1", "syntax error"),
        ("SELECT * FROM missing", "no such table: missing"),
        ("SELECT ?", "Wrong number of parameters"),
        ("SELECT CAST(x'ff' AS TEXT)", "utf-8"),
        ("SELECT 1; SELECT 2", "Multiple statements"),
    ] {
        let found = sql_error(&app, statement).await;
        assert!(
            found.contains(error) && found.contains("Io("),
            "{statement}: {found}"
        );
    }
    assert_eq!(sql(&app, "SELECT 1").await["rows"], json!([[1]]));
}

#[tokio::test]
async fn connections_have_transactions_of_their_own() {
    let app = Fixture::new();
    sql(&app, "CREATE TABLE t (v)").await;
    let path = format!(
        "/probe/sql?sql={}&then={}",
        encode("BEGIN"),
        encode("INSERT INTO t VALUES (1)")
    );
    app.ok(&path).await;
    // The connection was closed without a commit.
    assert_eq!(
        sql(&app, "SELECT count(*) FROM t").await["rows"],
        json!([[0]])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_writers_wait_for_each_other() {
    let app = Fixture::new();
    sql(&app, "CREATE TABLE t (v)").await;
    let inserts = (0..50).map(|_| sql(&app, "INSERT INTO t VALUES (1)"));
    futures_util::future::join_all(inserts).await;
    assert_eq!(
        sql(&app, "SELECT count(*) FROM t").await["rows"],
        json!([[50]])
    );
}

/// Numbers without end.
const ENDLESS: &str =
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_streamed() {
    let app = Fixture::new();
    let path = format!("/probe/sql-take?rows=5000&sql={}", encode(ENDLESS));
    assert_eq!(app.ok(&path).await, "5000");
    // A row is returned before the next one is known.
    let slow = format!("{ENDLESS} WHERE i <= 3 OR i = -1");
    let path = format!("/probe/sql-take?rows=3&sql={}", encode(&slow));
    assert_eq!(app.ok(&path).await, "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_without_an_end_stops_after_its_request() {
    let app = Fixture::with(|options| {
        options.limits.request_timeout = Duration::from_secs(1);
        options.limits.database_connections = 1;
    });
    let endless = format!("SELECT count(*) FROM ({ENDLESS})");
    let path = format!("/probe/sql?sql={}", encode(&endless));
    app.send(get(&path)).await.unwrap_err();
    // The only connection is free again.
    let start = Instant::now();
    loop {
        let response = app.send(get("/probe/sql?sql=SELECT%201")).await.unwrap();
        if response.status() == StatusCode::OK {
            break;
        }
        assert!(
            response.body().contains("too many connections"),
            "{response:?}"
        );
        assert!(start.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn deep_statements_do_not_overflow_the_stack() {
    let app = Fixture::new();
    // SQLite's longest pattern, which is matched recursively.
    let zeros = "hex(zeroblob(24999))";
    let statement = format!("SELECT {zeros} LIKE replace({zeros}, '00', '%0')");
    assert_eq!(sql(&app, &statement).await["rows"], json!([[1]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_need_not_be_awaited() {
    let app = Fixture::new();
    sql(&app, "CREATE TABLE t (v)").await;
    let many = format!("INSERT INTO t {ENDLESS} LIMIT 100000");
    let path = format!("/probe/sql-forget?sql={}", encode(&many));
    assert_eq!(app.ok(&path).await, "started");
    let start = Instant::now();
    while sql(&app, "SELECT count(*) FROM t").await["rows"] != json!([[100_000]]) {
        assert!(start.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn results_are_limited() {
    let app = Fixture::with(|options| options.limits.query_result_bytes = 100_000);
    let error = sql_error(&app, "SELECT zeroblob(100000)").await;
    assert!(
        error.contains("query result exceeds limit of 100000 bytes"),
        "{error}"
    );
    // SQLite does not create a larger value, which would take memory.
    for value in ["zeroblob(1000000000)", "length(randomblob(1000000000))"] {
        let error = sql_error(&app, &format!("SELECT {value}")).await;
        assert!(
            error.contains("too big: exceeds limit of 100000 bytes"),
            "{value}: {error}"
        );
    }
    let error = sql_error(&app, "SELECT zeroblob(60000), zeroblob(60000)").await;
    assert!(error.contains("query result exceeds"), "{error}");
    // The limit of a stream applies to each row, and otherwise to the whole result.
    let rows = format!("{ENDLESS} LIMIT 10000");
    let path = format!("/probe/sql-take?rows=10000&sql={}", encode(&rows));
    assert_eq!(app.ok(&path).await, "10000");
    let path = format!("/probe/sql-sync?sql={}", encode(&rows));
    let response = app.send(get(&path)).await.unwrap();
    assert!(
        response.body().contains("query result exceeds"),
        "{response:?}"
    );
}

#[tokio::test]
async fn connections_are_limited() {
    let app = Fixture::with(|options| options.limits.database_connections = 3);
    let response = app.ok("/probe/sql-connections?number=4").await;
    assert_eq!(response, "3 Error::Io(\"too many connections opened\")");
}

#[test]
fn only_granted_databases_can_be_opened() {
    let log = logged(async {
        let app = Fixture::of(&manifest(DEFAULT));
        let path = "/probe/sql?sql=SELECT%201&database=other";
        for _ in 0..2 {
            let response = app.send(get(path)).await.unwrap();
            assert!(response.body().contains("AccessDenied"), "{response:?}");
        }
    });
    assert_eq!(log.matches("SQLite database denied").count(), 1, "{log}");
    assert!(log.contains("label=\"other\""), "{log}");
}

/// Returns whether an error is SQLite's for a statement that the host denies.
fn is_denied(error: &str) -> bool {
    error.contains("not authorized") || error.contains("authorization denied")
}

#[tokio::test]
async fn files_of_the_host_cannot_be_attached() {
    let app = Fixture::new();
    let file = app.state.path().join("other.db");
    let (folder, file) = (app.state.path().display(), file.display());
    for (statement, parameters) in [
        (format!("ATTACH '{file}' AS other"), json!([])),
        (
            format!("ATTACH '{folder}' || '/other.db' AS other"),
            json!([]),
        ),
        (format!("ATTACH 'file:{file}?mode=rwc' AS other"), json!([])),
        ("ATTACH ? AS other".into(), json!([file.to_string()])),
        (format!("VACUUM INTO '{file}'"), json!([])),
        ("VACUUM INTO ?".into(), json!([file.to_string()])),
    ] {
        // The attached file is only created by the second statement.
        let path = format!(
            "/probe/sql?sql={}&with={}&then={}",
            encode(&statement),
            encode(&parameters.to_string()),
            encode("CREATE TABLE other.t (v)")
        );
        let response = app.send(get(&path)).await.unwrap();
        assert!(is_denied(response.body()), "{statement}: {response:?}");
    }
    assert!(!app.state.path().join("other.db").exists());
    for allowed in ["ATTACH ':memory:' AS other", "ATTACH '' AS other", "VACUUM"] {
        sql(&app, allowed).await;
    }
}

#[tokio::test]
async fn statements_cannot_change_the_process() {
    let config = "[sqlite_database.default]\ntype = \"spin\"\nallow_attach_file = true\n";
    let app = Fixture::at(
        &manifest(DEFAULT),
        tempfile::tempdir().unwrap(),
        |options| {
            options.runtime_config = RuntimeConfig::parse(config, "runtime-config.toml").unwrap();
        },
    );
    for statement in [
        "PRAGMA hard_heap_limit = 1",
        "PRAGMA main.\"Soft_Heap_Limit\" = 1",
        "SELECT * FROM pragma_hard_heap_limit",
        "PRAGMA temp_store_directory = '/tmp'",
        "PRAGMA data_store_directory = '/tmp'",
        "SELECT load_extension('missing')",
    ] {
        let error = sql_error(&app, statement).await;
        assert!(is_denied(&error), "{statement}: {error}");
    }
    sql(&app, "PRAGMA user_version = 1").await;
}

#[tokio::test]
async fn earlier_interfaces_are_provided() {
    let app = Fixture::new();
    let query = async |path: &str, sql: &str| {
        let sql = sql.replace(' ', "%20");
        app.ok(&format!("/probe02{path}?{sql}")).await
    };
    query("/sql", "CREATE TABLE t (a, b)").await;
    query("/sql", "INSERT INTO t VALUES (1, ?)").await;
    let response = query("/sql", "SELECT a, b FROM t").await;
    assert_eq!(
        response,
        r#"["a", "b"] [[Value::Integer(1), Value::Text("two")]]"#
    );
    let response = query("/sql3", "INSERT INTO t VALUES (2.5, x'00')").await;
    assert_eq!(response, "[] changes 1 id 2");
}

fn statements(options: &mut EmbeddedOptions, statements: &[&str]) {
    let statements = statements
        .iter()
        .map(|statement| statement.parse().unwrap());
    options.sqlite_statements = statements.collect();
}

#[tokio::test]
async fn statements_run_before_the_application() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("init.sql");
    std::fs::write(
        &file,
        "INSERT INTO t VALUES (1);\nINSERT INTO t VALUES (2);\n",
    )
    .unwrap();
    let file = format!("@{}", file.display());
    let manifest = manifest(DEFAULT);
    let app = Fixture::at(&manifest, tempfile::tempdir().unwrap(), |options| {
        statements(options, &["CREATE TABLE t (v)", &file]);
    });
    // Only at the start.
    app.replace(&manifest, &[]).unwrap();
    assert_eq!(
        sql(&app, "SELECT v FROM t").await["rows"],
        json!([[1], [2]])
    );

    for (invalid, parts) in [
        (
            "CREATE TABLE",
            &["--sqlite \"CREATE TABLE\"", "incomplete input"][..],
        ),
        ("@missing.sql", &["--sqlite", "missing.sql"]),
        (
            &format!("{file}:other"),
            &[
                "unknown SQLite database \"other\" in --sqlite",
                "--runtime-config-file",
            ],
        ),
        (
            &file,
            &["init.sql: database \"default\"", "no such table: t"],
        ),
    ] {
        let error = load_error_with(&manifest, |options| statements(options, &[invalid]));
        for part in parts {
            assert!(error.contains(part), "{part} in {error}");
        }
    }
}

#[tokio::test]
async fn databases_are_configured_by_label() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/folder/app.db");
    let config = format!(
        "[sqlite_database.default]\ntype = \"spin\"\n\
         [sqlite_database.app]\ntype = \"spin\"\npath = {path:?}\n\
         [sqlite_database.open]\ntype = \"spin\"\nallow_attach_file = true\n"
    );
    let labels = "sqlite_databases = [\"default\", \"app\", \"open\"]";
    let app = Fixture::at(&manifest(labels), tempfile::tempdir().unwrap(), |options| {
        options.runtime_config = RuntimeConfig::parse(&config, "runtime-config.toml").unwrap();
    });
    let path_of =
        |label: &str, sql: &str| format!("/probe/sql?database={label}&sql={}", encode(sql));
    app.ok(&path_of("app", "CREATE TABLE t (v)")).await;
    assert!(path.exists());
    let attach = format!("ATTACH '{}' AS app", path.display());
    app.ok(&path_of("open", &attach)).await;
    // In memory, each connection has a database of its own.
    app.ok(&path_of("default", "CREATE TABLE t (v)")).await;
    app.ok(&path_of("default", "CREATE TABLE t (v)")).await;
    assert!(!app.state.path().join("sqlite_db.db").exists());
}

#[test]
fn statements_need_a_database_with_a_file() {
    let error = load_error_with(&manifest(DEFAULT), |options| {
        let config = "sqlite_database.default = { type = \"spin\" }";
        options.runtime_config = RuntimeConfig::parse(config, "runtime-config.toml").unwrap();
        statements(options, &["CREATE TABLE t (v)"]);
    });
    assert!(
        error.contains("--sqlite: database \"default\" is in memory")
            && error.contains("set path in [sqlite_database.default]"),
        "{error}"
    );
}
