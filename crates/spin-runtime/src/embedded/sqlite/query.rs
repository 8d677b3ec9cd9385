//! Statements and their results, on the thread of a connection.

use rusqlite::{
    ErrorCode, Statement,
    types::{Value, ValueRef},
};
use tokio::sync::{mpsc, oneshot};

use crate::embedded::result_size::{ResultSize, ResultTooLarge};

/// A failed operation, with a message for the guest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct QueryError(pub(crate) String);

impl From<rusqlite::Error> for QueryError {
    fn from(error: rusqlite::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<ResultTooLarge> for QueryError {
    fn from(error: ResultTooLarge) -> Self {
        Self(error.to_string())
    }
}

/// The values of a row.
pub(super) type Row = Vec<Value>;

/// A complete result.
#[derive(Debug, Default)]
pub(super) struct QueryResult {
    pub(super) columns: Vec<String>,
    pub(super) rows: Vec<Row>,
}

/// The sending side of a result that is read while the statement runs.
pub(super) struct RowSender {
    /// Receives the names of the columns, or none if the statement is invalid.
    pub(super) columns: oneshot::Sender<Vec<String>>,
    pub(super) rows: mpsc::Sender<Row>,
}

/// Runs a statement and returns all of its rows.
pub(super) fn run(
    connection: &rusqlite::Connection,
    sql: &str,
    parameters: Vec<Value>,
    max_bytes: usize,
) -> Result<QueryResult, QueryError> {
    let mut statement = connection.prepare_cached(sql)?;
    let columns = column_names(&statement);
    let mut rows = Vec::new();
    let mut size = ResultSize::new(max_bytes);
    for_each_row(&mut statement, parameters, max_bytes, |row| {
        rows.push(read(row, &mut size)?);
        Ok(())
    })?;
    Ok(QueryResult { columns, rows })
}

/// Runs a statement and sends its rows. Waits while the receiver has not taken the previous ones.
pub(super) fn stream(
    connection: &rusqlite::Connection,
    sql: &str,
    parameters: Vec<Value>,
    max_row_bytes: usize,
    sender: RowSender,
) -> Result<(), QueryError> {
    let closed = || QueryError("the rows are no longer read".to_owned());
    let mut statement = connection.prepare_cached(sql)?;
    sender
        .columns
        .send(column_names(&statement))
        .map_err(|_| closed())?;
    for_each_row(&mut statement, parameters, max_row_bytes, |row| {
        let row = read(row, &mut ResultSize::new(max_row_bytes))?;
        sender.rows.blocking_send(row).map_err(|_| closed())
    })
}

fn column_names(statement: &Statement<'_>) -> Vec<String> {
    statement.column_names().map(str::to_owned).collect()
}

fn for_each_row(
    statement: &mut Statement<'_>,
    parameters: Vec<Value>,
    max_value_bytes: usize,
    mut use_row: impl FnMut(&rusqlite::Row<'_>) -> Result<(), QueryError>,
) -> Result<(), QueryError> {
    let explain = |error| explain(error, max_value_bytes);
    let parameters = rusqlite::params_from_iter(parameters);
    let mut rows = statement.query(parameters).map_err(explain)?;
    while let Some(row) = rows.next().map_err(explain)? {
        use_row(row)?;
    }
    Ok(())
}

/// Adds the limit to SQLite's error for a value that exceeds it.
fn explain(error: rusqlite::Error, max_value_bytes: usize) -> QueryError {
    if error.sqlite_error_code() == Some(ErrorCode::TooBig) {
        return QueryError(format!("{error}: exceeds limit of {max_value_bytes} bytes"));
    }
    error.into()
}

/// Reads a row. Counts the size of each value before it is copied.
fn read(row: &rusqlite::Row<'_>, size: &mut ResultSize) -> Result<Row, QueryError> {
    let columns = 0..row.as_ref().column_count();
    let values = columns.map(|column| {
        size.add(value_size(row.get_ref(column)?))?;
        Ok(row.get(column)?)
    });
    values.collect()
}

/// Returns the memory that a value takes in a row.
fn value_size(value: ValueRef<'_>) -> usize {
    size_of::<Value>()
        + match value {
            ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => 0,
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len(),
        }
}
