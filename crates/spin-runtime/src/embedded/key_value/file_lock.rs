//! Waits for a SQLite file that another process has locked.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use rusqlite::Connection;

use crate::limits::Limits;

/// The longest pause between two attempts to get the lock.
const MAX_PAUSE: Duration = Duration::from_millis(50);

/// The lock of a SQLite file. Clones are for the same file.
#[derive(Clone)]
pub(super) struct FileLock {
    file: Arc<Path>,
    warning: Duration,
    timeout: Duration,
    /// Whether the log says that the file is locked.
    is_logged: Arc<AtomicBool>,
}

impl FileLock {
    pub(super) fn new(file: &Path, limits: &Limits) -> Self {
        Self {
            file: file.into(),
            warning: limits.store_lock_warning,
            timeout: limits.store_lock_timeout,
            is_logged: Arc::default(),
        }
    }

    /// Lets the statements of a connection wait for the lock until the timeout.
    pub(super) fn wait(&self, connection: &mut Connection) -> rusqlite::Result<()> {
        self.wait_up_to(self.timeout, connection)
    }

    /// Lets the statements of a connection wait for the lock, but not so long that it is logged.
    pub(super) fn wait_briefly(&self, connection: &mut Connection) -> rusqlite::Result<()> {
        self.wait_up_to(self.timeout.min(self.warning), connection)
    }

    fn wait_up_to(&self, timeout: Duration, connection: &mut Connection) -> rusqlite::Result<()> {
        let lock = self.clone();
        let mut since = Instant::now();
        connection.busy_handler(Some(move |attempts: i32| {
            if attempts == 0 {
                since = Instant::now();
            }
            let waited = since.elapsed();
            if waited >= timeout {
                return false;
            }
            if waited >= lock.warning {
                lock.log_locked();
            }
            let pause = Duration::from_millis(1 << attempts.clamp(0, 10)).min(MAX_PAUSE);
            std::thread::sleep(pause.min(timeout - waited));
            true
        }))
    }

    /// Logs that the file is locked, once until it is no longer locked.
    fn log_locked(&self) {
        if !self.is_logged.swap(true, Relaxed) {
            let file = self.file.display();
            tracing::warn!(%file, "key-value store is locked by another process");
        }
    }

    /// Records that a statement has got the lock.
    pub(super) fn acquired(&self) {
        if self.is_logged.swap(false, Relaxed) {
            let file = self.file.display();
            tracing::warn!(%file, "key-value store is no longer locked");
        }
    }

    /// Returns the error of a statement with a text that explains a lock.
    pub(super) fn explain(&self, error: rusqlite::Error) -> anyhow::Error {
        if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) {
            let timeout = self.timeout;
            anyhow::anyhow!("another process has locked it for more than {timeout:?}")
        } else {
            error.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file, a connection that has locked it, and a lock with short times.
    fn locked_file() -> (tempfile::TempDir, Connection, FileLock, Connection) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kv.db");
        let other = Connection::open(&file).unwrap();
        other
            .execute_batch("CREATE TABLE t (x); BEGIN EXCLUSIVE")
            .unwrap();
        let limits = Limits {
            store_lock_warning: Duration::from_millis(50),
            store_lock_timeout: Duration::from_millis(200),
            ..Limits::DEFAULT
        };
        let lock = FileLock::new(&file, &limits);
        let connection = Connection::open(&file).unwrap();
        (folder, other, lock, connection)
    }

    fn read(connection: &Connection) -> rusqlite::Result<i64> {
        connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0))
    }

    #[test]
    fn a_lock_is_logged_before_the_timeout() {
        let (_folder, other, lock, mut connection) = locked_file();
        lock.wait(&mut connection).unwrap();
        let since = Instant::now();
        let error = lock.explain(read(&connection).unwrap_err()).to_string();
        assert!(error.contains("another process has locked it"), "{error}");
        assert!(since.elapsed() >= lock.timeout);
        assert!(lock.is_logged.load(Relaxed));
        other.execute_batch("COMMIT").unwrap();
        assert_eq!(read(&connection), Ok(0));
        lock.acquired();
        assert!(!lock.is_logged.load(Relaxed));
    }

    #[test]
    fn a_short_wait_is_not_logged() {
        let (_folder, _other, lock, mut connection) = locked_file();
        lock.wait_briefly(&mut connection).unwrap();
        read(&connection).unwrap_err();
        assert!(!lock.is_logged.load(Relaxed));
    }

    #[test]
    fn a_statement_continues_when_the_lock_is_released() {
        let (_folder, other, lock, mut connection) = locked_file();
        lock.wait(&mut connection).unwrap();
        let release = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            other.execute_batch("COMMIT").unwrap();
        });
        assert_eq!(read(&connection), Ok(0));
        release.join().unwrap();
    }
}
