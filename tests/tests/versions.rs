//! Stores and caches that another version, or another program, has written.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};
use rusqlite::Connection;
use tempfile::TempDir;
use tests::{Server, host_binary, probe};

/// Writes an application with a key-value store, whose file is at the returned path.
fn app_with_store() -> Result<(TempDir, PathBuf)> {
    let folder = probe("key_value_stores = [\"default\"]");
    fs::create_dir(folder.path().join(".spin"))?;
    let file = folder.path().join(".spin/sqlite_key_value.db");
    Ok((folder, file))
}

/// Returns the error of a host whose store is in a file with these contents.
fn error_after(sql: &str) -> Result<String> {
    let (folder, file) = app_with_store()?;
    Connection::open(&file)?.execute_batch(sql)?;
    let before = fs::read(&file)?;
    let error = Server::start_error(folder.path(), &[])?;
    ensure!(error.contains("sqlite_key_value.db"), "{error}");
    ensure!(error.contains("--state-dir"), "{error}");
    // What is refused is not changed.
    ensure!(fs::read(&file)? == before);
    Ok(error)
}

#[test]
fn a_store_of_a_newer_version_is_refused() -> Result<()> {
    let error = error_after("PRAGMA user_version = 3; CREATE TABLE new (x)")?;
    for part in [
        "a newer version of socket-host",
        "format 3",
        "format 0",
        "use the newer version",
    ] {
        ensure!(error.contains(part), "no {part:?} in {error}");
    }
    Ok(())
}

#[test]
fn a_table_of_another_program_is_refused() -> Result<()> {
    let error = error_after("CREATE TABLE spin_key_value (id INTEGER PRIMARY KEY, text)")?;
    for part in [
        "another program",
        "has a column \"id\"",
        "move the file away",
    ] {
        ensure!(error.contains(part), "no {part:?} in {error}");
    }
    Ok(())
}

#[test]
fn a_file_that_is_no_store_is_refused() -> Result<()> {
    let (folder, file) = app_with_store()?;
    fs::write(&file, "x".repeat(8192))?;
    let error = Server::start_error(folder.path(), &[])?;
    for part in [
        "sqlite_key_value.db",
        "not a SQLite database",
        "move the file away",
    ] {
        ensure!(error.contains(part), "no {part:?} in {error}");
    }
    Ok(())
}

#[tokio::test]
async fn a_store_of_spin_keeps_its_format() -> Result<()> {
    let (folder, file) = app_with_store()?;
    let connection = Connection::open(&file)?;
    // As Spin creates it.
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS spin_key_value (
           store TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (store, key)
         );
         INSERT INTO spin_key_value VALUES ('default', 'a', CAST('old' AS BLOB))",
    )?;
    let format = |connection: &Connection| {
        let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        let schema = "SELECT group_concat(sql) FROM sqlite_schema";
        let schema: String = connection.query_row(schema, [], |row| row.get(0))?;
        Ok::<_, anyhow::Error>((version, schema))
    };
    let before = format(&connection)?;
    let host = Server::start(folder.path(), &[])?;
    ensure!(host.get("/get?key=a").await?.1.contains("old"));
    ensure!(host.get("/set?key=a&value=new").await?.0 == 200);
    ensure!(format(&connection)? == before);
    let select = "SELECT value FROM spin_key_value WHERE store = 'default' AND key = 'a'";
    let value: Vec<u8> = connection.query_row(select, [], |row| row.get(0))?;
    ensure!(value == b"new");
    Ok(())
}

/// Returns the files in a folder and its folders.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(self::files(&path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

#[tokio::test]
async fn a_damaged_compilation_cache_is_not_used() -> Result<()> {
    let folder = probe("");
    let cache = TempDir::new()?;
    let start = || {
        let mut command = Command::new(host_binary());
        command.args(["up", "--from"]).arg(folder.path());
        command.env("XDG_CACHE_HOME", cache.path());
        Server::run(command, &[])
    };
    let host = start()?;
    ensure!(host.get("/headers").await?.0 == 200);
    drop(host);
    let cached = files(&cache.path().join("socket-host/wasm"))?;
    ensure!(!cached.is_empty());
    for file in &cached {
        let length = fs::metadata(file)?.len() as usize;
        fs::write(file, "garbage".repeat(length / 7 + 1))?;
    }
    let host = start()?;
    ensure!(host.get("/headers").await?.0 == 200);
    Ok(())
}
