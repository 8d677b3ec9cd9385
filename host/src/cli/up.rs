//! The command `socket-host up`: its options, and running its host.

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;
use clap::{
    Args,
    builder::{BoolishValueParser, OsStringValueParser, TypedValueParser as _},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use spin_runtime::SqliteStatement;

use super::{
    CacheFolder, ManifestPath, RuntimeConfigFile, VariableValues,
    browser::{self, Page},
    fail,
    foreign_options::ForeignOptions,
    instance_limits::InstanceLimits,
    log_options::LogOptions,
    proxy_options::ProxyOptions,
    summary,
    tls_options::TlsOptions,
};
#[cfg(feature = "otel")]
use crate::OtlpOptions;
use crate::{
    Host, HostOptions, PassedSockets,
    config::{UpstreamUrl, parse_duration, parse_origin},
    dev::{build, process},
    signals::{Request, Signals},
    spin,
    systemd::{
        notifier::{Notifier, State},
        watchdog,
    },
    terminal::{print_error_line, print_line},
};

/// The options of `socket-host up`.
#[derive(Args)]
pub(super) struct Up {
    #[command(flatten)]
    from: ManifestPath,
    /// The public address, such as `127.0.0.1:3000` or `localhost:3000`.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "SPIN_HTTP_LISTEN_ADDR",
        default_value = "127.0.0.1:3000",
        value_parser = resolve_address
    )]
    listen: SocketAddr,
    #[command(flatten)]
    tls: TlsOptions,
    #[command(flatten)]
    proxies: ProxyOptions,
    /// The address of the control port, for publishing (GRIP), health and metrics.
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:5561",
        value_parser = resolve_address
    )]
    control: SocketAddr,
    /// A name by which requests may address the control port. Addresses and `localhost` are always
    /// accepted. May be repeated.
    #[arg(
        long = "control-host",
        value_name = "NAME",
        env = "SOCKET_HOST_CONTROL_HOST",
        value_delimiter = ','
    )]
    control_names: Vec<String>,
    /// An origin whose pages may publish and read reports, with a token. May be repeated.
    #[arg(
        long = "control-origin",
        value_name = "ORIGIN",
        env = "SOCKET_HOST_CONTROL_ORIGIN",
        value_delimiter = ',',
        value_parser = parse_control_origin
    )]
    control_origins: Vec<String>,
    /// The key that signs tokens between host and components: text, or `base64:` and bytes.
    /// Random by default.
    #[arg(
        long,
        value_name = "KEY",
        env = "SOCKET_HOST_GRIP_KEY",
        hide_env_values = true
    )]
    grip_key: Option<String>,
    /// The Redis server that carries publications between hosts: `redis://`, `redis-sentinel://` for
    /// the master that sentinels name, or `redis-cluster://`. With TLS: `rediss://`,
    /// `rediss-sentinel://`, `rediss-cluster://`.
    #[arg(
        long,
        value_name = "URL",
        env = "SOCKET_HOST_BUS",
        hide_env_values = true
    )]
    bus: Option<String>,
    /// The number of Redis replicas that must have what is published before a publish request succeeds.
    #[arg(
        long,
        value_name = "REPLICAS",
        env = "SOCKET_HOST_BUS_WAIT",
        default_value_t = 0
    )]
    bus_wait: u32,
    /// Forward requests to this server instead of running components: `http://`, `https://`, or
    /// `h2c://` for HTTP/2 without TLS. WebSockets are sent to it as WebSocket-over-HTTP.
    #[arg(
        long,
        value_name = "URL",
        conflicts_with_all = [
            "build", "watch", "state_dir", "env", "variables", "key_values", "quiet", "cache_dir",
            "sqlite", "follow", "truncate_logs", "log_max_size", "log_max_age", "log_keep",
            "disable_pooling", "max_instance_reuse_count",
            "max_instance_concurrent_reuse_count", "max_waiting_requests", "idle_instance_timeout",
        ]
    )]
    upstream: Option<UpstreamUrl>,
    /// Start `spin up` for the manifest, and forward requests to it instead of running components.
    /// Needs Spin: https://spinframework.dev/install
    #[arg(long)]
    spin: bool,
    /// Run the build command of each component first.
    #[arg(long)]
    build: bool,
    /// Build first, rebuild what changes, replace it while sockets stay open, and reload pages.
    #[arg(long)]
    watch: bool,
    /// The folder for stores and logs [default: `.spin` beside the manifest].
    #[arg(long, value_name = "FOLDER")]
    state_dir: Option<PathBuf>,
    /// Set an environment variable in every component. May be repeated.
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = parse_pair)]
    env: Vec<(String, String)>,
    #[command(flatten)]
    variables: VariableValues,
    #[command(flatten)]
    runtime_config: RuntimeConfigFile,
    /// Run SQL before the application starts: a statement for the default database, `@FILE`, or
    /// `@FILE:LABEL` for another database. May be repeated.
    #[arg(long, value_name = "STATEMENT")]
    sqlite: Vec<SqliteStatement>,
    /// Set a key of the default key-value store first. May be repeated.
    #[arg(long = "key-value", value_name = "KEY=VALUE", value_parser = parse_pair)]
    key_values: Vec<(String, String)>,
    /// Write what components print to the log files only.
    #[arg(short, long, aliases = ["sh", "shush"], conflicts_with = "follow")]
    quiet: bool,
    /// Print only the output of this component. May be repeated.
    #[arg(long, value_name = "ID")]
    follow: Vec<String>,
    /// The folder for the logs of components [default: `logs` in the state folder]. With an empty
    /// text, there are no log files.
    #[arg(
        short = 'L',
        long,
        value_name = "FOLDER",
        env = "SPIN_LOG_DIR",
        value_parser = OsStringValueParser::new().map(PathBuf::from)
    )]
    log_dir: Option<PathBuf>,
    #[command(flatten)]
    cache: CacheFolder,
    /// Empty the log files first.
    #[arg(long)]
    truncate_logs: bool,
    #[command(flatten)]
    log: LogOptions,
    #[command(flatten)]
    instances: InstanceLimits,
    /// Compile the components at every start, without the cache.
    #[arg(
        long,
        env = "DISABLE_WASMTIME_CACHE",
        value_parser = BoolishValueParser::new()
    )]
    disable_cache: bool,
    /// Allocate instances one by one, which is slower and reserves less address space.
    #[arg(long)]
    disable_pooling: bool,
    /// Log each request of a client, and each WebSocket that has ended.
    #[arg(
        long,
        env = "SOCKET_HOST_ACCESS_LOG",
        value_parser = BoolishValueParser::new()
    )]
    access_log: bool,
    /// The time over which WebSockets and held requests are closed at shutdown, one by one, such as
    /// `30s`. Otherwise they are closed at once.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    drain_over: Option<Duration>,
    /// Open the application in the browser, or the dashboard with `--open=dashboard`.
    #[arg(
        long,
        value_name = "PAGE",
        value_enum,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "app"
    )]
    open: Option<Page>,
    #[command(flatten)]
    foreign: ForeignOptions,
    /// The sockets that the service manager has passed.
    #[arg(skip)]
    sockets: PassedSockets,
}

