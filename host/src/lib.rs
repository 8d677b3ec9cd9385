//! socket-host serves the components of a `spin.toml` over HTTP and holds their WebSockets.
//!
//! One process, one public port, one manifest. A request goes listener → gateway →
//! backend and back; the backend is the components in this process, or an upstream. A WebSocket goes listener → gateway → handshake and becomes a
//! session, which tells the backend what happens as plain POSTs (WebSocket-over-HTTP)
//! and whose client hears what components publish to channels on the control port.
//!
//! Tests and other programs embed a [`Host`]; the binary is a command line around it.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ::http::HeaderValue;
use anyhow::{Context, Result, bail};
use base64::{Engine, prelude::BASE64_STANDARD};
use grip::Key;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

mod app;
mod backoff;
mod control;
mod dev;
mod gateway;
mod hold;
mod http;
mod metrics;
mod net;
mod proxy;
mod pubsub;
mod state;
pub mod terminal;
mod timers;
mod upstream;
mod ws;

use crate::http::signer::Signer;
use crate::upstream::tunnel::Tunnels;
pub use dev::{build::build, process::wait_for_builds};

use app::{Application, Values};
use control::Control;
use dev::reload::Reload;
use dev::watch::{PendingChanges, Watch};
use gateway::{Gateway, Rules};
use net::listener::Listener;
use prometheus_client::metrics::gauge::Gauge;
use spin_runtime::{
    backend::Backend,
    embedded::{self, Embedded},
    manifest::{LONGEST, Manifest, UpstreamUrl},
    router::Private,
    variables::Variables,
};
use state::Services;
use timers::Timers;
use upstream::Upstream;

/// How long requests and sockets may take to end when the host stops.
const DRAIN: Duration = Duration::from_secs(30);

/// What a [`Host`] is started with. The defaults are those of the command line.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// The manifest, or the folder of a `spin.toml`; the current folder's when not given. With an
    /// upstream there need be none in the current folder.
    pub from: Option<PathBuf>,
    /// Where requests are forwarded to, instead of being answered by components in this process.
    pub upstream: Option<UpstreamUrl>,
    /// The public address.
    pub listen: SocketAddr,
    /// The control port's address. Beyond loopback it asks for tokens.
    pub control: SocketAddr,
    /// The key that signs and verifies tokens, in the notation of [`Key::parse`]; random when not given.
    pub grip_key: Option<String>,
    /// Values for the application's variables, before every other source.
    pub variables: Vec<(String, String)>,
    /// Where stores and logs are kept; `.spin` beside the manifest when not given.
    pub state_dir: Option<PathBuf>,
    /// Where the components' output is kept; `logs` in the state folder when not given.
    pub log_dir: Option<PathBuf>,
    /// Added to every component's environment.
    pub environment: BTreeMap<String, String>,
    /// What components print goes to the log files only.
    pub quiet: bool,
    /// How long a component or an upstream may take to answer, [`LONGEST`] at most.
    pub request_timeout: Duration,
    /// Build the components first, and keep the application as its files say while it runs.
    pub watch: bool,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self {
            from: None,
            upstream: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 3000)),
            control: SocketAddr::from(([127, 0, 0, 1], 5561)),
            grip_key: None,
            variables: Vec::new(),
            state_dir: None,
            log_dir: None,
            environment: BTreeMap::new(),
            quiet: false,
            request_timeout: Duration::from_secs(30),
            watch: false,
        }
    }
}

impl HostOptions {
    /// Reads the manifest that these options mean.
    fn manifest(&self) -> Result<Manifest> {
        let path = self.from.as_deref().unwrap_or(Path::new("spin.toml"));
        Ok(match &self.upstream {
            None => Manifest::load(path)?,
            Some(_) if self.from.is_none() && !path.exists() => Manifest::absent(),
            Some(_) => Manifest::load_for_upstream(path)?,
        })
    }

    fn embedded(&self, manifest: &Manifest) -> embedded::Options {
        let state_dir = self
            .state_dir
            .clone()
            .unwrap_or_else(|| manifest.root.join(".spin"));
        embedded::Options {
            log_dir: self.log_dir.clone(),
            environment: self.environment.clone(),
            quiet: self.quiet,
            deadline: self.request_timeout,
            // What is about to be exchanged is rather soon there than fast.
            optimize: !self.watch,
            ..embedded::Options::new(state_dir)
        }
    }
}

