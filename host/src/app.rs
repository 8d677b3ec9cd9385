//! The application that a host serves. [`App::apply`] is the one way to switch to a manifest: at the
//! start, in [`check`], and on every reload.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use grip::Key;
use spin_runtime::{
    Changes, Embedded, EmbeddedOptions, FolderError, Prepared, PrivateRoutes, RuntimeConfig,
    Variables, backend::Backend, runtime_config::VariableProvider,
};
use tokio::{task::JoinHandle, time::timeout};
use tracing::info;

use crate::{
    config::{AppConfig, HostConfig},
    dev::{
        reload::Reload,
        watch::{Apply, Watch},
    },
    gateway::{Gateway, Rules},
    http::signer::Signer,
    net::connections::ConnectionLimits,
    options::{HostOptions, applicable_variables},
    shutdown::Shutdown,
    state::Services,
    telemetry::export::{Export, RunningExport},
    terminal::{Progress, is_progress_enabled},
    timers::Timers,
    upstream::{Upstream, passthrough, tunnel::Tunnels},
    ws::token_router::TokenRouter,
};

/// How long loading or compiling components may take before it is logged.
const SILENT_TIME: Duration = Duration::from_secs(1);

/// Serves one application at a time, and replaces it on a reload.
pub(crate) struct App {
    variable_sources: VariableSources,
    /// The key that the host signs with. Components get it by the variable `grip_key`.
    grip_key: String,
    request_timeout: Duration,
    runner: Runner,
    services: Arc<Services>,
    /// Not started yet.
    export: Option<Export>,
    tunnels: Arc<Tunnels>,
    gateway: Arc<Gateway>,
    timers: Timers,
    reload: Option<Arc<Reload>>,
    watch: Option<Watch>,
    connection_limits: ConnectionLimits,
    shutdown: Shutdown,
    /// The private routes of the current application.
    private: Vec<String>,
}

/// What runs the components.
enum Runner {
    Embedded(Arc<Embedded>),
    Upstream(Arc<Upstream>),
}

/// The sources of variables other than the environment and the manifest.
struct VariableSources {
    /// `--variable`.
    options: Vec<(String, String)>,
    /// The names in `options` that a manifest need not declare.
    optional: BTreeSet<String>,
    /// The providers of the runtime configuration.
    providers: Vec<VariableProvider>,
    /// The host's own variables.
    host: BTreeMap<String, String>,
}

impl VariableSources {
    fn resolve(&self, config: &AppConfig) -> Result<Variables> {
        let manifest = &config.manifest;
        let options = applicable_variables(&self.options, &self.optional, manifest);
        Variables::with_providers(
            manifest,
            &options,
            &self.providers,
            self.host.clone(),
            |name| std::env::var(name).ok(),
        )
    }
}

impl App {
    /// Builds the components if they are watched, applies the configuration that a host starts with,
    /// and starts to compile its components. They can be called already: requests wait.
    ///
    /// # Errors
    /// Those of [`Self::new`] and [`Self::apply`]. What only the compiler finds is left to the
    /// [`Compilation`].
    pub(crate) async fn start(
        options: &HostOptions,
        config: &AppConfig,
        runtime_config: RuntimeConfig,
        addresses: [SocketAddr; 2],
        connection_limits: ConnectionLimits,
        shutdown: &Shutdown,
    ) -> Result<(Self, Compilation)> {
        let (mut app, variables) = Self::new(
            options,
            config,
            runtime_config,
            addresses,
            connection_limits,
            shutdown,
        )?;
        if options.watch {
            app.watch = Some(Watch::start(config).await?);
        }
        let prepared = app.apply_first(config, variables).await?;
        app.set_keys(&options.key_values).await?;
        let compilation = prepared.map(Compilation::start);
        Ok((app, compilation.unwrap_or_default()))
    }

    /// Sets keys of the default key-value store.
    async fn set_keys(&self, pairs: &[(String, String)]) -> Result<()> {
        let Runner::Embedded(embedded) = &self.runner else {
            return Ok(());
        };
        if pairs.is_empty() {
            return Ok(());
        }
        let pairs = pairs.iter();
        let pairs = pairs.map(|(key, value)| (key.clone(), value.clone().into_bytes()));
        let set = embedded.set_keys(pairs.collect()).await;
        set.context("cannot set the keys of --key-value")
    }

