//! socket-host serves the components of a `spin.toml` over HTTP and keeps their WebSockets open.
//!
//! One process has one public port and one manifest. A request goes from the listener to the
//! gateway and on to the backend: the components in this process, or an upstream server. A
//! WebSocket becomes a session, which sends its events to the backend as HTTP requests
//! (WebSocket-over-HTTP). What components publish on the control port reaches the subscribers of a
//! channel.
//!
//! ```no_run
//! use socket_host::{Host, HostOptions};
//!
//! # async fn example() -> anyhow::Result<()> {
//! let host = Host::start(HostOptions {
//!     from: Some("my-app/spin.toml".into()),
//!     listen: ([127, 0, 0, 1], 0).into(),
//!     ..HostOptions::default()
//! })
//! .await?;
//! println!("serving http://{}", host.address());
//! host.stop().await;
//! # Ok(())
//! # }
//! ```

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Result;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

mod app;
mod backoff;
mod bus;
mod cache;
mod certificates;
pub mod cli;
mod config;
mod control;
mod dev;
mod doctor;
mod drain;
mod gateway;
mod hold;
mod http;
mod https_redirect;
mod metrics;
mod net;
mod options;
mod presence;
mod proxy;
mod pubsub;
mod shutdown;
mod signals;
mod spin;
mod state;
mod systemd;
mod telemetry;
mod terminal;
mod timers;
mod upstream;
mod ws;

pub use app::check;
pub use config::{
    AllowedOrigins, AppConfig, CacheLimits, ChannelRules, HistoryLimits, HostConfig, Limits,
    Passthrough, Timer, TimerSchedule, TimerTarget, UpstreamScheme, UpstreamUrl,
};
pub use net::{tls::CertificateFiles, trusted_proxies::TrustedProxies};
pub use options::{HostOptions, SpinOptions};
pub use systemd::sockets::PassedSockets;
#[cfg(feature = "otel")]
pub use telemetry::otlp::OtlpOptions;

use app::App;
use certificates::HostCertificates;
use control::Control;
use https_redirect::HttpsRedirect;
use net::{
    connections::ConnectionLimits,
    listener::{Listener, Proxies},
    probe::Probe,
};
use shutdown::Shutdown;
use spin::SpinProcess;
use state::Services;
use telemetry::{export::RunningExport, panics::critical};
use upstream::tunnel::Tunnels;

/// A running host. Dropping it aborts everything at once; [`Host::stop`] drains first.
pub struct Host {
    config: AppConfig,
    /// The public address, and that of the control port.
    addresses: [SocketAddr; 2],
    /// The address of the redirect port, if any.
    redirect: Option<SocketAddr>,
    certificates: HostCertificates,
    services: Arc<Services>,
    tunnels: Arc<Tunnels>,
    /// The Spin process that the host has started, if any.
    spin: Option<SpinProcess>,
    /// The time over which clients are sent away when the host stops.
    drain_over: Option<Duration>,
    /// Ask the accept loops of the public port and of the control port whether they run.
    probes: [Probe; 2],
    shutdown: Shutdown,
    /// The public listener and the timers: what draining waits for.
    serving: JoinSet<()>,
    /// The control port.
    control: AbortOnDropHandle<()>,
    /// The redirect port, the sweepers, and the file watcher.
    _background: JoinSet<()>,
    /// Exports spans and metrics until everything else has stopped.
    export: RunningExport,
}