/// A running host. When it is dropped, all that runs ends at once; [`Host::stop`] is kinder.
pub struct Host {
    manifest: Manifest,
    address: SocketAddr,
    control_address: SocketAddr,
    services: Arc<Services>,
    tunnels: Arc<Tunnels>,
    /// Ends timers, tunnels and the public listener.
    stop: CancellationToken,
    /// Ends the control port, which is needed until the last component has answered.
    stop_control: CancellationToken,
    /// Drops what is under way: connections, sessions, tunnels, timers' calls.
    cut: CancellationToken,
    public: JoinSet<()>,
    rest: JoinSet<()>,
}

impl Host {
    /// Reads the manifest, binds both addresses, compiles the components and begins to serve.
    ///
    /// # Errors
    /// Everything that would keep the application from being served as its manifest says.
    pub async fn start(options: HostOptions) -> Result<Self> {
        if options.watch && options.upstream.is_some() {
            bail!("components that an upstream runs cannot be exchanged here: watch them there");
        }
        if options.request_timeout > LONGEST {
            bail!("the request timeout is out of range: at most {LONGEST:?}");
        }
        let manifest = options.manifest()?;
        let cut = CancellationToken::new();
        let bind = async |address, option| {
            let listener = Listener::bind(address, option).await?;
            Ok::<_, anyhow::Error>(listener.cut_by(cut.clone()))
        };
        let listener = bind(options.listen, "--listen").await?;
        let control_listener = bind(options.control, "--control").await?;
        let (address, control_address) = (listener.address(), control_listener.address());

        let (stop, stop_control) = (CancellationToken::new(), CancellationToken::new());
        let locked = options.grip_key.is_some() || !control_address.ip().is_loopback();
        if locked && options.grip_key.is_none() {
            bail!(
                "--control {control_address} is not on loopback: set a key with --grip-key or SOCKET_HOST_GRIP_KEY"
            );
        }
        // Before everything that takes long, to say that it is under way.
        let control = Arc::new(Control::new(locked, stop.clone()));
        let mut rest = JoinSet::new();
        let at_control = control.clone();
        rest.spawn(control_listener.serve(
            Arc::new(move |request, client| {
                let control = at_control.clone();
                async move { control.handle(request, client).await }
            }),
            Gauge::default(),
            stop_control.clone(),
        ));
        let key = options.grip_key.clone().unwrap_or_else(random_key);
        let values = Values {
            given: options.variables.clone(),
            ours: BTreeMap::from([
                (
                    "grip_url".to_owned(),
                    format!("http://{}", reachable(control_address)),
                ),
                ("grip_key".to_owned(), key.clone()),
            ]),
        };
        let private = Private::new(&manifest.host.private)?;
        let limit = options.request_timeout;
        let upstream = options.upstream.clone();
        let upstream = upstream.map(|url| Upstream::new(url, limit)).transpose()?;
        let upstream = upstream.map(Arc::new);
        let passthroughs =
            upstream::passthrough::routes(&manifest.host.passthrough, upstream.as_ref(), limit)?;
        let mut watched = None;
        let (backend, name, key): (Arc<dyn Backend>, String, String) = match upstream {
            // Whoever runs the components gives them their variables.
            Some(upstream) => {
                let name = upstream.name().to_string();
                (upstream, name, key)
            }
            None => {
                let variables = values.settle(&manifest)?;
                let watch = match options.watch {
                    true => Some(Watch::start(&manifest).await?),
                    false => None,
                };
                let embedded = load(&manifest, &variables, options.embedded(&manifest)).await?;
                let embedded = Arc::new(embedded);
                watched = watch.map(|watch| (watch, embedded.clone()));
                // Whoever gives the components another key means the host to have it too.
                let key = variables.get("grip_key").map_or(key, str::to_owned);
                (embedded, "socket-host".to_owned(), key)
            }
        };
        let signer = Signer::new(Key::parse(&key).context("grip_key")?);

        let limits = manifest.host.websocket.clone();
        let services = Services::new(backend, &name, signer, limits, stop.clone());
        let services = Arc::new(services);
        let most = services.limits.max_connections;
        let tunnels = Arc::new(Tunnels::new(most, stop.clone(), services.metrics.clone()));
        let mut host = Self {
            manifest,
            address,
            control_address,
            services: services.clone(),
            tunnels: tunnels.clone(),
            stop,
            stop_control,
            cut: cut.clone(),
            public: JoinSet::new(),
            rest,
        };
        let watched = watched.map(|(watch, embedded)| {
            let reload = Arc::new(Reload::new(host.stop.clone()));
            (watch, embedded, reload)
        });
        let rules = Rules {
            services: services.clone(),
            private,
            passthroughs: passthroughs.into(),
        };
        let reload = watched.as_ref().map(|(_, _, reload)| reload.clone());
        let gateway = Arc::new(Gateway::new(rules.clone(), tunnels, reload));
        let public = gateway.clone();
        host.public.spawn(listener.serve(
            Arc::new(move |request, client| {
                let gateway = public.clone();
                async move { gateway.handle(request, client).await }
            }),
            services.metrics.connections.clone(),
            host.stop.clone(),
        ));
        control.serve(services.clone());
        let limits = &services.limits;
        let sessions = services.sessions.clone();
        sessions.set_limits(limits.max_connections, limits.ping_interval);
        host.rest.spawn(sessions.sweep());
        host.rest.spawn(services.channels.clone().sweep());
        let authority = HeaderValue::from_str(&reachable(address).to_string())?;
        let mut timers = Timers::new(services.clone(), authority, host.stop.clone(), cut);
        timers.exchange(&host.manifest.host.timers);
        host.public.spawn(timers.ended());
        if let Some((watch, embedded, reload)) = watched {
            let mut application = Application {
                values,
                key,
                limit,
                embedded,
                gateway,
                rules,
                private: host.manifest.host.private.clone(),
                timers,
            };
            let apply = async move |manifest: &Manifest, changes: &PendingChanges| {
                let components = changes.components.clone();
                let only_code = changes.is_components_only();
                application.exchange(manifest, components, only_code).await
            };
            let (watch, stop) = (watch.run(apply, reload), host.stop.clone());
            host.rest.spawn(async move {
                stop.run_until_cancelled(watch).await;
            });
        }
        Ok(host)
    }

