//! The runtime configuration: where stores and databases keep their data, and other sources of
//! variables. Spin's `runtime-config.toml`.

mod read;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

/// A runtime configuration. The default is that of an application without one.
///
/// `Debug` omits addresses of servers, which may contain passwords, and values of variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// `state_dir`, absolute.
    pub state_dir: Option<PathBuf>,
    /// `log_dir`, absolute. Empty for no log files.
    pub log_dir: Option<PathBuf>,
    /// `max_instance_memory`, in bytes.
    pub max_instance_memory: Option<usize>,
    /// `[key_value_store.LABEL]`, by label.
    pub key_value_stores: BTreeMap<String, KeyValueStore>,
    /// `[sqlite_database.LABEL]`, by label.
    pub sqlite_databases: BTreeMap<String, SqliteDatabase>,
    /// `[[variables_provider]]`, in the order of the file. Earlier ones take precedence.
    pub variable_providers: Vec<VariableProvider>,
    /// `outbound_redis.max_connections`: the connections to Redis that a component has open.
    pub redis_connections: Option<usize>,
    /// Entries that are valid but have no effect. They should be shown at startup.
    pub warnings: Vec<String>,
}

/// Where a key-value store keeps its data.
#[derive(Clone, PartialEq, Eq)]
pub enum KeyValueStore {
    /// `type = "spin"`: a SQLite file, or memory for `None`.
    Sqlite {
        /// The file, absolute.
        path: Option<PathBuf>,
    },
    /// `type = "redis"`: a Redis server.
    Redis {
        /// Its address, such as `redis://localhost:6379`.
        url: String,
    },
}

impl fmt::Debug for KeyValueStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite { path } => f.debug_struct("Sqlite").field("path", path).finish(),
            Self::Redis { .. } => f.debug_struct("Redis").finish_non_exhaustive(),
        }
    }
}

/// Where a SQLite database keeps its data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SqliteDatabase {
    /// The file, absolute. For `None`, each connection has a database of its own in memory.
    pub path: Option<PathBuf>,
    /// Whether statements may attach other files.
    pub allow_attach_file: bool,
}

/// A source of variables.
#[derive(Clone, PartialEq, Eq)]
pub enum VariableProvider {
    /// `type = "static"`: values by name.
    Static(BTreeMap<String, String>),
    /// `type = "env"`: environment variables.
    Environment {
        /// The part before `_NAME`.
        prefix: String,
        /// A file with further environment variables.
        dot_env: Option<PathBuf>,
    },
}

impl fmt::Debug for VariableProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Static(values) => f.debug_set().entries(values.keys()).finish(),
            Self::Environment { prefix, dot_env } => f
                .debug_struct("Environment")
                .field("prefix", prefix)
                .field("dot_env", dot_env)
                .finish(),
        }
    }
}

impl RuntimeConfig {
    /// Reads a file.
    ///
    /// The paths of key-value stores are relative to the folder of the file. All other paths are
    /// relative to the current folder. Spin has the same rules.
    ///
    /// # Errors
    /// Returns every problem of the file, one a line. What only Spin supports is a problem if the
    /// application may depend on it.
    pub fn load(path: impl AsRef<Path>) -> anyhow::Result<Self> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the runtime configuration {}", path.display()))?;
        Self::parse(&text, path)
    }

    /// Reads the text of a file as [`Self::load`] does. `path` is used in errors.
    ///
    /// # Errors
    /// Returns every problem of the text.
    pub fn parse(text: &str, path: impl AsRef<Path>) -> anyhow::Result<Self> {
        read::parse(text, path.as_ref())
    }

    /// Returns the configuration with stores and databases in memory and without folders, for
    /// checking an application without touching its data.
    pub fn in_memory(mut self) -> Self {
        self.state_dir = None;
        self.log_dir = None;
        for store in self.key_value_stores.values_mut() {
            if let KeyValueStore::Sqlite { path } = store {
                *path = None;
            }
        }
        for database in self.sqlite_databases.values_mut() {
            database.path = None;
        }
        self
    }
}
