//! The statements of the operations.

use rusqlite::{Connection, OptionalExtension, params};

use crate::embedded::key_value::store::{Cursor, KeyPage, StoreError, Swap};

/// The number of keys that are read at a time.
const PAGE_SIZE: u16 = 512;

/// Takes the read lock of the file, which the transaction then holds.
pub(super) fn take_read_lock(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .prepare_cached("SELECT 1 FROM spin_key_value LIMIT 1")?
        .exists([])
        .map(drop)
}

pub(super) fn get(
    connection: &Connection,
    store: &str,
    key: &str,
) -> rusqlite::Result<Option<Vec<u8>>> {
    connection
        .prepare_cached("SELECT value FROM spin_key_value WHERE store = ?1 AND key = ?2")?
        .query_row(params![store, key], |row| row.get(0))
        .optional()
}

pub(super) fn exists(connection: &Connection, store: &str, key: &str) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM spin_key_value WHERE store = ?1 AND key = ?2")?
        .exists(params![store, key])
}

pub(super) fn set(
    connection: &Connection,
    store: &str,
    key: &str,
    value: &[u8],
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO spin_key_value (store, key, value) VALUES (?1, ?2, ?3)
             ON CONFLICT (store, key) DO UPDATE SET value = excluded.value",
        )?
        .execute(params![store, key, value])
        .map(drop)
}

pub(super) fn delete(connection: &Connection, store: &str, key: &str) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM spin_key_value WHERE store = ?1 AND key = ?2")?
        .execute(params![store, key])
        .map(drop)
}

/// Returns a page of keys. The cursor is the last key of the previous page.
pub(super) fn keys(
    connection: &Connection,
    store: &str,
    cursor: Option<Cursor>,
) -> rusqlite::Result<KeyPage> {
    let mut statement = connection.prepare_cached(
        "SELECT key FROM spin_key_value WHERE store = ?1 AND (?2 IS NULL OR key > ?2)
         ORDER BY key LIMIT ?3",
    )?;
    let after = cursor.map(|cursor| cursor.0);
    let keys = statement.query_map(params![store, after, PAGE_SIZE], |row| row.get(0))?;
    let keys: Vec<String> = keys.collect::<Result<_, _>>()?;
    let is_full = keys.len() == usize::from(PAGE_SIZE);
    let next = keys.last().filter(|_| is_full).cloned().map(Cursor);
    Ok(KeyPage { keys, next })
}

/// Adds to a number of 8 bytes in little-endian order, as in Spin.
pub(super) fn increment(
    connection: &Connection,
    store: &str,
    key: &str,
    delta: i64,
) -> Result<i64, StoreError> {
    let number = match get(connection, store, key)? {
        None => 0,
        Some(bytes) => <[u8; 8]>::try_from(bytes.as_slice())
            .map(i64::from_le_bytes)
            .map_err(|_| {
                StoreError(format!(
                    "the value of {key:?} is not a number: expected 8 bytes, found {}",
                    bytes.len()
                ))
            })?,
    };
    let sum = number.checked_add(delta).ok_or_else(|| {
        StoreError(format!(
            "the value of {key:?} would be out of range: {number} + {delta}"
        ))
    })?;
    set(connection, store, key, &sum.to_le_bytes())?;
    Ok(sum)
}

pub(super) fn swap(
    connection: &Connection,
    store: &str,
    key: &str,
    expected: Option<&[u8]>,
    value: &[u8],
) -> rusqlite::Result<Swap> {
    if get(connection, store, key)?.as_deref() != expected {
        return Ok(Swap::Changed);
    }
    set(connection, store, key, value)?;
    Ok(Swap::Done)
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self(format!("SQLite: {error}"))
    }
}
