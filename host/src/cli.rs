//! The command line: flags, logging, signals, and the printed summary.

use std::{
    io::IsTerminal as _,
    net::{SocketAddr, ToSocketAddrs as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use spin_runtime::manifest::{Manifest, Route, Target};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::{
    Host, HostOptions,
    config::{AppConfig, Limits, Timer, UpstreamUrl, parse_duration},
    dev::{build, process},
    terminal::{print_error_line, print_line},
};

/// The time at exit for writing what components have printed.
const EXIT_FLUSH_TIMEOUT: Duration = Limits::DEFAULT.exit_flush_timeout;

/// Serves Spin components over HTTP and WebSockets, on one port.
#[derive(Parser)]
#[command(name = "socket-host", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve an application.
    Up(Box<Up>),
    /// Run the build commands of the components.
    Build(ManifestPath),
    /// Read the manifest, compile the components, and print what would be served.
    Check {
        #[command(flatten)]
        from: ManifestPath,
        #[command(flatten)]
        variables: VariableValues,
    },
}

#[derive(Args)]
struct ManifestPath {
    /// The manifest, or its folder [default: spin.toml].
    #[arg(short, long, value_name = "PATH")]
    from: Option<PathBuf>,
}

impl ManifestPath {
    fn path(&self) -> &Path {
        self.from.as_deref().unwrap_or(Path::new("spin.toml"))
    }
}

#[derive(Args)]
struct VariableValues {
    /// Set a variable of the application. May be repeated.
    #[arg(long = "variable", value_name = "NAME=VALUE", value_parser = parse_pair)]
    variables: Vec<(String, String)>,
}

#[derive(Args)]
struct Up {
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
    /// The key that signs tokens between host and components: text, or `base64:` and bytes.
    /// Random by default.
    #[arg(
        long,
        value_name = "KEY",
        env = "SOCKET_HOST_GRIP_KEY",
        hide_env_values = true
    )]
    grip_key: Option<String>,
    /// Forward requests to this server instead of running components: `http://`, `https://`, or
    /// `h2c://` for HTTP/2 without TLS. WebSockets are sent to it as WebSocket-over-HTTP.
    #[arg(
        long,
        value_name = "URL",
        conflicts_with_all = ["build", "watch", "state_dir", "env", "variables", "quiet", "log_dir"]
    )]
    upstream: Option<UpstreamUrl>,
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
    /// Write what components print to the log files only.
    #[arg(short, long)]
    quiet: bool,
    /// The folder for the logs of components [default: `logs` in the state folder].
    #[arg(long, value_name = "FOLDER")]
    log_dir: Option<PathBuf>,
    /// How long a component may take to respond, such as `30s` or `2m`; 10 ms to 366 days.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    request_timeout: Duration,
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("warn,socket_host=info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        // They would go to the same stderr, and panic when it is closed.
        .log_internal_errors(false)
        .init();
    let result = tokio::runtime::Runtime::new()
        .context("cannot start the worker threads")
        .and_then(|runtime| {
            let result = runtime.block_on(run_command(cli.command));
            // A compilation in progress may take long, and its result is not needed.
            runtime.shutdown_timeout(EXIT_FLUSH_TIMEOUT);
            process::wait_for_builds(false);
            result
        });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_error_line(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run_command(command: Command) -> Result<()> {
    match command {
        Command::Up(options) => up(*options).await,
        Command::Build(from) => build_components(from.path()).await,
        Command::Check { from, variables } => check(&from, &variables).await,
    }
}

async fn up(options: Up) -> Result<()> {
    let mut signals = Signals::new()?;
    // `--watch` builds by itself, and continues when a build fails.
    if options.build && !options.watch {
        let manifest = AppConfig::load(options.from.path())?.manifest;
        tokio::select! {
            result = build::build(&manifest, None) => result?,
            () = signals.next() => return Ok(()),
        }
    }
    raise_file_limit();
    let upstream = options.upstream.clone();
    let host = tokio::select! {
        host = Host::start(options.into_host_options()) => host?,
        () = signals.next() => return Ok(()),
    };
    let url = format!("http://{}", host.address());
    print_line(format_args!("Serving {url}"));
    print_summary(host.config(), &url, upstream.as_ref());
    print_line(format_args!("Control: http://{}", host.control_address()));

    signals.next().await;
    print_error_line(
        "Shutting down: closing sockets, draining requests. Press Ctrl-C again to exit now.",
    );
    tokio::select! {
        _ = host.stop() => Ok(()),
        () = signals.next() => {
            process::wait_for_builds(true);
            std::process::exit(1)
        }
    }
}

async fn build_components(from: &Path) -> Result<()> {
    let mut signals = Signals::new()?;
    let manifest = AppConfig::load(from)?.manifest;
    tokio::select! {
        result = build::build(&manifest, None) => result,
        () = signals.next() => bail!("interrupted: not all components were built"),
    }
}

async fn check(from: &ManifestPath, variables: &VariableValues) -> Result<()> {
    let config = crate::check(from.path(), &variables.variables).await?;
    let path = config.manifest.path.display();
    print_line(format_args!("{path} is valid. It would serve:"));
    print_summary(&config, "", None);
    Ok(())
}

impl Up {
    fn into_host_options(self) -> HostOptions {
        HostOptions {
            from: self.from.from,
            upstream: self.upstream,
            listen: self.listen,
            control: self.control,
            control_names: self.control_names,
            grip_key: self.grip_key,
            variables: self.variables.variables,
            state_dir: self.state_dir,
            log_dir: self.log_dir,
            environment: self.env.into_iter().collect(),
            quiet: self.quiet,
            request_timeout: self.request_timeout,
            watch: self.watch,
        }
    }
}

/// Prints the routes and timers of an application.
fn print_summary(config: &AppConfig, url: &str, upstream: Option<&UpstreamUrl>) {
    let (manifest, host) = (&config.manifest, &config.host);
    for warning in &manifest.warnings {
        tracing::warn!(%warning, "manifest warning");
    }
    print_line("Routes:");
    match upstream {
        Some(upstream) => {
            print_line(format_args!("  {url}/... → {upstream}"));
            for route in &host.private {
                print_line(format_args!("  {url}{route} (private)"));
            }
        }
        None => print_triggers(manifest, &host.private, url),
    }
    for passthrough in &host.passthroughs {
        let route = &passthrough.route;
        match &passthrough.upstream {
            Some(upstream) => print_line(format_args!("  {url}{route} → {upstream} (passthrough)")),
            None => print_line(format_args!("  {url}{route} (passthrough)")),
        }
    }
    let timers = config.timers();
    if !timers.is_empty() {
        print_line("Timers:");
    }
    for Timer { target, schedule } in &timers {
        print_line(format_args!("  {target} {schedule}"));
    }
}

fn print_triggers(manifest: &Manifest, private: &[String], url: &str) {
    for trigger in &manifest.triggers {
        let target = match &trigger.target {
            Target::Component(component) => component.clone(),
            Target::Static { status, .. } => format!("static response {status}"),
        };
        match &trigger.route {
            Route::Path(path) => {
                // A route may be written without it.
                let slash = if path.starts_with('/') { "" } else { "/" };
                let note = if private.contains(path) {
                    " (private)"
                } else {
                    ""
                };
                print_line(format_args!("  {url}{slash}{path} → {target}{note}"));
            }
            Route::Private => print_line(format_args!("  (service chaining only) → {target}")),
        }
    }
}

/// Waits for SIGINT, SIGTERM and SIGHUP.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// `None` for a process that was started to outlive its terminal.
    hangup: Option<Signal>,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: (!ignores_hangup())
                .then(|| listen(SignalKind::hangup()))
                .transpose()?,
        })
    }

    async fn next(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = hangup => {}
        }
    }
}

/// Returns whether the process was started with SIGHUP ignored, as by `nohup`. Only Linux tells.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // A bit mask that starts with signal 1, which is SIGHUP.
    ignored
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 == 1)
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
fn resolve_address(text: &str) -> Result<SocketAddr, String> {
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