impl Host {
    /// Reads the manifest, binds the addresses, loads the components, and starts to serve.
    ///
    /// Returns when all components are compiled. Those that are compiled before are served before.
    ///
    /// # Errors
    /// Fails if the options or the manifest are invalid, an address cannot be bound, a component
    /// cannot be loaded, or Spin does not start.
    pub async fn start(mut options: HostOptions) -> Result<Self> {
        options.validate()?;
        let config = options.load_config()?;
        let runtime_config = options.load_runtime_config()?;
        let shutdown = Shutdown::default();
        let certificates = HostCertificates::load(&options)?;
        let proxies = Proxies {
            trusted: options.trusted_proxies.clone(),
            send_header: options.proxy_protocol,
        };
        let sockets = options.sockets.clone();
        let open = async |passed: &Option<Arc<_>>, address, option| {
            Listener::open(passed.as_deref(), address, option, &shutdown).await
        };
        let listener = open(&sockets.public, options.listen, "--listen").await?;
        let listener = listener
            .with_encryption(certificates.public())
            .behind(proxies);
        let control_listener = open(&sockets.control, options.control, "--control").await?;
        let control_listener = control_listener.with_encryption(certificates.control());
        let addresses = [listener.address(), control_listener.address()];
        let passed = sockets
            .redirect
            .as_ref()
            .and_then(|it| it.local_addr().ok());
        let redirect = match passed.or(options.http_redirect) {
            Some(address) => {
                let listener = open(&sockets.redirect, address, "--http-redirect").await?;
                Some(HttpsRedirect::new(listener, addresses[0].port(), &shutdown))
            }
            None => None,
        };
        let probes = [listener.probe(), control_listener.probe()];
        let limits = ConnectionLimits::of_process();
        let control = Control::new(&options, addresses[1], limits.control, &shutdown)?;

        // Loading may take long. Meanwhile the control port responds with "starting".
        let serving_control = critical("control port", control.clone().serve(control_listener));
        let serving_control = tokio::spawn(serving_control);
        let serving_control = AbortOnDropHandle::new(serving_control);
        let mut background = JoinSet::new();
        let spin = spin::start(&mut options, &config.manifest, addresses[1]).await?;
        let stores = runtime_config.key_value_stores.clone();
        let (mut app, compilation) = App::start(
            &options,
            &config,
            runtime_config,
            addresses,
            limits,
            &shutdown,
        )
        .await?;

        let redirect_address = redirect.as_ref().map(HttpsRedirect::address);
        let (services, tunnels) = (app.services(), app.tunnels());
        if let Some(bus) = services.bus.clone() {
            bus.join().await?;
            bus.check_stores(&stores)?;
            background.spawn(critical("bus", bus.run()));
        }
        control.set_services(services.clone());
        let mut serving = JoinSet::new();
        if let Some(redirect) = redirect {
            background.spawn(critical("redirect", redirect.serve(limits.control)));
        }
        let export = app.start_export();
        let public = app.gateway().serve(listener, limits.public);
        serving.spawn(critical("public port", public));
        let presence = presence::run(
            services.members.clone(),
            services.channels.clone(),
            services.bus.clone(),
        );
        background.spawn(critical("presence", presence));
        let (sessions, channels) = (services.sessions.clone(), services.channels.clone());
        background.spawn(critical("sweeper of sessions", sessions.sweep()));
        background.spawn(critical("sweeper of channels", channels.sweep()));
        let clients = services.addresses.clone();
        background.spawn(critical("sweeper of addresses", clients.sweep()));
        let renewal = certificates.clone().watch();
        background.spawn(critical("watcher of certificates", renewal));

        // Requests to components that are compiled are served already, and the others wait.
        compilation.finish().await?;
        serving.spawn(critical("timers", app.start_timers()));
        background.spawn(critical("watcher of files", app.watch()));
        control.set_ready();
        Ok(Self {
            certificates,
            config,
            addresses,
            redirect: redirect_address,
            services,
            tunnels,
            spin,
            drain_over: options.drain_over,
            probes,
            shutdown,
            serving,
            control: serving_control,
            _background: background,
            export,
        })
    }

    /// Returns the configuration that the host was started with.
    pub fn config(&self) -> &AppConfig {
        &self.config
    }

    /// Returns the public address, with the port that was chosen if 0 was requested.
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// Returns the URL of the public port.
    pub fn url(&self) -> String {
        self.certificates.public_url(self.addresses[0])
    }

    /// Returns the URL of the control port for other machines.
    pub fn control_url(&self) -> String {
        self.certificates.control_url(self.addresses[1])
    }

    /// Returns the address whose requests are redirected to the public port, if there is one.
    pub fn redirect_address(&self) -> Option<SocketAddr> {
        self.redirect
    }

    /// Reads the certificates again for new connections and logs the result. After a failure, the
    /// previous certificates stay in use.
    pub async fn reload_certificates(&self) {
        self.certificates.reload().await;
    }

    /// Returns what asks the accept loops whether they run.
    pub(crate) fn probes(&self) -> Vec<Probe> {
        self.probes.to_vec()
    }

    /// Returns the address of the control port.
    pub fn control_address(&self) -> SocketAddr {
        self.addresses[1]
    }
}