impl Up {
    /// Takes the sockets that the service manager has passed. Must be called before the process starts
    /// threads.
    ///
    /// # Errors
    /// Fails if a socket cannot be used.
    pub(super) fn take_sockets(&mut self) -> Result<()> {
        self.sockets = PassedSockets::from_environment()?;
        Ok(())
    }

    /// Serves until a signal arrives or Spin exits.
    ///
    /// # Errors
    /// Fails if the host does not start.
    pub(super) async fn run(self) -> Result<ExitCode> {
        // `--watch` builds by itself, and continues when a build fails. Spin builds with `--spin`.
        let builds = self.build && !self.watch && !self.spin;
        let upstream = self.upstream.clone();
        let open = self.open;
        let options = self.into_host_options()?;
        let mut signals = Signals::new()?;
        let notifier = Notifier::from_environment();
        if builds {
            let manifest = options.load_config()?.manifest;
            let build = build::build(&manifest, None);
            let build = notifier.extend_during(|| "Building components".to_owned(), build);
            tokio::select! {
                result = build => result?,
                () = signals.next() => return Ok(cancel_start(&mut signals).await),
            }
        }
        raise_file_limit();
        let start = Host::start(options);
        let start = notifier.extend_during(|| "Loading the application".to_owned(), start);
        let mut host = tokio::select! {
            host = start => host?,
            () = signals.next() => return Ok(cancel_start(&mut signals).await),
        };
        let url = host.url();
        print_line(format_args!("Serving {url}"));
        summary::print(host.config(), &url, upstream.as_ref());
        if let Some(address) = host.redirect_address() {
            print_line(format_args!("Redirect: http://{address} → {url}"));
        }
        print_line(format_args!("Control: {}", host.control_url()));

        match open {
            Some(Page::App) => browser::open(url.clone()),
            Some(Page::Dashboard) => browser::open(host.control_url()),
            None => {}
        }

        let serving = format!("Serving {url}");
        let is_ready = [State::Ready, State::Status(&serving)];
        notifier.send(&is_ready).await;
        let _watchdog = watchdog::start(&notifier, host.probes());
        let status = loop {
            tokio::select! {
                request = signals.receive() => match request {
                    Request::Stop => break ExitCode::SUCCESS,
                    Request::Reload => {
                        notifier.send(&[State::Reloading]).await;
                        host.reload_certificates().await;
                        notifier.send(&is_ready).await;
                    }
                },
                error = host.failed() => break fail(&error),
            }
        };
        print_error_line(
            "Shutting down: closing sockets, draining requests. Press Ctrl-C again to exit now.",
        );
        notifier.send(&[State::Stopping]).await;
        let stop = notifier.extend_during(host.drain_status(), host.stop());
        tokio::select! {
            _ = stop => Ok(status),
            () = signals.next() => exit_now(),
        }
    }

