//! The command line of socket-host: flags, logging, signals.

use std::{
    io::IsTerminal,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket_host::{
    Host, HostOptions,
    terminal::{note, tell},
};
use spin_runtime::manifest::{Manifest, Route, Target, UpstreamUrl, parse_duration};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// How long what is left may take when all is said and done: the components' last lines are still
/// written.
const LAST: Duration = Duration::from_millis(500);

/// Serves Spin components over HTTP and WebSockets, on one port.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the application of a manifest.
    Up(Box<Up>),
    /// Run the components' build commands.
    Build(From),
    /// Read the manifest, compile the components, and say what would be served or what is wrong.
    Check {
        #[command(flatten)]
        from: From,
        #[command(flatten)]
        variables: VariableValues,
    },
}

#[derive(Args)]
struct From {
    /// The manifest, or its folder [default: spin.toml].
    #[arg(short, long, value_name = "PATH")]
    from: Option<PathBuf>,
}

impl From {
    fn path(&self) -> &Path {
        self.from.as_deref().unwrap_or(Path::new("spin.toml"))
    }
}

#[derive(Args)]
struct VariableValues {
    /// Give a variable of the application a value. May be repeated.
    #[arg(long = "variable", value_name = "NAME=VALUE", value_parser = pair)]
    variables: Vec<(String, String)>,
}

#[derive(Args)]
struct Up {
    #[command(flatten)]
    from: From,
    /// The public address.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "SPIN_HTTP_LISTEN_ADDR",
        default_value = "127.0.0.1:3000"
    )]
    listen: SocketAddr,
    /// The address where components publish (GRIP) and the host tells its health.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:5561")]
    control: SocketAddr,
    /// The key of the tokens between host and components: text, or `base64:` and bytes. Random when not given.
    #[arg(
        long,
        value_name = "KEY",
        env = "SOCKET_HOST_GRIP_KEY",
        hide_env_values = true
    )]
    grip_key: Option<String>,
    /// Forward requests to this server instead of running components: `http://`, `https://`, or
    /// `h2c://` for HTTP/2 without TLS. WebSockets reach it as WebSocket-over-HTTP.
    #[arg(
        long,
        value_name = "URL",
        conflicts_with_all = ["build", "watch", "state_dir", "env", "variables", "quiet", "log_dir"]
    )]
    upstream: Option<UpstreamUrl>,
    /// Run each component's build command first.
    #[arg(long)]
    build: bool,
    /// Build first, and again what changes; exchange it while sockets stay open; reload open pages.
    #[arg(long)]
    watch: bool,
    /// Where stores and logs are kept [default: `.spin` beside the manifest].
    #[arg(long, value_name = "FOLDER")]
    state_dir: Option<PathBuf>,
    /// Set an environment variable in every component. May be repeated.
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    #[command(flatten)]
    variables: VariableValues,
    /// Do not show what components print; it still goes to the log files.
    #[arg(short, long)]
    quiet: bool,
    /// Where components' logs go [default: `logs` in the state folder].
    #[arg(long, value_name = "FOLDER")]
    log_dir: Option<PathBuf>,
    /// How long a component may take to answer, such as `30s` or `2m`; 10 ms to 366 days.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    request_timeout: Duration,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| EnvFilter::new("warn,socket_host=info")),
        )
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        // It would be told to the same stderr, with a panic when that is closed.
        .log_internal_errors(false)
        .init();
    let ended = tokio::runtime::Runtime::new()
        .context("cannot start the threads that serve")
        .and_then(|runtime| {
            let ended = runtime.block_on(run(cli.command));
            // A compilation under way may take long, and nobody waits for it any more.
            runtime.shutdown_timeout(LAST);
            socket_host::wait_for_builds(false);
            ended
        });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<()> {
    match command {
        Command::Up(options) => up(*options).await,
        Command::Build(from) => build(from.path()).await,
        Command::Check { from, variables } => check(from, variables).await,
    }
}

async fn build(from: &Path) -> Result<()> {
    let mut signals = Signals::new()?;
    let manifest = Manifest::load(from)?;
    tokio::select! {
        built = socket_host::build(&manifest, None) => built,
        () = signals.next() => bail!("stopped before everything was built"),
    }
}

