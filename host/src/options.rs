//! What a host is started with.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, bail};
use spin_runtime::{EmbeddedOptions, RuntimeConfig, SqliteStatement};

use crate::config::{AppConfig, Limits, UpstreamUrl};

/// The options of a [`Host`](crate::Host). The defaults are those of the command line.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// The manifest, or the folder that contains a `spin.toml`. Default: the current folder. With
    /// an upstream, the current folder needs no manifest.
    pub from: Option<PathBuf>,
    /// The server that requests are forwarded to, instead of running components in this process.
    pub upstream: Option<UpstreamUrl>,
    /// The public address. Default: `127.0.0.1:3000`.
    pub listen: SocketAddr,
    /// The address of the control port. An address beyond loopback needs `grip_key`. Default:
    /// `127.0.0.1:5561`.
    pub control: SocketAddr,
    /// The names by which requests may address the control port, besides `localhost`. Addresses are
    /// always accepted. Default: none.
    pub control_names: Vec<String>,
    /// The key that signs and verifies tokens, in the notation of [`grip::Key::parse`]. Default: a
    /// random key.
    pub grip_key: Option<String>,
    /// Values for the application's variables. They take precedence over every other source.
    pub variables: Vec<(String, String)>,
    /// The file with the stores, databases and variables of this machine, which is read at the
    /// start. Default: none.
    pub runtime_config_file: Option<PathBuf>,
    /// Statements that run before the application starts.
    pub sqlite_statements: Vec<SqliteStatement>,
    /// The folder for stores and logs. Default: that of the runtime configuration, or `.spin` beside
    /// the manifest.
    pub state_dir: Option<PathBuf>,
    /// The folder for the output of components. Default: that of the runtime configuration, or
    /// `logs` in the state folder.
    pub log_dir: Option<PathBuf>,
    /// Environment variables for every component.
    pub environment: BTreeMap<String, String>,
    /// Write the output of components to the log files only.
    pub quiet: bool,
    /// How long a component or an upstream may take to respond, 366 days at most. Default: 30 s.
    pub request_timeout: Duration,
    /// Build the components first, and reload the application when its files change.
    pub watch: bool,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self {
            from: None,
            upstream: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 3000)),
            control: SocketAddr::from(([127, 0, 0, 1], 5561)),
            control_names: Vec::new(),
            grip_key: None,
            variables: Vec::new(),
            runtime_config_file: None,
            sqlite_statements: Vec::new(),
            state_dir: None,
            log_dir: None,
            environment: BTreeMap::new(),
            quiet: false,
            request_timeout: spin_runtime::Limits::DEFAULT.request_timeout,
            watch: false,
        }
    }
}

impl HostOptions {
    /// Checks options that exclude each other or are out of range.
    pub(crate) fn validate(&self) -> Result<()> {
        if self.watch && self.upstream.is_some() {
            bail!("--watch cannot reload the components of an upstream: watch them there");
        }
        let max_duration = Limits::DEFAULT.max_duration;
        if self.request_timeout > max_duration {
            bail!("the request timeout is out of range: expected at most {max_duration:?}");
        }
        Ok(())
    }

    /// Reads the manifest.
    pub(crate) fn load_config(&self) -> Result<AppConfig> {
        let path = self.from.as_deref().unwrap_or(Path::new("spin.toml"));
        Ok(match &self.upstream {
            None => AppConfig::load(path)?,
            Some(_) if self.from.is_none() && !path.exists() => AppConfig::absent(),
            Some(_) => AppConfig::load_for_upstream(path)?,
        })
    }

    /// Reads the runtime configuration. An upstream has its own.
    pub(crate) fn load_runtime_config(&self) -> Result<RuntimeConfig> {
        match &self.runtime_config_file {
            Some(file) if self.upstream.is_none() => RuntimeConfig::load(file),
            _ => Ok(RuntimeConfig::default()),
        }
    }

    /// Returns the options of the runtime for an application in the folder `root`.
    pub(crate) fn embedded(&self, root: &Path, runtime_config: RuntimeConfig) -> EmbeddedOptions {
        let default = spin_runtime::Limits::DEFAULT;
        let limits = spin_runtime::Limits {
            request_timeout: self.request_timeout,
            instance_memory_bytes: runtime_config
                .max_instance_memory
                .unwrap_or(default.instance_memory_bytes),
            redis_connections: runtime_config
                .redis_connections
                .unwrap_or(default.redis_connections),
            ..default
        };
        let state_dir = self.state_dir.clone().or(runtime_config.state_dir.clone());
        EmbeddedOptions {
            log_dir: self.log_dir.clone().or(runtime_config.log_dir.clone()),
            environment: self.environment.clone(),
            quiet: self.quiet,
            // With `watch`, a short build matters more than fast code.
            optimize: !self.watch,
            limits,
            runtime_config,
            sqlite_statements: self.sqlite_statements.clone(),
            ..EmbeddedOptions::new(state_dir.unwrap_or_else(|| root.join(".spin")))
        }
    }
}
