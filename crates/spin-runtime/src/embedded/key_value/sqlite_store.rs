//! Key-value stores in a SQLite file, in the same table as Spin's, so that both share their data.
//!
//! A thread owns the connection. It runs all queued operations in one transaction, so that they
//! share the cost of a commit, and sends the results after the commit.

mod format;
mod operation;
mod statements;

use std::path::Path;

use anyhow::Context as _;
use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use self::{
    format::FormatError,
    operation::{Operation, Reply, SendResult},
    statements::take_read_lock,
};
use super::{
    file_lock::FileLock,
    store::{Cursor, KeyPage, Pending, Store, StoreError, Swap},
};
use crate::{embedded::result_size::ResultSize, limits::Limits, rate_limited_log::RateLimitedLog};

/// The most operations that share a transaction.
const MAX_BATCH: usize = 256;

/// SQLite's name for a database in memory.
const MEMORY: &str = ":memory:";

/// A SQLite file that contains key-value stores.
#[derive(Clone)]
pub(crate) struct StoreFile {
    jobs: mpsc::Sender<Job>,
}

/// A key-value store in a [`StoreFile`].
pub(crate) struct SqliteStore {
    /// The value of the column `store`.
    name: String,
    file: StoreFile,
}

/// An operation in the queue.
struct Job {
    /// The name of the store.
    store: String,
    operation: Operation,
}

impl StoreFile {
    /// Opens the file at `path` and starts its thread. The file and its folder are created if
    /// needed. Without a path, the stores are in memory. The thread stops when all clones of the
    /// handle and all stores have been dropped.
    ///
    /// # Errors
    /// Fails if the file cannot be opened, is damaged, or has a format that this host does not read.
    pub(crate) fn open(path: Option<&Path>, limits: &Limits) -> anyhow::Result<Self> {
        if let Some(folder) = path.and_then(Path::parent) {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot create the folder {}", folder.display()))?;
        }
        let path = path.unwrap_or(Path::new(MEMORY));
        let lock = FileLock::new(path, limits);
        let connection = connect(path, &lock)
            .map_err(|error| match error {
                FormatError::Sqlite(error) => lock.explain(error),
                error => error.into(),
            })
            .with_context(|| format!("cannot open the key-value store {}", path.display()))?;
        let (jobs, queue) = mpsc::channel(limits.pending_store_operations);
        std::thread::Builder::new()
            .name("key-value".into())
            .spawn({
                let failed = failure_log(path, limits);
                let max_result_bytes = limits.query_result_bytes;
                move || serve(connection, queue, &lock, &failed, max_result_bytes)
            })
            .context("cannot start the key-value thread")?;
        Ok(Self { jobs })
    }

    /// Returns the store with a name.
    pub(crate) fn store(&self, name: impl Into<String>) -> SqliteStore {
        SqliteStore {
            name: name.into(),
            file: self.clone(),
        }
    }
}

fn connect(path: &Path, lock: &FileLock) -> Result<Connection, FormatError> {
    let mut connection = Connection::open(path)?;
    lock.wait(&mut connection)?;
    format::check(&connection)?;
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS spin_key_value (
           store TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (store, key)
         )",
    )?;
    lock.acquired();
    // With write-ahead logging, readers do not wait for a writer. With `NORMAL`, a commit survives
    // a crash of this process, but a power failure may undo the last commits. If another process
    // has the file open, the mode may not change, which is not worth a long wait. Commits are then
    // slower and just as durable.
    lock.wait_briefly(&mut connection)?;
    match connection.pragma_update(None, "journal_mode", "wal") {
        Ok(()) => connection.pragma_update(None, "synchronous", "normal")?,
        Err(error) => {
            tracing::debug!(%error, "cannot change the journal mode of the key-value store")
        }
    }
    lock.wait(&mut connection)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// Creates the log for transactions that fail, each of which would write a line.
fn failure_log(path: &Path, limits: &Limits) -> RateLimitedLog {
    let file = path.display().to_string();
    RateLimitedLog::new(limits.log_lines_per_second, move |suppressed| {
        tracing::error!(file, suppressed, "key-value store transaction failed");
    })
}

