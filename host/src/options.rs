//! What a host is started with.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, bail};
use spin_runtime::EmbeddedOptions;

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
    /// The names in `variables` that the application need not declare.
    pub optional_variables: BTreeSet<String>,
    /// Keys and values that are set in the default key-value store before the application is
    /// served.
    pub key_values: Vec<(String, String)>,
    /// The folder for stores and logs. Default: `.spin` beside the manifest.
    pub state_dir: Option<PathBuf>,
    /// The folder for the output of components. With an empty path, the output is not written to
    /// files. Default: `logs` in the state folder.
    pub log_dir: Option<PathBuf>,
    /// Empty the log files first.
    pub truncate_logs: bool,
    /// Environment variables for every component.
    pub environment: BTreeMap<String, String>,
    /// Write the output of components to the log files only.
    pub quiet: bool,
    /// The ids of the components whose output is written to stderr. Empty for all of them.
    pub follow: Vec<String>,
    /// How long a component or an upstream may take to respond, 366 days at most. Default: 30 s.
    pub request_timeout: Duration,
    /// The other limits of components.
    pub component_limits: spin_runtime::Limits,
    /// The memory of an instance, in bytes. Default: that of `component_limits`.
    pub max_instance_memory: Option<usize>,
    /// Compile the components at every start instead of caching their code.
    pub disable_cache: bool,
    /// Allocate instances one by one instead of from a pool.
    pub disable_pooling: bool,
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
            optional_variables: BTreeSet::new(),
            key_values: Vec::new(),
            state_dir: None,
            log_dir: None,
            truncate_logs: false,
            environment: BTreeMap::new(),
            quiet: false,
            follow: Vec::new(),
            request_timeout: spin_runtime::Limits::DEFAULT.request_timeout,
            component_limits: spin_runtime::Limits::DEFAULT,
            max_instance_memory: None,
            disable_cache: false,
            disable_pooling: false,
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

    /// Returns the options of the runtime for an application in the folder `root`.
    pub(crate) fn embedded(&self, root: &Path) -> EmbeddedOptions {
        let state_dir = self.state_dir.clone();
        EmbeddedOptions {
            log_dir: self.log_dir.clone(),
            truncate_logs: self.truncate_logs,
            environment: self.environment.clone(),
            quiet: self.quiet,
            follow: self.follow.clone(),
            cache: !self.disable_cache,
            pooling: !self.disable_pooling,
            // With `watch`, a short build matters more than fast code.
            optimize: !self.watch,
            limits: spin_runtime::Limits {
                request_timeout: self.request_timeout,
                instance_memory_bytes: self
                    .max_instance_memory
                    .unwrap_or(self.component_limits.instance_memory_bytes),
                ..self.component_limits
            },
            ..EmbeddedOptions::new(state_dir.unwrap_or_else(|| root.join(".spin")))
        }
    }
}
