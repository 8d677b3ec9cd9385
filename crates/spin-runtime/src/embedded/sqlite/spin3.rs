//! `spin:sqlite@3`, which has each function twice: one waits, and one is asynchronous. The
//! asynchronous `execute-async` returns its rows as a stream.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use rusqlite::types::Value;
use tokio::sync::mpsc;
use wasmtime::{
    Result, StoreContextMut,
    component::{
        Accessor, Destination, FutureReader, Resource, StreamProducer, StreamReader, StreamResult,
        VecBuffer,
    },
};

use super::{
    Connection, OpenConnection, OpenError, Sqlite, View,
    connection::MAX_ROWS,
    query::{QueryError, Row},
    v3,
};

type Host<T> = Accessor<T, Sqlite>;
/// What `execute-async` returns: the names of the columns, the rows, and the result of the whole
/// statement.
type Execution = (
    Vec<String>,
    StreamReader<v3::RowResult>,
    FutureReader<Result<(), v3::Error>>,
);

fn connection<T>(host: &Host<T>, connection: &Resource<OpenConnection>) -> Result<Arc<Connection>> {
    host.with(|mut access| access.get().connection(connection))
}

impl From<OpenError> for v3::Error {
    fn from(error: OpenError) -> Self {
        error.into_message().map_or(Self::AccessDenied, Self::Io)
    }
}

impl From<QueryError> for v3::Error {
    fn from(error: QueryError) -> Self {
        Self::Io(error.0)
    }
}

impl From<v3::Value> for Value {
    fn from(value: v3::Value) -> Self {
        match value {
            v3::Value::Integer(number) => Self::Integer(number),
            v3::Value::Real(number) => Self::Real(number),
            v3::Value::Text(text) => Self::Text(text),
            v3::Value::Blob(bytes) => Self::Blob(bytes),
            v3::Value::Null => Self::Null,
        }
    }
}

impl From<Value> for v3::Value {
    fn from(value: Value) -> Self {
        match value {
            Value::Integer(number) => Self::Integer(number),
            Value::Real(number) => Self::Real(number),
            Value::Text(text) => Self::Text(text),
            Value::Blob(bytes) => Self::Blob(bytes),
            Value::Null => Self::Null,
        }
    }
}

fn to_row(row: Row) -> v3::RowResult {
    v3::RowResult {
        values: row.into_iter().map(Into::into).collect(),
    }
}

fn to_values(parameters: Vec<v3::Value>) -> Vec<Value> {
    parameters.into_iter().map(Into::into).collect()
}

impl v3::Host for View<'_> {}

impl v3::HostConnection for View<'_> {
    async fn open(
        &mut self,
        database: String,
    ) -> Result<Result<Resource<OpenConnection>, v3::Error>> {
        Ok(self.open(&database)?.map_err(Into::into))
    }

    async fn execute(
        &mut self,
        connection: Resource<OpenConnection>,
        statement: String,
        parameters: Vec<v3::Value>,
    ) -> Result<Result<v3::QueryResult, v3::Error>> {
        let connection = self.connection(&connection)?;
        let result = connection.query(statement, to_values(parameters)).await;
        Ok(result
            .map(|result| v3::QueryResult {
                columns: result.columns,
                rows: result.rows.into_iter().map(to_row).collect(),
            })
            .map_err(Into::into))
    }

    async fn last_insert_rowid(&mut self, connection: Resource<OpenConnection>) -> Result<i64> {
        let connection = self.connection(&connection)?;
        Ok(connection.last_insert_rowid().await?)
    }

    async fn changes(&mut self, connection: Resource<OpenConnection>) -> Result<u64> {
        let connection = self.connection(&connection)?;
        Ok(connection.changes().await?)
    }

    async fn drop(&mut self, connection: Resource<OpenConnection>) -> Result<()> {
        self.close(connection)
    }
}

impl<T: Send + 'static> v3::HostConnectionWithStore<T> for Sqlite {
    async fn open_async(
        host: &Host<T>,
        database: String,
    ) -> Result<Result<Resource<OpenConnection>, v3::Error>> {
        Ok(host
            .with(|mut access| access.get().open(&database))?
            .map_err(Into::into))
    }

    async fn execute_async(
        host: &Host<T>,
        resource: Resource<OpenConnection>,
        statement: String,
        parameters: Vec<v3::Value>,
    ) -> Result<Result<Execution, v3::Error>> {
        let connection = connection(host, &resource)?;
        let stream = match connection.stream(statement, to_values(parameters)).await {
            Ok(stream) => stream,
            Err(error) => return Ok(Err(error.into())),
        };
        let rows = Rows {
            rows: stream.rows,
            _connection: connection,
        };
        let outcome = stream.outcome;
        let outcome = async move {
            let outcome = outcome.wait().await;
            Ok::<_, wasmtime::Error>(outcome.map_err(Into::into))
        };
        host.with(|mut access| {
            let rows = StreamReader::new(&mut access, rows)?;
            let outcome = FutureReader::new(&mut access, outcome)?;
            Ok(Ok((stream.columns, rows, outcome)))
        })
    }

    async fn last_insert_rowid_async(
        host: &Host<T>,
        resource: Resource<OpenConnection>,
    ) -> Result<i64> {
        Ok(connection(host, &resource)?.last_insert_rowid().await?)
    }

    async fn changes_async(host: &Host<T>, resource: Resource<OpenConnection>) -> Result<u64> {
        Ok(connection(host, &resource)?.changes().await?)
    }
}

/// Produces the rows of a statement that is still running.
struct Rows {
    rows: mpsc::Receiver<Row>,
    /// Keeps the statement running if the guest closes the connection before it has read all rows.
    _connection: Arc<Connection>,
}

impl<D> StreamProducer<D> for Rows {
    type Item = v3::RowResult;
    type Buffer = VecBuffer<v3::RowResult>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: StoreContextMut<'a, D>,
        mut destination: Destination<'a, Self::Item, Self::Buffer>,
        finish: bool,
    ) -> Poll<Result<StreamResult>> {
        // A read of zero items asks whether the stream is ready.
        if destination.remaining(&mut store) == Some(0) {
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        let mut rows = Vec::new();
        match self.rows.poll_recv_many(cx, &mut rows, MAX_ROWS) {
            Poll::Ready(0) => Poll::Ready(Ok(StreamResult::Dropped)),
            Poll::Ready(_) => {
                let rows: Vec<_> = rows.into_iter().map(to_row).collect();
                destination.set_buffer(rows.into());
                Poll::Ready(Ok(StreamResult::Completed))
            }
            Poll::Pending if finish => Poll::Ready(Ok(StreamResult::Cancelled)),
            Poll::Pending => Poll::Pending,
        }
    }
}