    /// Creates everything that outlives a reload, without an application yet, and resolves the
    /// variables of the first application.
    ///
    /// `addresses` are the public one, which timers name in `Host`, and that of the control port,
    /// which components publish to. Must be called in a Tokio runtime.
    ///
    /// # Errors
    /// Fails if a variable has no value, the key is invalid, or the runtime cannot be created.
    fn new(
        options: &HostOptions,
        config: &AppConfig,
        runtime_config: RuntimeConfig,
        addresses: [SocketAddr; 2],
        connection_limits: ConnectionLimits,
        shutdown: &Shutdown,
    ) -> Result<(Self, Option<Variables>)> {
        let [address, control_address] = addresses.map(reachable);
        let configured = config.host.limits.max_connections;
        let host = capped(&config.host, connection_limits);
        let effective = host.limits.max_connections;
        if effective < configured {
            info!(
                configured,
                effective,
                "max-connections lowered to what the limit of open files (ulimit -n) allows"
            );
        }
        let grip_key = options.grip_key.clone().unwrap_or_else(random_key);
        let variable_sources = VariableSources {
            options: options.variables.clone(),
            optional: options.optional_variables.clone(),
            providers: runtime_config.variable_providers.clone(),
            host: BTreeMap::from([
                ("grip_url".to_owned(), grip_url(control_address)),
                ("grip_key".to_owned(), grip_key.clone()),
            ]),
        };
        let websockets = Arc::new(TokenRouter::default());
        let (runner, variables) = match &options.upstream {
            Some(url) => {
                let upstream = Upstream::new(url.clone(), options.request_timeout)?;
                // The server behind it resolves the variables.
                (Runner::Upstream(Arc::new(upstream)), None)
            }
            None => {
                let variables = variable_sources.resolve(config)?;
                let root = &config.manifest.root;
                let embedded = EmbeddedOptions {
                    websockets: websockets.clone(),
                    ..options.embedded(root, runtime_config)
                };
                let embedded = Embedded::new(embedded)?;
                (Runner::Embedded(Arc::new(embedded)), Some(variables))
            }
        };
        // A key that is set for the components applies to the host too.
        let component_key = variables
            .as_ref()
            .and_then(|variables| variables.get("grip_key"));
        let grip_key = component_key.map_or(grip_key, str::to_owned);
        let signer = Signer::new(Key::parse(&grip_key).context("grip_key")?);
        let services = Services::new(
            runner.backend(),
            &runner.name(),
            signer,
            &host,
            shutdown.drain.clone(),
        );
        let services = match &options.bus {
            Some(url) => services.with_bus(url, options.bus_wait, &host)?,
            None => services,
        };
        websockets.set_parts(services.router_parts());
        let (telemetry, export) = Export::new(options, &services.metrics)?;
        let services = Arc::new(services.with_telemetry(telemetry));
        let tunnels = Arc::new(Tunnels::new(
            services.limits.max_connections,
            shutdown.drain.clone(),
            services.metrics.clone(),
        ));
        let reload = options
            .watch
            .then(|| Arc::new(Reload::new(shutdown.drain.clone())));
        let rules = Rules::none(services.clone())?;
        let gateway = Gateway::new(
            rules,
            tunnels.clone(),
            reload.clone(),
            options.hsts,
            options.trusted_proxies.clone(),
            shutdown.clone(),
        );
        let app = Self {
            variable_sources,
            grip_key,
            request_timeout: options.request_timeout,
            runner,
            timers: Timers::new(services.clone(), address, shutdown.clone())?,
            services,
            export: Some(export),
            tunnels,
            gateway: Arc::new(gateway),
            reload,
            watch: None,
            connection_limits,
            shutdown: shutdown.clone(),
            private: Vec::new(),
        };
        Ok((app, variables))
    }

