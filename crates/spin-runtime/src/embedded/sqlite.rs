//! Key-value stores in a SQLite file, in the table that Spin uses, so that both read the same data.
//!
//! One thread owns the connection. It takes whatever has queued up and runs it in one transaction,
//! so that many callers share the price of one commit; a caller is answered after the commit.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use tokio::sync::{mpsc, oneshot};

use super::store::{Pending, Store, StoreError, Swap};

/// Operations that may wait for the thread; a caller beyond that waits to be let in.
const QUEUE: usize = 1024;
/// Operations that share one transaction.
const BATCH: usize = 256;
/// How long another process (`spin up`, `sqlite3`) may hold the file before an operation fails.
const BUSY: Duration = Duration::from_secs(5);

/// A SQLite file with any number of stores in it.
#[derive(Clone)]
pub struct Database {
    jobs: mpsc::Sender<Job>,
}

/// One store of a [`Database`].
pub struct SqliteStore {
    /// The value of the column `store`.
    name: String,
    database: Database,
}

/// An operation on its way to the thread and back.
struct Job {
    store: String,
    operation: Operation,
}

enum Operation {
    Get(String, Reply<Option<Vec<u8>>>),
    Exists(String, Reply<bool>),
    Set(Vec<(String, Vec<u8>)>, Reply<()>),
    Delete(Vec<String>, Reply<()>),
    GetMany(Vec<String>, Reply<Vec<(String, Option<Vec<u8>>)>>),
    Keys(Option<String>, usize, Reply<Vec<String>>),
    Increment(String, i64, Reply<i64>),
    Swap {
        key: String,
        expected: Option<Vec<u8>>,
        value: Vec<u8>,
        reply: Reply<Swap>,
    },
}

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;
/// Tells a caller its result, or that the transaction it was part of could not be committed.
type Answer = Box<dyn FnOnce(Result<(), StoreError>)>;

impl Database {
    /// Opens or creates the file at `path`, its folder included, and starts its thread, which ends
    /// when the last store and the `Database` are gone.
    ///
    /// # Errors
    /// When the folder or the file cannot be made or is no SQLite database.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot create the folder {}", folder.display()))?;
        }
        let connection = connect(path)
            .with_context(|| format!("cannot open the key-value store {}", path.display()))?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        std::thread::Builder::new()
            .name("key-value".into())
            .spawn(move || serve(connection, queue))
            .context("cannot start the key-value thread")?;
        Ok(Self { jobs })
    }

    /// The store of that name in this file.
    pub fn store(&self, name: impl Into<String>) -> SqliteStore {
        SqliteStore {
            name: name.into(),
            database: self.clone(),
        }
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    // Write-ahead logging lets a reader in while another process writes, and with `NORMAL` a commit
    // survives the end of this process in any way; a power cut may undo the last ones. Another
    // process that has the file open at this moment can keep the mode as it is, and then durability
    // is as strong with a slower commit.
    match connection.pragma_update(None, "journal_mode", "wal") {
        Ok(()) => connection.pragma_update(None, "synchronous", "normal")?,
        Err(error) => tracing::debug!(%error, "the key-value store keeps its journal mode"),
    }
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS spin_key_value (
           store TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (store, key)
         )",
    )?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// The thread's work: until every sender is gone.
fn serve(mut connection: Connection, mut queue: mpsc::Receiver<Job>) {
    let mut batch = Vec::with_capacity(BATCH);
    while queue.blocking_recv_many(&mut batch, BATCH) > 0 {
        run(&mut connection, &mut batch);
        batch.clear();
    }
}

/// Runs a batch in one transaction and answers everyone once it is committed.
fn run(connection: &mut Connection, batch: &mut Vec<Job>) {
    // A batch of reads takes no write lock. One with writes takes it at the start: a lock asked for
    // halfway could be refused at once, whatever the busy timeout.
    let writes = batch.iter().any(|job| job.operation.writes());
    let behavior = if writes {
        TransactionBehavior::Immediate
    } else {
        TransactionBehavior::Deferred
    };
    let mut answers: Vec<Answer> = Vec::with_capacity(batch.len());
    let outcome = connection
        .transaction_with_behavior(behavior)
        .and_then(|mut transaction| {
            for job in batch.drain(..) {
                answers.push(job.operation.apply(&mut transaction, &job.store));
            }
            transaction.commit()
        });
    let outcome = outcome.map_err(|error| {
        tracing::error!(%error, "key-value store");
        StoreError::from(error)
    });
    for answer in answers {
        answer(outcome.clone());
    }
    // What is left in the batch never had its transaction.
    if let Err(error) = outcome {
        for job in batch.drain(..) {
            job.operation.refuse(&error);
        }
    }
}

