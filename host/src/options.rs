//! The options of a host.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, bail};
use spin_runtime::{
    EmbeddedOptions, LogRotation, Manifest, ManifestOptions, ManifestUse, RuntimeConfig,
    SqliteStatement,
};
use tracing::warn;

#[cfg(feature = "otel")]
use crate::telemetry::otlp::OtlpOptions;
use crate::{
    config::{AppConfig, Limits, UpstreamUrl},
    net::{tls::CertificateFiles, trusted_proxies::TrustedProxies},
    systemd::sockets::PassedSockets,
};

/// The shortest `max-age` of `Strict-Transport-Security`, which is in seconds. 0 would disable it.
const MIN_HSTS: Duration = Duration::from_secs(1);

/// The options of a [`Host`](crate::Host). The defaults are those of the command line.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// The manifest, or the folder that contains a `spin.toml`. Default: the current folder. With
    /// an upstream, the current folder needs no manifest.
    pub from: Option<PathBuf>,
    /// The profile whose settings replace those of the components: `[component.ID.profile.NAME]`.
    pub profile: Option<String>,
    /// The server that requests are forwarded to, instead of running components in this process.
    pub upstream: Option<UpstreamUrl>,
    /// Start `spin up` for the manifest, and use it as the upstream.
    pub spin: Option<SpinOptions>,
    /// Listening sockets that were passed to this process, which are used instead of the addresses.
    /// Default: none.
    pub sockets: PassedSockets,
    /// The public address. Default: `127.0.0.1:3000`.
    pub listen: SocketAddr,
    /// The networks of the proxies in front of the public port. Default: private networks.
    pub trusted_proxies: TrustedProxies,
    /// The connections of these proxies start with a header of the PROXY protocol. Other connections
    /// are then refused.
    pub proxy_protocol: bool,
    /// The certificates of the public port. The first one is for clients that send no server name or
    /// an unknown one. Default: none, which disables TLS.
    pub tls: Vec<CertificateFiles>,
    /// The `max-age` of `Strict-Transport-Security`, for which browsers use only TLS after each
    /// response. Needs `tls`. Default: none, which omits the header.
    pub hsts: Option<Duration>,
    /// An address without TLS whose requests are redirected to the public port. Needs `tls`. Default:
    /// none.
    pub http_redirect: Option<SocketAddr>,
    /// The URL of the Redis server that carries publications between hosts. Default: none, so that
    /// publications reach only the clients of this host.
    pub bus: Option<String>,
    /// The number of Redis replicas that must have what is published before a publish request
    /// succeeds. Needs `bus`. Default: 0.
    pub bus_wait: u32,
    /// The address of the control port. An address beyond loopback needs `grip_key`, and
    /// `control_tls` or `insecure_control`. Default: `127.0.0.1:5561`.
    pub control: SocketAddr,
    /// The certificates of the control port, for clients on other machines. Default: none.
    pub control_tls: Vec<CertificateFiles>,
    /// Allow a control port beyond loopback without TLS.
    pub insecure_control: bool,
    /// The names by which requests may address the control port, besides `localhost`. Addresses are
    /// always accepted. Default: none.
    pub control_names: Vec<String>,
    /// The origins whose pages may use the control port, as browsers send them. They need a token.
    /// Default: none.
    pub control_origins: Vec<String>,
    /// The key that signs and verifies tokens, in the notation of [`grip::Key::parse`]. Default: a
    /// random key.
    pub grip_key: Option<String>,
    /// Values for the application's variables. They take precedence over every other source.
    pub variables: Vec<(String, String)>,
    /// The names in `variables` that the application need not declare.
    pub optional_variables: BTreeSet<String>,
    /// The file with the stores, databases and variables of this machine, which is read at the
    /// start. Default: none.
    pub runtime_config_file: Option<PathBuf>,
    /// Statements that run before the application starts.
    pub sqlite_statements: Vec<SqliteStatement>,
    /// Keys and values that are set in the default key-value store before the application is
    /// served.
    pub key_values: Vec<(String, String)>,
    /// The folder for stores and logs. Default: that of the runtime configuration, or `.spin` beside
    /// the manifest.
    pub state_dir: Option<PathBuf>,
    /// The folder for the output of components. With an empty path, the output is not written to
    /// files. Default: that of the runtime configuration, or `logs` in the state folder.
    pub log_dir: Option<PathBuf>,
    /// The folder of downloaded components. Default: `socket-host` in the user's cache folder.
    pub cache_dir: Option<PathBuf>,
    /// Empty the log files first.
    pub truncate_logs: bool,
    /// When log files are rotated, and how many of their predecessors are kept.
    pub log_rotation: LogRotation,
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
    /// The time over which the WebSockets and the held requests of a host that stops are ended, one by
    /// one. Default: none, which ends them at once.
    pub drain_over: Option<Duration>,
    /// Build the components first, and reload the application when its files change.
    pub watch: bool,
    /// Log each request of a client, and each WebSocket that has ended, as events of the target
    /// `socket_host::access`.
    pub access_log: bool,
    /// Which spans and metrics are exported over OTLP. Default: none.
    #[cfg(feature = "otel")]
    pub otlp: OtlpOptions,
}