/// Runs operations until all senders are dropped.
fn serve(
    mut connection: Connection,
    mut queue: mpsc::Receiver<Job>,
    lock: &FileLock,
    failed: &RateLimitedLog,
    max_result_bytes: usize,
) {
    let mut batch = Vec::with_capacity(MAX_BATCH);
    while queue.blocking_recv_many(&mut batch, MAX_BATCH) > 0 {
        match run_batch(&mut connection, &mut batch, max_result_bytes) {
            Ok(()) => lock.acquired(),
            Err(error) => {
                failed.log(|| tracing::error!(%error, "key-value store transaction failed"));
            }
        }
        batch.clear();
    }
}

/// Runs a batch in one transaction and sends the results after the commit.
///
/// # Errors
/// Fails if the transaction failed, after all operations have failed.
fn run_batch(
    connection: &mut Connection,
    batch: &mut Vec<Job>,
    max_result_bytes: usize,
) -> Result<(), StoreError> {
    // A batch of reads needs no write lock. A batch with writes takes the lock at the start,
    // because upgrading a read lock can fail without waiting for the busy timeout.
    let writes = batch.iter().any(|job| job.operation.writes());
    let behavior = if writes {
        TransactionBehavior::Immediate
    } else {
        TransactionBehavior::Deferred
    };
    let mut replies: Vec<SendResult> = Vec::with_capacity(batch.len());
    let committed = connection
        .transaction_with_behavior(behavior)
        .and_then(|mut transaction| {
            if !writes {
                // Otherwise each read would wait for the lock by itself.
                take_read_lock(&transaction)?;
            }
            for job in batch.drain(..) {
                replies.push(job.operation.apply(
                    &mut transaction,
                    &job.store,
                    ResultSize::new(max_result_bytes),
                ));
            }
            transaction.commit()
        });
    let committed = committed.map_err(StoreError::from);
    for send_result in replies {
        send_result(committed.clone());
    }
    // Operations remain in the batch if the transaction could not be started.
    if let Err(error) = &committed {
        for job in batch.drain(..) {
            job.operation.fail(error);
        }
    }
    committed
}

impl SqliteStore {
    fn send<T: Send + 'static>(&self, operation: impl FnOnce(Reply<T>) -> Operation) -> Pending<T> {
        let (reply, result) = oneshot::channel();
        let job = Job {
            store: self.name.clone(),
            operation: operation(reply),
        };
        let jobs = self.file.jobs.clone();
        Box::pin(async move {
            let stopped = || StoreError("the key-value store has stopped".into());
            jobs.send(job).await.map_err(|_| stopped())?;
            result.await.map_err(|_| stopped())?
        })
    }
}

impl Store for SqliteStore {
    fn get(&self, key: String) -> Pending<Option<Vec<u8>>> {
        self.send(|reply| Operation::Get(key, reply))
    }

    fn exists(&self, key: String) -> Pending<bool> {
        self.send(|reply| Operation::Exists(key, reply))
    }

    fn set(&self, pairs: Vec<(String, Vec<u8>)>) -> Pending<()> {
        self.send(|reply| Operation::Set(pairs, reply))
    }

    fn delete(&self, keys: Vec<String>) -> Pending<()> {
        self.send(|reply| Operation::Delete(keys, reply))
    }

    fn get_many(&self, keys: Vec<String>) -> Pending<Vec<(String, Option<Vec<u8>>)>> {
        self.send(|reply| Operation::GetMany(keys, reply))
    }

    fn keys(&self, cursor: Option<Cursor>) -> Pending<KeyPage> {
        self.send(|reply| Operation::Keys(cursor, reply))
    }

    fn increment(&self, key: String, delta: i64) -> Pending<i64> {
        self.send(|reply| Operation::Increment(key, delta, reply))
    }