impl Operation {
    fn writes(&self) -> bool {
        !matches!(
            self,
            Self::Get(..) | Self::Exists(..) | Self::GetMany(..) | Self::Keys(..)
        )
    }

    /// Does the work within the batch's transaction; the result is told after the commit.
    fn apply(self, transaction: &mut rusqlite::Transaction<'_>, store: &str) -> Answer {
        fn later<T: 'static>(reply: Reply<T>, result: rusqlite::Result<T>) -> Answer {
            told(reply, result.map_err(StoreError::from))
        }
        /// A caller that is gone has given the operation up, which is no error.
        fn told<T: 'static>(reply: Reply<T>, result: Result<T, StoreError>) -> Answer {
            Box::new(move |committed| {
                let _ = reply.send(committed.and(result));
            })
        }
        match self {
            Self::Get(key, reply) => later(reply, get(transaction, store, &key)),
            Self::Exists(key, reply) => later(reply, exists(transaction, store, &key)),
            Self::Set(pairs, reply) => later(
                reply,
                all_or_nothing(transaction, |inner| {
                    pairs
                        .iter()
                        .try_for_each(|(key, value)| set(inner, store, key, value))
                }),
            ),
            Self::Delete(keys, reply) => later(
                reply,
                all_or_nothing(transaction, |inner| {
                    keys.iter().try_for_each(|key| delete(inner, store, key))
                }),
            ),
            Self::GetMany(keys, reply) => {
                let pairs = keys.into_iter().map(|key| {
                    let value = get(transaction, store, &key)?;
                    Ok((key, value))
                });
                let result = pairs.collect();
                later(reply, result)
            }
            Self::Keys(after, limit, reply) => {
                later(reply, keys(transaction, store, after.as_deref(), limit))
            }
            Self::Increment(key, delta, reply) => {
                told(reply, increment(transaction, store, &key, delta))
            }
            Self::Swap {
                key,
                expected,
                value,
                reply,
            } => later(
                reply,
                swap(transaction, store, &key, expected.as_deref(), &value),
            ),
        }
    }

    fn refuse(self, error: &StoreError) {
        fn tell<T>(reply: Reply<T>, error: &StoreError) {
            let _ = reply.send(Err(error.clone()));
        }
        match self {
            Self::Get(_, reply) => tell(reply, error),
            Self::Exists(_, reply) => tell(reply, error),
            Self::Set(_, reply) | Self::Delete(_, reply) => tell(reply, error),
            Self::GetMany(_, reply) => tell(reply, error),
            Self::Keys(_, _, reply) => tell(reply, error),
            Self::Increment(_, _, reply) => tell(reply, error),
            Self::Swap { reply, .. } => tell(reply, error),
        }
    }
}

/// Runs several statements of one operation so that a failure among them undoes the others,
/// and only them: the rest of the batch belongs to other callers.
fn all_or_nothing(
    transaction: &mut rusqlite::Transaction<'_>,
    work: impl FnOnce(&Connection) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let savepoint = transaction.savepoint()?;
    work(&savepoint)?;
    savepoint.commit()
}

fn get(connection: &Connection, store: &str, key: &str) -> rusqlite::Result<Option<Vec<u8>>> {
    connection
        .prepare_cached("SELECT value FROM spin_key_value WHERE store = ?1 AND key = ?2")?
        .query_row(params![store, key], |row| row.get(0))
        .optional()
}

fn exists(connection: &Connection, store: &str, key: &str) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM spin_key_value WHERE store = ?1 AND key = ?2")?
        .exists(params![store, key])
}

