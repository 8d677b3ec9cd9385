//! A connection to a SQLite database, with a thread that runs its operations.

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use rusqlite::types::Value;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::{
    database::Database,
    query::{self, QueryError, QueryResult, Row, RowSender},
};
use crate::embedded::simulation;

/// The operations of a connection that may wait for its thread. Further ones wait in the guest.
const MAX_PENDING: usize = 16;
/// The rows of a stream that may wait for the guest, as in Spin.
pub(super) const MAX_ROWS: usize = 4;
/// How many instructions of SQLite's virtual machine run between two looks at the clock.
const CLOCK_INTERVAL: i32 = 10_000;
/// The stack of a connection's thread. Only the pages that are used take memory.
///
/// SQLite recurses over patterns, views and triggers. The most that its own limits admit, which a
/// guest can reach, overflows a stack of 2 MiB, and an overflow ends the process.
const STACK_BYTES: usize = 8 * 1024 * 1024;

/// A connection that a guest has opened. Its operations run one after another.
///
/// After the connection is dropped, its operations still run to their end, as a guest need not
/// wait for a write. Endless ones are stopped.
pub struct Connection {
    jobs: mpsc::Sender<Job>,
    closed: Closed,
    /// Callers block, so that no time passes in a simulation.
    blocks: bool,
}

/// When a connection was dropped.
type Closed = Arc<OnceLock<Instant>>;

enum Job {
    Query(String, Vec<Value>, Reply<QueryResult>),
    Stream(String, Vec<Value>, RowSender, Reply<()>),
    Changes(Reply<u64>),
    LastInsertRowid(Reply<i64>),
}

type Reply<T> = oneshot::Sender<Result<T, QueryError>>;

/// The receiving side of a result that is read while the statement runs.
pub(super) struct RowStream {
    pub(super) columns: Vec<String>,
    pub(super) rows: mpsc::Receiver<Row>,
    pub(super) outcome: Outcome,
}

impl RowStream {
    /// Creates the stream of a result that is complete.
    fn complete(result: Result<QueryResult, QueryError>) -> Self {
        let (QueryResult { columns, rows }, outcome) = match result {
            Ok(result) => (result, Ok(())),
            Err(error) => (QueryResult::default(), Err(error)),
        };
        let (sender, received) = mpsc::channel(rows.len().max(1));
        for row in rows {
            // There is room for each.
            let _ = sender.try_send(row);
        }
        let (reply, receiver) = oneshot::channel();
        let _ = reply.send(outcome);
        Self {
            columns,
            rows: received,
            outcome: Outcome(receiver),
        }
    }
}

/// The result of a statement whose rows are streamed.
pub(super) struct Outcome(oneshot::Receiver<Result<(), QueryError>>);

impl Outcome {
    /// Waits until the statement has ended.
    pub(super) async fn wait(self) -> Result<(), QueryError> {
        self.0.await.map_err(|_| stopped())?
    }
}

impl Connection {
    /// Starts the thread of a connection. It opens the database for the first operation, and holds
    /// `permit` until it ends. With `blocks`, operations block their callers.
    pub(super) fn start(
        database: Arc<Database>,
        permit: OwnedSemaphorePermit,
        blocks: bool,
    ) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel(MAX_PENDING);
        let closed = Closed::default();
        std::thread::Builder::new()
            .name("sqlite".into())
            .stack_size(STACK_BYTES)
            .spawn({
                let closed = closed.clone();
                move || {
                    serve(&database, queue, &closed);
                    drop(permit);
                }
            })?;
        Ok(Self {
            jobs,
            closed,
            blocks,
        })
    }

    /// Runs a statement and returns all of its rows.
    pub(super) async fn query(
        &self,
        sql: String,
        parameters: Vec<Value>,
    ) -> Result<QueryResult, QueryError> {
        self.send(|reply| Job::Query(sql, parameters, reply)).await
    }

    /// Starts a statement. An invalid statement is an error of the stream, which then has no
    /// columns, as in Spin.
    pub(super) async fn stream(
        &self,
        sql: String,
        parameters: Vec<Value>,
    ) -> Result<RowStream, QueryError> {
        if self.blocks {
            let result = self.query(sql, parameters).await;
            return Ok(RowStream::complete(result));
        }
        let (columns, names) = oneshot::channel();
        let (rows, received) = mpsc::channel(MAX_ROWS);
        let (reply, outcome) = oneshot::channel();
        let sender = RowSender { columns, rows };
        let job = Job::Stream(sql, parameters, sender, reply);
        self.jobs.send(job).await.map_err(|_| stopped())?;
        Ok(RowStream {
            columns: names.await.unwrap_or_default(),
            rows: received,
            outcome: Outcome(outcome),
        })
    }

    /// Returns the number of rows that the last statement changed.
    pub(super) async fn changes(&self) -> Result<u64, QueryError> {
        self.send(Job::Changes).await
    }

    /// Returns the id of the row that was inserted last.
    pub(super) async fn last_insert_rowid(&self) -> Result<i64, QueryError> {
        self.send(Job::LastInsertRowid).await
    }

    async fn send<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Result<T, QueryError> {
        let (reply, result) = oneshot::channel();
        self.jobs.send(job(reply)).await.map_err(|_| stopped())?;
        if self.blocks {
            return simulation::block_on(result).map_err(|_| stopped())?;
        }
        result.await.map_err(|_| stopped())?
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _ = self.closed.set(Instant::now());
    }
}

fn stopped() -> QueryError {
    QueryError("the database connection has stopped".to_owned())
}

/// Runs operations until the connection is dropped.
fn serve(database: &Database, mut queue: mpsc::Receiver<Job>, closed: &Closed) {
    let mut connection = None;
    while let Some(job) = queue.blocking_recv() {
        let open = match connection.take() {
            Some(open) => Ok(open),
            None => connect(database, closed),
        };
        match open {
            Ok(open) => {
                job.run(&open, database.max_result_bytes());
                connection = Some(open);
            }
            // The next operation tries again.
            Err(error) => job.fail(error),
        }
    }
}

fn connect(database: &Database, closed: &Closed) -> Result<rusqlite::Connection, QueryError> {
    let mut connection = database.connect()?;
    let (closed, limit) = (closed.clone(), database.statement_timeout());
    connection.progress_handler(
        CLOCK_INTERVAL,
        Some(move || closed.get().is_some_and(|since| since.elapsed() > limit)),
    )?;
    Ok(connection)
}

impl Job {
    /// Runs the operation. Its result is lost if the guest no longer waits for it.
    fn run(self, connection: &rusqlite::Connection, max_bytes: usize) {
        match self {
            Self::Query(sql, parameters, reply) => {
                let _ = reply.send(query::run(connection, &sql, parameters, max_bytes));
            }
            Self::Stream(sql, parameters, sender, reply) => {
                let outcome = query::stream(connection, &sql, parameters, max_bytes, sender);
                let _ = reply.send(outcome);
            }
            Self::Changes(reply) => {
                let _ = reply.send(Ok(connection.changes()));
            }
            Self::LastInsertRowid(reply) => {
                let _ = reply.send(Ok(connection.last_insert_rowid()));
            }
        }
    }

    fn fail(self, error: QueryError) {
        match self {
            Self::Query(_, _, reply) => drop(reply.send(Err(error))),
            Self::Stream(_, _, _, reply) => drop(reply.send(Err(error))),
            Self::Changes(reply) => drop(reply.send(Err(error))),
            Self::LastInsertRowid(reply) => drop(reply.send(Err(error))),
        }
    }
}