/// How a host starts `spin up` as its upstream.
#[derive(Clone, Debug)]
pub struct SpinOptions {
    /// The executable of Spin.
    pub executable: PathBuf,
    /// The executable `socket-host`, which supervises Spin as a process of its own.
    pub supervisor: PathBuf,
    /// Let Spin run the build commands of the components first.
    pub build: bool,
    /// Further arguments of `spin up`.
    pub arguments: Vec<OsString>,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self {
            from: None,
            profile: None,
            upstream: None,
            spin: None,
            sockets: PassedSockets::default(),
            listen: SocketAddr::from(([127, 0, 0, 1], 3000)),
            trusted_proxies: TrustedProxies::default(),
            proxy_protocol: false,
            tls: Vec::new(),
            hsts: None,
            http_redirect: None,
            bus: None,
            bus_wait: 0,
            control: SocketAddr::from(([127, 0, 0, 1], 5561)),
            control_tls: Vec::new(),
            insecure_control: false,
            control_names: Vec::new(),
            control_origins: Vec::new(),
            grip_key: None,
            variables: Vec::new(),
            optional_variables: BTreeSet::new(),
            runtime_config_file: None,
            sqlite_statements: Vec::new(),
            key_values: Vec::new(),
            state_dir: None,
            log_dir: None,
            cache_dir: None,
            truncate_logs: false,
            log_rotation: LogRotation::DEFAULT,
            environment: BTreeMap::new(),
            quiet: false,
            follow: Vec::new(),
            request_timeout: spin_runtime::Limits::DEFAULT.request_timeout,
            component_limits: spin_runtime::Limits::DEFAULT,
            max_instance_memory: None,
            disable_cache: false,
            disable_pooling: false,
            drain_over: None,
            watch: false,
            access_log: false,
            #[cfg(feature = "otel")]
            otlp: OtlpOptions::default(),
        }
    }
}

impl HostOptions {
    /// Checks options that exclude each other or are out of range.
    pub(crate) fn validate(&self) -> Result<()> {
        if self.watch && self.upstream.is_some() {
            bail!("--watch cannot reload the components of an upstream: watch them there");
        }
        if self.spin.is_some() {
            if self.upstream.is_some() {
                bail!("--spin and --upstream cannot be combined: --spin starts its own upstream");
            }
            if self.watch {
                bail!(
                    "--watch cannot replace components that run in Spin: leave out --spin, \
                     or restart the host with --spin --build"
                );
            }
        }
        if self.tls.is_empty() {
            let needs_tls = [
                ("--hsts", self.hsts.is_some()),
                ("--http-redirect", self.http_redirect.is_some()),
            ];
            if self.sockets.redirect.is_some() {
                bail!(
                    "the passed socket of the redirect port needs a certificate: set --tls-cert and \
                     --tls-key"
                );
            }
            if let Some((option, _)) = needs_tls.iter().find(|(_, is_set)| *is_set) {
                bail!("{option} needs a certificate: set --tls-cert and --tls-key");
            }
        }
        if self.bus_wait > 0 && self.bus.is_none() {
            bail!("--bus-wait needs a bus: set --bus");
        }
        if self.hsts.is_some_and(|time| time < MIN_HSTS) {
            bail!("--hsts is out of range: expected at least {MIN_HSTS:?}");
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
        if self.upstream.is_some() && self.from.is_none() && !path.exists() {
            return Ok(AppConfig::absent());
        }
        let usage = if self.upstream.is_some() || self.spin.is_some() {
            ManifestUse::Upstream
        } else {
            ManifestUse::Embedded
        };
        let profile = self.profile.as_deref();
        Ok(AppConfig::load_with(
            path,
            ManifestOptions { usage, profile },
        )?)
    }

    /// Reads the runtime configuration, and logs its warnings. An upstream has its own.
    pub(crate) fn load_runtime_config(&self) -> Result<RuntimeConfig> {
        let config = match &self.runtime_config_file {
            Some(file) if self.upstream.is_none() && self.spin.is_none() => {
                RuntimeConfig::load(file)?
            }
            _ => RuntimeConfig::default(),
        };
        for warning in &config.warnings {
            warn!(%warning, "runtime configuration warning");
        }
        Ok(config)
    }

    /// Returns the options of the runtime for an application in the folder `root`.
    pub(crate) fn embedded(&self, root: &Path, runtime_config: RuntimeConfig) -> EmbeddedOptions {
        let default = self.component_limits;
        let limits = spin_runtime::Limits {
            request_timeout: self.request_timeout,
            instance_memory_bytes: self
                .max_instance_memory
                .or(runtime_config.max_instance_memory)
                .unwrap_or(default.instance_memory_bytes),
            redis_connections: runtime_config
                .redis_connections
                .unwrap_or(default.redis_connections),
            ..default
        };
        let state_dir = self.state_dir.clone().or(runtime_config.state_dir.clone());
        EmbeddedOptions {
            log_dir: self.log_dir.clone().or(runtime_config.log_dir.clone()),
            cache_dir: self.cache_dir.clone(),
            truncate_logs: self.truncate_logs,
            log_rotation: self.log_rotation,
            environment: self.environment.clone(),
            quiet: self.quiet,
            follow: self.follow.clone(),
            cache: !self.disable_cache,
            pooling: !self.disable_pooling,
            // With `watch`, a short build matters more than fast code.
            optimize: !self.watch,
            limits,
            runtime_config,
            sqlite_statements: self.sqlite_statements.clone(),
            ..EmbeddedOptions::new(state_dir.unwrap_or_else(|| root.join(".spin")))
        }
    }
}

/// Returns the values of variables for a manifest: all but those that are optional and not declared.
pub(crate) fn applicable_variables(
    variables: &[(String, String)],
    optional: &BTreeSet<String>,
    manifest: &Manifest,
) -> Vec<(String, String)> {
    let is_applicable =
        |name: &String| manifest.variables.contains_key(name) || !optional.contains(name);
    let applicable = variables.iter().filter(|(name, _)| is_applicable(name));
    applicable.cloned().collect()
}