fn set(connection: &Connection, store: &str, key: &str, value: &[u8]) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO spin_key_value (store, key, value) VALUES (?1, ?2, ?3)
             ON CONFLICT (store, key) DO UPDATE SET value = excluded.value",
        )?
        .execute(params![store, key, value])
        .map(drop)
}

fn delete(connection: &Connection, store: &str, key: &str) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM spin_key_value WHERE store = ?1 AND key = ?2")?
        .execute(params![store, key])
        .map(drop)
}

fn keys(
    connection: &Connection,
    store: &str,
    after: Option<&str>,
    limit: usize,
) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare_cached(
        "SELECT key FROM spin_key_value WHERE store = ?1 AND (?2 IS NULL OR key > ?2)
         ORDER BY key LIMIT ?3",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    statement
        .query_map(params![store, after, limit], |row| row.get(0))?
        .collect()
}

fn increment(
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
                    "the value of {key:?} is not a number: {} bytes, not 8",
                    bytes.len()
                ))
            })?,
    };
    let sum = number
        .checked_add(delta)
        .ok_or_else(|| StoreError(format!("{key:?}: {number} + {delta} is out of range")))?;
    set(connection, store, key, &sum.to_le_bytes())?;
    Ok(sum)
}

fn swap(
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

impl SqliteStore {
    fn send<T: Send + 'static>(&self, operation: impl FnOnce(Reply<T>) -> Operation) -> Pending<T> {
        let (reply, result) = oneshot::channel();
        let job = Job {
            store: self.name.clone(),
            operation: operation(reply),
        };
        let jobs = self.database.jobs.clone();
        Box::pin(async move {
            let gone = || StoreError("the key-value store has stopped".into());
            jobs.send(job).await.map_err(|_| gone())?;
            result.await.map_err(|_| gone())?
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

    fn keys(&self, after: Option<String>, limit: usize) -> Pending<Vec<String>> {
        self.send(|reply| Operation::Keys(after, limit, reply))
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

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self(format!("SQLite: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, SqliteStore) {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("new/folder/kv.db")).unwrap();
        (folder, database.store("default"))
    }

    #[tokio::test]
    async fn an_operation_that_fails_leaves_the_others_of_its_batch_alone() {
        let (_folder, store) = store();
        let set = |key: &str, value: &[u8]| store.set(vec![(key.into(), value.into())]);
        let (text, increment, other) = tokio::join!(
            set("n", b"no number"),
            store.increment("n".into(), 1),
            set("other", b"kept"),
        );
        assert_eq!((text, other), (Ok(()), Ok(())));
        assert!(increment.unwrap_err().0.contains("9 bytes, not 8"));
        assert_eq!(store.get("other".into()).await, Ok(Some(b"kept".to_vec())));
    }

    #[tokio::test]
    async fn stores_of_one_file_do_not_see_each_other() {
        let (_folder, store) = store();
        let other = store.database.store("other");
        store.set(vec![("a".into(), vec![1])]).await.unwrap();
        assert_eq!(other.get("a".into()).await, Ok(None));
        assert_eq!(other.keys(None, 10).await, Ok(vec![]));
        assert_eq!(other.exists("a".into()).await, Ok(false));
    }

    #[tokio::test]
    async fn values_come_in_the_order_they_are_asked_for() {
        let (_folder, store) = store();
        let pairs = vec![("a".to_owned(), vec![1]), ("b".to_owned(), vec![2])];
        store.set(pairs).await.unwrap();
        let keys = ["b", "none", "a"].map(str::to_owned).to_vec();
        let values = store.get_many(keys).await.unwrap();
        let values: Vec<_> = values.into_iter().map(|(_, value)| value).collect();
        assert_eq!(values, [Some(vec![2]), None, Some(vec![1])]);
    }

    #[tokio::test]
    async fn a_swap_expects_what_it_says() {
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

    #[test]
    fn a_file_that_is_no_database_is_an_error_naming_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kv.db");
        std::fs::write(
            &file,
            "certainly no database, and long enough to be looked at",
        )
        .unwrap();
        let error = format!("{:#}", Database::open(&file).err().unwrap());
        assert!(error.contains("kv.db"), "{error}");
    }
}