    /// Returns the options of the host.
    ///
    /// # Errors
    /// Fails if options exclude each other, or Spin cannot be found.
    pub(super) fn into_host_options(self) -> Result<HostOptions> {
        let spin_arguments = self.foreign.spin_arguments(self.spin)?;
        let spin = self
            .spin
            .then(|| spin::find(self.build, spin_arguments))
            .transpose()?;
        let mut options = HostOptions {
            from: self.from.from,
            profile: self.from.profile,
            upstream: self.upstream,
            sockets: self.sockets,
            listen: self.listen,
            bus: self.bus,
            bus_wait: self.bus_wait,
            control: self.control,
            control_names: self.control_names,
            control_origins: self.control_origins,
            grip_key: self.grip_key,
            runtime_config_file: self.runtime_config.path,
            sqlite_statements: self.sqlite,
            key_values: self.key_values,
            state_dir: self.state_dir,
            log_dir: self.log_dir,
            cache_dir: self.cache.cache_dir,
            truncate_logs: self.truncate_logs,
            log_rotation: self.log.rotation(),
            environment: self.env.into_iter().collect(),
            quiet: self.quiet,
            follow: self.follow,
            request_timeout: self.instances.request_timeout(),
            component_limits: self.instances.limits(),
            max_instance_memory: self.instances.memory(),
            disable_cache: self.disable_cache,
            disable_pooling: self.disable_pooling,
            watch: self.watch,
            access_log: self.access_log,
            #[cfg(feature = "otel")]
            otlp: OtlpOptions::from_env()?,
            drain_over: self.drain_over,
            spin,
            ..HostOptions::default()
        };
        self.tls.apply(&mut options)?;
        self.proxies.apply(&mut options);
        self.variables.apply(&mut options);
        Ok(options)
    }
}

/// Waits until the builds and the Spin of a start that was cancelled have exited, or exits when
/// another signal arrives.
async fn cancel_start(signals: &mut Signals) -> ExitCode {
    let exited = tokio::task::spawn_blocking(|| {
        process::wait_for_builds(false);
        spin::wait_for_exit();
    });
    tokio::select! {
        _ = exited => ExitCode::SUCCESS,
        () = signals.next() => exit_now(),
    }
}

/// Exits at once. The supervisor ends Spin.
fn exit_now() -> ! {
    process::wait_for_builds(true);
    std::process::exit(1)
}

/// Raises the limit of open files, of which each socket needs one.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// Resolves an address with a port. Of several addresses that a name has, the first IPv4 address
/// applies, since that is what `localhost` means to most programs.
pub(super) fn resolve_address(text: &str) -> Result<SocketAddr, String> {
    let expected = "expected an address with a port, such as 127.0.0.1:3000 or localhost:3000";
    let addresses: Vec<SocketAddr> = text
        .to_socket_addrs()
        .map_err(|error| format!("{expected} ({error})"))?
        .collect();
    addresses
        .iter()
        .find(|address| address.is_ipv4())
        .or(addresses.first())
        .copied()
        .ok_or_else(|| format!("{expected}: the name has no address"))
}

fn parse_control_origin(text: &str) -> Result<String, String> {
    parse_origin(text)
        .ok_or_else(|| "expected an origin without a path, such as https://example.com".to_owned())
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("expected NAME=VALUE".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_may_be_names() {
        for (text, address) in [
            ("127.0.0.1:3000", "127.0.0.1:3000"),
            ("[::1]:0", "[::1]:0"),
            ("localhost:3000", "127.0.0.1:3000"),
            ("0.0.0.0:80", "0.0.0.0:80"),
        ] {
            assert_eq!(
                resolve_address(text),
                Ok(address.parse().unwrap()),
                "{text}"
            );
        }
        for invalid in [
            "",
            "3000",
            "localhost",
            "127.0.0.1",
            "localhost:x",
            "localhost:99999",
        ] {
            let error = resolve_address(invalid).unwrap_err();
            assert!(error.contains("localhost:3000"), "{invalid}: {error}");
        }
    }
}
