//! Checks that a SQLite file has a format that this host reads.
//!
//! The format is Spin's, so that both can use a file: one table, and 0 as the file's `user_version`. A
//! version of this host with another format sets another `user_version`, which those before it refuse.

use rusqlite::{Connection, Error, ErrorCode};

/// The `user_version` of a file in the format of Spin and of this host.
const VERSION: i64 = 0;

/// The columns of the table, and whether they are part of its primary key.
const COLUMNS: [(&str, bool); 3] = [("store", true), ("key", true), ("value", false)];

/// A file that cannot be used as it is. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub(super) enum FormatError {
    #[error(
        "a newer version of socket-host has written it, in format {0}, and this version reads \
         format {VERSION}: use the newer version, or restore a backup from before the upgrade"
    )]
    Newer(i64),
    #[error(
        "another program has written it, because its table spin_key_value {0}: move the file away \
         to start with empty stores"
    )]
    Foreign(String),
    #[error(
        "it is not a SQLite database: restore a backup, or move the file away to start with empty \
         stores"
    )]
    NotADatabase,
    #[error(
        "it is damaged: restore a backup, save what can be read with `sqlite3 FILE .recover`, or move \
         the file away to start with empty stores"
    )]
    Damaged,
    #[error(transparent)]
    Sqlite(Error),
}

impl From<Error> for FormatError {
    fn from(error: Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => Self::NotADatabase,
            Some(ErrorCode::DatabaseCorrupt) => Self::Damaged,
            _ => Self::Sqlite(error),
        }
    }
}

/// Checks a file before anything is written to it. A file without the table is new.
pub(super) fn check(connection: &Connection) -> Result<(), FormatError> {
    let version = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version != VERSION {
        return Err(FormatError::Newer(version));
    }
    let kind = "SELECT type FROM sqlite_schema WHERE name = 'spin_key_value'";
    let kinds = connection
        .prepare(kind)?
        .query_map([], |row| row.get(0))?
        .collect::<Result<Vec<String>, _>>()?;
    match kinds.first().map(String::as_str) {
        None => Ok(()),
        Some("table") => check_columns(connection),
        Some(kind) => Err(FormatError::Foreign(format!("is a {kind}"))),
    }
}

/// Checks that the table has the columns, and that others need no value.
fn check_columns(connection: &Connection) -> Result<(), FormatError> {
    let mut found = [false; COLUMNS.len()];
    let mut statement = connection.prepare("PRAGMA table_info(spin_key_value)")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let name: String = row.get("name")?;
        let is_key = row.get::<_, i64>("pk")? > 0;
        let index = COLUMNS
            .iter()
            .position(|column| *column == (&*name, is_key));
        let needs_value =
            row.get("notnull")? && row.get::<_, Option<String>>("dflt_value")?.is_none();
        match index {
            Some(index) => found[index] = true,
            None if is_key || needs_value => {
                return Err(FormatError::Foreign(format!("has a column {name:?}")));
            }
            None => {}
        }
    }
    let columns = COLUMNS.iter().zip(found);
    match columns.into_iter().find(|(_, found)| !found) {
        Some(((name, is_key), _)) => {
            let kind = if *is_key { "key column" } else { "column" };
            Err(FormatError::Foreign(format!("lacks the {kind} {name:?}")))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_after(sql: &str) -> Result<(), String> {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(sql).unwrap();
        check(&connection).map_err(|error| error.to_string())
    }

    #[test]
    fn files_of_spin_and_new_files_are_accepted() {
        for sql in [
            "",
            "CREATE TABLE other (x)",
            // The statement of Spin.
            "CREATE TABLE IF NOT EXISTS spin_key_value (store TEXT NOT NULL, key TEXT NOT NULL, \
             value BLOB NOT NULL, PRIMARY KEY (store, key))",
            // A later version of Spin might add this.
            "CREATE TABLE spin_key_value (store, key, value, expires INTEGER, PRIMARY KEY (store, key))",
        ] {
            assert_eq!(check_after(sql), Ok(()), "{sql}");
        }
    }

    #[test]
    fn other_formats_are_refused() {
        for (sql, expected) in [
            ("PRAGMA user_version = 1", "newer version of socket-host"),
            ("CREATE VIEW spin_key_value AS SELECT 1", "is a view"),
            (
                "CREATE TABLE spin_key_value (store, key, value)",
                "lacks the key column \"store\"",
            ),
            (
                "CREATE TABLE spin_key_value (store, key, PRIMARY KEY (store, key))",
                "lacks the column \"value\"",
            ),
            (
                "CREATE TABLE spin_key_value (store, key, value, PRIMARY KEY (store))",
                "key",
            ),
            (
                "CREATE TABLE spin_key_value (store, key, value, owner TEXT NOT NULL, \
                 PRIMARY KEY (store, key))",
                "has a column \"owner\"",
            ),
        ] {
            let error = check_after(sql).unwrap_err();
            assert!(error.contains(expected), "{sql}: {error}");
        }
    }

    #[test]
    fn damaged_files_name_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kv.db");
        let connection = Connection::open(&file).unwrap();
        let table = "CREATE TABLE spin_key_value (store, key, value, PRIMARY KEY (store, key))";
        connection.execute_batch(table).unwrap();
        drop(connection);
        let intact = std::fs::read(&file).unwrap();
        let mut damaged = intact.clone();
        // After the header of the file, the first page contains the schema.
        damaged[100..].fill(0xff);
        for (contents, expected) in [
            (damaged, ".recover"),
            (vec![b'x'; 4096], "not a SQLite database"),
        ] {
            std::fs::write(&file, contents).unwrap();
            let error = check(&Connection::open(&file).unwrap()).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
