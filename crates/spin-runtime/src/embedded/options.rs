//! The options of the runtime.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use super::{output::LogRotation, simulation::Simulation, sqlite::SqliteStatement};
use crate::{
    limits::Limits,
    runtime_config::RuntimeConfig,
    websocket::{NoWebSockets, WebSockets},
};

/// The options of an [`Embedded`](super::Embedded) runtime.
#[derive(Clone)]
pub struct EmbeddedOptions {
    /// The folder of the default key-value store, the default SQLite database and the logs, such as
    /// `.spin`. It is created if it does not exist.
    pub state_dir: PathBuf,
    /// The folder of the log files. `None` for `logs` in the state folder. With an empty path, no
    /// log files are written.
    pub log_dir: Option<PathBuf>,
    /// The folder of downloaded components. `None` for the user's cache folder.
    pub cache_dir: Option<PathBuf>,
    /// Empty the log files before the first application starts. Otherwise they are appended to.
    pub truncate_logs: bool,
    /// When log files are rotated, and how many of their predecessors are kept.
    pub log_rotation: LogRotation,
    /// Environment variables for every component. They override those of the manifest.
    pub environment: BTreeMap<String, String>,
    /// Write the output of components to the log files only, and not to stderr.
    pub quiet: bool,
    /// The ids of the components whose output is also written to stderr, unless `quiet` is set.
    /// Empty for all components.
    pub follow: Vec<String>,
    /// Compile for fast execution and cache the result on disk. Otherwise compile as fast as
    /// possible.
    pub optimize: bool,
    /// Cache compiled code on disk, with `optimize`.
    pub cache: bool,
    /// Allocate instances from a pool, which is faster and reserves address space.
    pub pooling: bool,
    /// The limits of components.
    pub limits: Limits,
    /// The stores and databases besides the default ones. Of its folders, limits and variables
    /// nothing is used: they belong to the other options and to
    /// [`Variables`](crate::Variables).
    pub runtime_config: RuntimeConfig,
    /// Statements that run once, before the first application starts.
    pub sqlite_statements: Vec<SqliteStatement>,
    /// The WebSockets that components send frames to.
    pub websockets: Arc<dyn WebSockets>,
    /// What surrounds the components in a test. `None` for the real world.
    pub simulation: Option<Simulation>,
}

/// A folder of the options that cannot be used.
///
/// [`Embedded::replace`](super::Embedded::replace) adds it to its errors, so that a program can name
/// the option that its user has set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FolderError {
    /// [`EmbeddedOptions::state_dir`].
    #[error("cannot use the state folder")]
    State,
    /// [`EmbeddedOptions::log_dir`].
    #[error("cannot use the log folder")]
    Log,
}

impl EmbeddedOptions {
    /// Returns the default options with a state folder.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            log_dir: None,
            cache_dir: None,
            truncate_logs: false,
            log_rotation: LogRotation::DEFAULT,
            environment: BTreeMap::new(),
            quiet: false,
            follow: Vec::new(),
            optimize: true,
            cache: true,
            pooling: true,
            limits: Limits::DEFAULT,
            runtime_config: RuntimeConfig::default(),
            sqlite_statements: Vec::new(),
            websockets: Arc::new(NoWebSockets),
            simulation: None,
        }
    }
}
