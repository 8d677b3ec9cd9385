//! Statements and their results, on the thread of a connection.

use rusqlite::{Statement, types::Value};
use tokio::sync::{mpsc, oneshot};

/// A failed operation, with a message for the guest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct QueryError(pub(crate) String);

impl From<rusqlite::Error> for QueryError {
    fn from(error: rusqlite::Error) -> Self {
        Self(error.to_string())
    }
}

/// The values of a row.
pub(super) type Row = Vec<Value>;

/// A complete result.
#[derive(Debug)]
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
    let mut bytes = 0;
    for_each_row(&mut statement, parameters, |row| {
        bytes += size(&row);
        check_size(bytes, max_bytes)?;
        rows.push(row);
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
    for_each_row(&mut statement, parameters, |row| {
        check_size(size(&row), max_row_bytes)?;
        sender.rows.blocking_send(row).map_err(|_| closed())
    })
}

fn column_names(statement: &Statement<'_>) -> Vec<String> {
    statement.column_names().map(str::to_owned).collect()
}

fn for_each_row(
    statement: &mut Statement<'_>,
    parameters: Vec<Value>,
    mut use_row: impl FnMut(Row) -> Result<(), QueryError>,
) -> Result<(), QueryError> {
    let columns = statement.column_count();
    let mut rows = statement.query(rusqlite::params_from_iter(parameters))?;
    while let Some(row) = rows.next()? {
        let values = (0..columns).map(|column| row.get(column));
        use_row(values.collect::<Result<_, _>>()?)?;
    }
    Ok(())
}

fn check_size(bytes: usize, max_bytes: usize) -> Result<(), QueryError> {
    if bytes > max_bytes {
        return Err(QueryError(format!(
            "query result exceeds limit of {max_bytes} bytes"
        )));
    }
    Ok(())
}

/// Returns the memory that a row takes.
fn size(row: &Row) -> usize {
    let sizes = row.iter().map(|value| match value {
        Value::Null | Value::Integer(_) | Value::Real(_) => size_of::<Value>(),
        Value::Text(text) => size_of::<Value>() + text.len(),
        Value::Blob(bytes) => size_of::<Value>() + bytes.len(),
    });
    sizes.sum()
}
