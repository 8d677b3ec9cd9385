//! SQLite databases and the components that may open them.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use rusqlite::{
    hooks::{AuthAction, AuthContext, Authorization},
    limits::Limit,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::query::QueryError;
use crate::{limits::Limits, runtime_config::SqliteDatabase};

/// The PRAGMAs that change the whole process, or that name files of the host.
const DENIED_PRAGMAS: [&str; 5] = [
    "data_store_directory",
    "hard_heap_limit",
    "lock_proxy_file",
    "soft_heap_limit",
    "temp_store_directory",
];

/// A database that connections can be opened to.
pub(crate) struct Database {
    config: SqliteDatabase,
    limits: Limits,
}

impl Database {
    /// Describes a database. Its file is created by the first statement.
    pub(crate) fn new(config: SqliteDatabase, limits: &Limits) -> Self {
        Self {
            config,
            limits: *limits,
        }
    }

    /// Returns whether the database is in memory. Each connection then has a database of its own.
    pub(crate) fn is_in_memory(&self) -> bool {
        self.config.path.is_none()
    }

    /// Returns the most bytes of a result.
    pub(super) fn max_result_bytes(&self) -> usize {
        self.limits.query_result_bytes
    }

    /// Returns how long a statement may run after its connection is closed.
    pub(super) fn statement_timeout(&self) -> Duration {
        self.limits.request_timeout
    }

    /// Opens a connection. A database in memory is a new one for each connection, as in Spin.
    pub(super) fn connect(&self) -> Result<rusqlite::Connection, QueryError> {
        let mut connection = match &self.config.path {
            Some(path) => open_file(path)?,
            None => rusqlite::Connection::open_in_memory()?,
        };
        connection.busy_timeout(self.limits.store_lock_timeout)?;
        // SQLite then refuses to create a value that could not be returned.
        let max_bytes = i32::try_from(self.max_result_bytes()).unwrap_or(i32::MAX);
        connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, max_bytes)?;
        let allow_attach_file = self.config.allow_attach_file;
        connection.authorizer(Some(move |context: AuthContext<'_>| {
            authorize(context, allow_attach_file)
        }))?;
        Ok(connection)
    }

    /// Runs statements before the application starts.
    ///
    /// # Errors
    /// Fails if the database cannot be opened, or at the first statement that fails.
    pub(crate) fn run(&self, statements: &str) -> Result<(), QueryError> {
        Ok(self.connect()?.execute_batch(statements)?)
    }
}

fn open_file(path: &Path) -> Result<rusqlite::Connection, QueryError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| {
            QueryError(format!(
                "cannot create the folder {}: {error}",
                folder.display()
            ))
        })?;
    }
    Ok(rusqlite::Connection::open(path)?)
}

/// Keeps a guest from using other files of the host, and from changing the process. Databases in
/// memory and in temporary files may be attached.
fn authorize(context: AuthContext<'_>, allow_attach_file: bool) -> Authorization {
    let is_allowed = match context.action {
        AuthAction::Pragma { pragma_name, .. } => !DENIED_PRAGMAS
            .iter()
            .any(|denied| pragma_name.eq_ignore_ascii_case(denied)),
        AuthAction::Attach {
            filename: "" | ":memory:",
        } => true,
        // SQLite passes no file name if it is a parameter or another expression. rusqlite reports
        // that as an unknown action.
        AuthAction::Attach { .. } | AuthAction::Unknown { .. } => allow_attach_file,
        _ => true,
    };
    if is_allowed {
        Authorization::Allow
    } else {
        Authorization::Deny
    }
}

/// The databases that a component may open, by label.
pub(crate) struct Databases {
    by_label: BTreeMap<String, Arc<Database>>,
    /// One permit for each connection that may be open.
    permits: Arc<Semaphore>,
}

impl Databases {
    pub(crate) fn new(by_label: BTreeMap<String, Arc<Database>>, limits: &Limits) -> Self {
        Self {
            by_label,
            permits: Arc::new(Semaphore::new(limits.database_connections)),
        }
    }

    pub(super) fn get(&self, label: &str) -> Option<&Arc<Database>> {
        self.by_label.get(label)
    }

    /// Returns a permit for a connection, unless too many are open.
    pub(super) fn acquire(&self) -> Option<OwnedSemaphorePermit> {
        self.permits.clone().try_acquire_owned().ok()
    }
}