    /// Serves the application of `config` from now on, and returns the ids of the components whose
    /// code has changed.
    ///
    /// Requests in progress finish with the previous application. Sockets stay open and keep the
    /// limits that they were opened with.
    ///
    /// # Errors
    /// Fails for everything that would keep a host from starting with this configuration, and for
    /// changes that need a restart. The previous application is then kept.
    pub(crate) async fn apply(
        &mut self,
        config: &AppConfig,
        changes: &Changes,
    ) -> Result<Vec<String>> {
        let host = &capped(&config.host, self.connection_limits);
        let rules = self.rules(host)?;
        // While components are replaced, the private routes of both applications are closed.
        let transition = Rules {
            private: PrivateRoutes::new(&[&self.private[..], &host.private].concat())?,
            ..Rules::clone(&self.gateway.rules())
        };
        let changed = match &self.runner {
            Runner::Embedded(embedded) => {
                let variables = self.variable_sources.resolve(config)?;
                let key = variables.get("grip_key");
                ensure!(
                    key.is_none_or(|key| key == self.grip_key),
                    "the variable grip_key has changed: restart the host to sign with the new key"
                );
                let (embedded, gateway) = (embedded.clone(), self.gateway.clone());
                let cache = self.services.cache.clone();
                let (manifest, changes) = (config.manifest.clone(), changes.clone());
                // Compiling keeps all processors busy for a while.
                let replaced = tokio::task::spawn_blocking(move || {
                    embedded.replace(&manifest, &variables, &changes, || {
                        gateway.set_rules(transition);
                        cache.replace(None);
                    })
                });
                finished(replaced, "compiling components")
                    .await
                    .map_err(name_folder_option)?
            }
            Runner::Upstream(_) => Vec::new(),
        };
        self.enforce(rules, config, host);
        Ok(changed)
    }

    /// Applies the first configuration with these variables, which the components in this process
    /// use. Returns these components, which are not compiled yet.
    async fn apply_first(
        &mut self,
        config: &AppConfig,
        variables: Option<Variables>,
    ) -> Result<Option<(Arc<Embedded>, Prepared)>> {
        let host = &capped(&config.host, self.connection_limits);
        let rules = self.rules(host)?;
        let prepared = match (&self.runner, variables) {
            (Runner::Embedded(embedded), Some(variables)) => {
                let embedded = embedded.clone();
                let manifest = config.manifest.clone();
                let prepare = tokio::task::spawn_blocking(move || {
                    let prepared = embedded.prepare(&manifest, &variables)?;
                    anyhow::Ok((embedded, prepared))
                });
                let prepared = finished(prepare, "loading components").await;
                Some(prepared.map_err(name_folder_option)?)
            }
            _ => None,
        };
        self.enforce(rules, config, host);
        Ok(prepared)
    }

    /// Returns the rules of a configuration.
    fn rules(&self, host: &HostConfig) -> Result<Rules> {
        let main = match &self.runner {
            Runner::Upstream(upstream) => Some(upstream),
            Runner::Embedded(_) => None,
        };
        let passthroughs = passthrough::routes(&host.passthroughs, main, self.request_timeout)?;
        Ok(Rules {
            services: self.services.configured(host),
            private: PrivateRoutes::new(&host.private)?,
            passthroughs: Arc::new(passthroughs),
        })
    }

    /// Applies a configuration to everything but its components.
    fn enforce(&mut self, rules: Rules, config: &AppConfig, host: &HostConfig) {
        rules.services.apply_limits();
        rules.services.cache.replace(host.cache);
        rules.services.channels.set_rules(host.channels.clone());
        self.services = rules.services.clone();
        self.gateway.set_rules(rules);
        self.private.clone_from(&host.private);
        self.timers.replace(config.timers());
    }

    /// Starts the timers, and returns a future that completes when the host is stopping and their
    /// last calls have ended.
    pub(crate) fn start_timers(&mut self) -> impl Future<Output = ()> + use<> {
        self.timers.start();
        self.timers.drained()
    }

    /// Starts to export spans and metrics.
    pub(crate) fn start_export(&mut self) -> RunningExport {
        let export = self.export.take().unwrap_or_default();
        export.start(self.services.clone())
    }

    /// Reloads the application whenever its files change, until the host stops. Returns at once if
    /// they are not watched. Timers keep running.
    pub(crate) async fn watch(mut self) {
        let stop = self.shutdown.stop.clone();
        if let (Some(watch), Some(reload)) = (self.watch.take(), self.reload.clone()) {
            stop.run_until_cancelled(watch.run(self, reload)).await;
        }
    }