    /// The application, as it was at the start.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The public address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The control port's address.
    pub fn control_address(&self) -> SocketAddr {
        self.control_address
    }

    /// Stops: accepts nothing more, closes the sockets with 1001 and lets requests finish,
    /// for 30 seconds at most. True when everything ended in that time; otherwise the rest is cut
    /// off.
    pub async fn stop(mut self) -> bool {
        self.stop.cancel();
        let drained = async {
            self.services
                .sessions
                .close_all(net::frame::AWAY, "the server goes away")
                .await;
            while self.public.join_next().await.is_some() {}
            self.tunnels.ended().await;
        };
        let in_time = tokio::time::timeout(DRAIN, drained).await.is_ok();
        if !in_time {
            warn!("not everything ended within {DRAIN:?}: the rest is cut off");
        }
        in_time
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.cancel();
        self.stop_control.cancel();
        self.cut.cancel();
    }
}

/// Reads a manifest and compiles its components as [`Host::start`] does, and serves nothing.
///
/// # Errors
/// Everything that would keep the application from being served, but for its addresses.
pub async fn check(from: &Path, variables: &[(String, String)]) -> Result<Manifest> {
    let manifest = Manifest::load(from)?;
    let ours =
        ["grip_url", "grip_key"].map(|name| (name.to_owned(), "http://127.0.0.1:5561".to_owned()));
    let variables = Variables::new(&manifest, variables, ours.into(), |name| {
        std::env::var(name).ok()
    })?;
    if let Some(key) = variables.get("grip_key") {
        Key::parse(key).context("grip_key")?;
    }
    Private::new(&manifest.host.private)?;
    let state = tempfile::tempdir().context("a folder for the check's own state")?;
    load(&manifest, &variables, embedded::Options::new(state.path())).await?;
    Ok(manifest)
}

/// Compiling takes all processors for a while.
async fn load(
    manifest: &Manifest,
    variables: &Variables,
    options: embedded::Options,
) -> Result<Embedded> {
    let (manifest, variables) = (manifest.clone(), variables.clone());
    tokio::task::spawn_blocking(move || Embedded::load(&manifest, &variables, options)).await?
}

/// A key for this start alone.
fn random_key() -> String {
    let secret: [u8; 32] = rand::random();
    format!("base64:{}", BASE64_STANDARD.encode(secret))
}

/// Where a bound address is reached from this machine.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}