    fn swap(&self, key: String, expected: Option<Vec<u8>>, value: Vec<u8>) -> Pending<Swap> {
        self.send(|reply| Operation::Swap {
            key,
            expected,
            value,
            reply,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, SqliteStore) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new/folder/kv.db");
        let file = StoreFile::open(Some(&file), &Limits::DEFAULT).unwrap();
        (folder, file.store("default"))
    }

    #[tokio::test]
    async fn a_failed_operation_does_not_affect_its_batch() {
        let (_folder, store) = store();
        let set = |key: &str, value: &[u8]| store.set(vec![(key.into(), value.into())]);
        let (text, increment, other) = tokio::join!(
            set("n", b"no number"),
            store.increment("n".into(), 1),
            set("other", b"kept"),
        );
        assert_eq!((text, other), (Ok(()), Ok(())));
        assert!(
            increment
                .unwrap_err()
                .0
                .contains("expected 8 bytes, found 9")
        );
        assert_eq!(store.get("other".into()).await, Ok(Some(b"kept".to_vec())));
    }

    #[tokio::test]
    async fn stores_of_a_file_are_separate() {
        let (_folder, store) = store();
        let other = store.file.store("other");
        store.set(vec![("a".into(), vec![1])]).await.unwrap();
        assert_eq!(other.get("a".into()).await, Ok(None));
        assert_eq!(other.keys(None).await, Ok(KeyPage::default()));
        assert_eq!(other.exists("a".into()).await, Ok(false));
    }

    #[tokio::test]
    async fn get_many_keeps_the_order_of_keys() {
        let (_folder, store) = store();
        let pairs = vec![("a".to_owned(), vec![1]), ("b".to_owned(), vec![2])];
        store.set(pairs).await.unwrap();
        let keys = ["b", "none", "a"].map(str::to_owned).to_vec();
        let values = store.get_many(keys).await.unwrap();
        let values: Vec<_> = values.into_iter().map(|(_, value)| value).collect();
        assert_eq!(values, [Some(vec![2]), None, Some(vec![1])]);
    }

    #[tokio::test]
    async fn swap_requires_the_expected_value() {
        let (_folder, store) = store();
        let swap = |expected: Option<&[u8]>, value: &[u8]| {
            store.swap("a".into(), expected.map(Into::into), value.into())
        };
        assert_eq!(swap(Some(b"1"), b"2").await, Ok(Swap::Changed));
        assert_eq!(swap(None, b"1").await, Ok(Swap::Done));
        assert_eq!(swap(None, b"2").await, Ok(Swap::Changed));
        assert_eq!(swap(Some(b"1"), b"2").await, Ok(Swap::Done));
        assert_eq!(store.get("a".into()).await, Ok(Some(b"2".to_vec())));
    }

    /// Limits with short times for a locked file.
    fn lock_limits() -> Limits {
        Limits {
            store_lock_timeout: std::time::Duration::from_millis(300),
            store_lock_warning: std::time::Duration::from_millis(100),
            ..Limits::DEFAULT
        }
    }

    #[test]
    fn reads_of_a_locked_file_wait_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kv.db");
        let limits = lock_limits();
        // Without write-ahead logging, as if another process had kept the mode from changing.
        let mut connection = Connection::open(&file).unwrap();
        connection
            .execute_batch("CREATE TABLE spin_key_value (store, key, value)")
            .unwrap();
        FileLock::new(&file, &limits).wait(&mut connection).unwrap();
        let other = Connection::open(&file).unwrap();
        other.execute_batch("BEGIN EXCLUSIVE").unwrap();
        let (mut batch, mut results) = (Vec::new(), Vec::new());
        for _ in 0..20 {
            let (reply, result) = oneshot::channel();
            batch.push(Job {
                store: "default".into(),
                operation: Operation::Get("a".into(), reply),
            });
            results.push(result);
        }
        let since = std::time::Instant::now();
        run_batch(&mut connection, &mut batch, usize::MAX).unwrap_err();
        assert!(since.elapsed() < limits.store_lock_timeout * 4);
        for result in results {
            let error = result.blocking_recv().unwrap().unwrap_err();
            assert!(error.0.contains("locked"), "{error}");
        }
    }

    #[test]
    fn opening_a_locked_file_names_the_cause() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kv.db");
        let other = Connection::open(&file).unwrap();
        other
            .execute_batch("CREATE TABLE t (x); BEGIN EXCLUSIVE")
            .unwrap();
        let since = std::time::Instant::now();
        let limits = lock_limits();
        let error = format!("{:#}", StoreFile::open(Some(&file), &limits).err().unwrap());
        assert!(
            error.contains("kv.db: another process has locked it"),
            "{error}"
        );
        // Statements do not each wait for the timeout.
        assert!(since.elapsed() < limits.store_lock_timeout * 2);
    }

    #[test]
    fn errors_name_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kv.db");
        std::fs::write(&file, "not a database, but longer than the header of one").unwrap();
        let error = format!(
            "{:#}",
            StoreFile::open(Some(&file), &Limits::DEFAULT)
                .err()
                .unwrap()
        );
        assert!(error.contains("kv.db"), "{error}");
    }
}