    /// Returns the shared services.
    pub(crate) fn services(&self) -> Arc<Services> {
        self.services.clone()
    }

    /// Returns the open tunnels.
    pub(crate) fn tunnels(&self) -> Arc<Tunnels> {
        self.tunnels.clone()
    }

    /// Returns what handles requests of clients.
    pub(crate) fn gateway(&self) -> Arc<Gateway> {
        self.gateway.clone()
    }
}

/// The compilation of the components that a host starts with.
#[derive(Default)]
pub(crate) struct Compilation(Option<JoinHandle<Result<()>>>);

impl Compilation {
    fn start((embedded, prepared): (Arc<Embedded>, Prepared)) -> Self {
        let compile = tokio::task::spawn_blocking(move || embedded.compile(prepared));
        Self(Some(compile))
    }

    /// Waits until all components can be called.
    ///
    /// # Errors
    /// Fails if one of them cannot run.
    pub(crate) async fn finish(self) -> Result<()> {
        match self.0 {
            Some(compilation) => finished(compilation, "compiling components").await,
            None => Ok(()),
        }
    }
}

/// Returns the result of a task. If that takes long, shows on a terminal what the task does, or logs it.
async fn finished<T>(mut task: JoinHandle<Result<T>>, activity: &'static str) -> Result<T> {
    let _progress = Progress::start(activity);
    let result = match timeout(SILENT_TIME, &mut task).await {
        Ok(result) => result,
        Err(_) => {
            if !is_progress_enabled() {
                info!("{activity}");
            }
            task.await
        }
    };
    result?
}

impl Apply for App {
    async fn apply(&mut self, config: &AppConfig, changes: &Changes) -> Result<Vec<String>> {
        App::apply(self, config, changes).await
    }
}

impl Runner {
    fn backend(&self) -> Arc<dyn Backend> {
        match self {
            Self::Embedded(embedded) => embedded.clone(),
            Self::Upstream(upstream) => upstream.clone(),
        }
    }

    /// Returns the name for metrics of responses that no component made.
    fn name(&self) -> Arc<str> {
        match self {
            Self::Embedded(_) => "socket-host".into(),
            Self::Upstream(upstream) => upstream.name().clone(),
        }
    }
}

/// Reads a manifest and loads its components as [`Host::start`](crate::Host::start) does, without
/// serving them.
///
/// The stores and logs are in a temporary folder.
///
/// # Errors
/// Fails for everything that would keep the application from being served, except for its
/// addresses.
pub async fn check(mut options: HostOptions) -> Result<AppConfig> {
    let state_dir = tempfile::tempdir().context("cannot create a temporary state folder")?;
    options.state_dir = Some(state_dir.path().to_owned());
    let config = options.load_config()?;
    let runtime_config = options.load_runtime_config()?.in_memory();
    let addresses = [options.listen, options.control];
    let shutdown = Shutdown::default();
    let connection_limits = ConnectionLimits::unlimited();
    let (_app, compilation) = App::start(
        &options,
        &config,
        runtime_config,
        addresses,
        connection_limits,
        &shutdown,
    )
    .await?;
    compilation.finish().await?;
    Ok(config)
}

/// Returns the value of the variable `grip_url` for a control port.
pub(crate) fn grip_url(control: SocketAddr) -> String {
    format!("http://{}", reachable(control))
}

/// Returns a configuration whose number of WebSockets the process has file descriptors for.
fn capped(host: &HostConfig, limits: ConnectionLimits) -> HostConfig {
    let mut host = host.clone();
    host.limits.max_connections = limits.cap(host.limits.max_connections);
    host
}

/// Names the option of the command line for a folder that cannot be used.
fn name_folder_option(error: anyhow::Error) -> anyhow::Error {
    let option = match error.downcast_ref() {
        Some(FolderError::State) => "--state-dir",
        Some(FolderError::Log) => "--log-dir",
        None => return error,
    };
    anyhow!("{error:#}; choose another folder with {option}")
}

/// Returns a random key, in the notation of [`Key::parse`].
pub(crate) fn random_key() -> String {
    let secret: [u8; 32] = rand::random();
    format!("base64:{}", BASE64_STANDARD.encode(secret))
}

/// Returns the address at which a listener is reached from this machine.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}