async fn up(options: Up) -> Result<()> {
    let mut signals = Signals::new()?;
    // Watching builds by itself, and goes on when that fails.
    if options.build && !options.watch {
        let manifest = Manifest::load(options.from.path())?;
        tokio::select! {
            built = socket_host::build(&manifest, None) => built?,
            () = signals.next() => return Ok(()),
        }
    }
    raise_file_limit();
    let host_options = HostOptions {
        from: options.from.from,
        upstream: options.upstream.clone(),
        listen: options.listen,
        control: options.control,
        grip_key: options.grip_key,
        variables: options.variables.variables,
        state_dir: options.state_dir,
        log_dir: options.log_dir,
        environment: options.env.into_iter().collect(),
        quiet: options.quiet,
        request_timeout: options.request_timeout,
        watch: options.watch,
    };
    let host = tokio::select! {
        host = Host::start(host_options) => host?,
        () = signals.next() => return Ok(()),
    };
    tell(format_args!("Serving http://{}", host.address()));
    let base = format!("http://{}", host.address());
    describe(host.manifest(), &base, options.upstream.as_ref());
    tell(format_args!("Control: http://{}", host.control_address()));

    signals.next().await;
    note("Stopping: sockets are closed, requests may finish. Once more to stop at once.");
    tokio::select! {
        _ = host.stop() => Ok(()),
        () = signals.next() => {
            socket_host::wait_for_builds(true);
            std::process::exit(1)
        }
    }
}

async fn check(from: From, variables: VariableValues) -> Result<()> {
    let host = socket_host::check(from.path(), &variables.variables).await?;
    tell(format_args!(
        "{} is fine. It would serve:",
        host.path.display()
    ));
    describe(&host, "", None);
    Ok(())
}

/// Says what is served, and where what is not served here goes.
fn describe(manifest: &Manifest, base: &str, upstream: Option<&UpstreamUrl>) {
    for warning in &manifest.warnings {
        tracing::warn!("{warning}");
    }
    tell("Routes:");
    match upstream {
        Some(upstream) => {
            tell(format_args!("  {base}/... → {upstream}"));
            for route in &manifest.host.private {
                tell(format_args!("  {base}{route} (private)"));
            }
        }
        None => describe_triggers(manifest, base),
    }
    for passthrough in &manifest.host.passthrough {
        let route = &passthrough.route;
        match &passthrough.upstream {
            Some(own) => tell(format_args!("  {base}{route} → {own} (passed through)")),
            None => tell(format_args!("  {base}{route} (passed through)")),
        }
    }
    if !manifest.host.timers.is_empty() {
        tell("Timers:");
    }
    for timer in &manifest.host.timers {
        let (least, most) = (
            humantime::format_duration(timer.least),
            humantime::format_duration(timer.most),
        );
        let every = if timer.least == timer.most {
            least.to_string()
        } else {
            format!("{least} to {most}")
        };
        tell(format_args!(
            "  {} {} every {every}",
            timer.method, timer.path
        ));
    }
}

fn describe_triggers(manifest: &Manifest, base: &str) {
    for trigger in &manifest.triggers {
        let target = match &trigger.target {
            Target::Component(component) => component.clone(),
            Target::Static { status, .. } => format!("static response {status}"),
        };
        match &trigger.route {
            Route::Path(path) => {
                let private = if manifest.host.private.contains(path) {
                    " (private)"
                } else {
                    ""
                };
                tell(format_args!("  {base}{path} → {target}{private}"));
            }
            Route::Private => tell(format_args!("  (by service chaining only) → {target}")),
        }
    }
}

/// SIGINT, SIGTERM and SIGHUP.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// `None` for a host that was told to outlive its terminal.
    hangup: Option<Signal>,
}

impl Signals {
    fn new() -> Result<Self> {
        let on = |kind| signal(kind).context("cannot listen to signals");
        let hangup = !hangup_is_ignored();
        Ok(Self {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
            hangup: hangup.then(|| on(SignalKind::hangup())).transpose()?,
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

/// Whether SIGHUP was ignored when the process started, as `nohup` does; Linux alone tells.
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // A bit for each signal, from the first, which this one is.
    ignored
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 == 1)
}

/// Each socket needs a file descriptor, and systems begin with a low limit.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!("the limit of open files stays as it is: {error}");
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("expected NAME=VALUE".into()),
    }
}
