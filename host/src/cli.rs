//! The command line: flags, logging, and the printed summary.

use std::{
    ffi::OsString,
    io::IsTerminal as _,
    net::{SocketAddr, ToSocketAddrs as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::{
    Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand,
    builder::{BoolishValueParser, OsStringValueParser, TypedValueParser as _},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use spin_runtime::{
    ManifestOptions, ManifestUse, SqliteStatement,
    manifest::{Manifest, Route, Target},
};
use tracing_subscriber::EnvFilter;

use crate::{
    Host, HostOptions,
    config::{AppConfig, Limits, Timer, UpstreamUrl},
    dev::{build, process},
    foreign_options::ForeignOptions,
    instance_limits::InstanceLimits,
    signals::Signals,
    spin,
    terminal::{print_error_line, print_line},
    variable_option::VariableOption,
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
        #[command(flatten)]
        cache: CacheFolder,
        #[command(flatten)]
        runtime_config: RuntimeConfigFile,
    },
    /// Run a command until stdin is closed.
    #[command(name = spin::SUPERVISE, hide = true)]
    Supervise(Supervise),
}

#[derive(Args)]
struct Supervise {
    /// Become the command instead, and end when the supervisor is killed.
    #[arg(long)]
    replace: bool,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

#[derive(Args)]
struct ManifestPath {
    /// The manifest, or its folder [default: spin.toml].
    #[arg(short, long, value_name = "PATH")]
    from: Option<PathBuf>,
    /// Apply the settings of `[component.ID.profile.NAME]` to each component that has them.
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
}

impl ManifestPath {
    /// Reads the manifest of an application whose components run in this process.
    fn load(&self) -> Result<AppConfig> {
        let path = self.from.as_deref().unwrap_or(Path::new("spin.toml"));
        let options = ManifestOptions {
            usage: ManifestUse::Embedded,
            profile: self.profile.as_deref(),
        };
        Ok(AppConfig::load_with(path, options)?)
    }
}

#[derive(Args)]
struct CacheFolder {
    /// The folder of downloaded components [default: `socket-host` in the user's cache folder].
    #[arg(long, value_name = "FOLDER")]
    cache_dir: Option<PathBuf>,
}

#[derive(Args)]
struct VariableValues {
    /// Set a variable of the application, to a text or to the contents of a file; or set those in a
    /// JSON or TOML file. May be repeated.
    #[arg(
        long = "variable",
        value_name = "NAME=VALUE|NAME=@FILE|@FILE.json|@FILE.toml"
    )]
    variables: Vec<VariableOption>,
}

impl VariableValues {
    /// Adds the values to the options of a host.
    fn apply(self, options: &mut HostOptions) {
        for option in self.variables {
            let names = option.values.iter().map(|(name, _)| name.clone());
            if option.is_shared {
                options.optional_variables.extend(names);
            }
            options.variables.extend(option.values);
        }
    }
}

#[derive(Args)]
struct RuntimeConfigFile {
    /// The file with the stores, databases and variables of this machine: Spin's
    /// `runtime-config.toml`.
    #[arg(
        long = "runtime-config-file",
        value_name = "FILE",
        env = "RUNTIME_CONFIG_FILE"
    )]
    path: Option<PathBuf>,
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
        conflicts_with_all = [
            "build", "watch", "state_dir", "env", "variables", "key_values", "quiet", "log_dir",
            "cache_dir", "sqlite", "follow", "truncate_logs", "disable_pooling",
            "max_instance_reuse_count", "max_instance_concurrent_reuse_count",
            "idle_instance_timeout",
        ]
    )]
    upstream: Option<UpstreamUrl>,
    /// Start `spin up` for the manifest, and forward requests to it instead of running components.
    /// Needs Spin: https://spinframework.dev/install
    #[arg(
        long,
        conflicts_with_all = [
            "disable_pooling", "max_instance_reuse_count", "max_instance_concurrent_reuse_count",
            "idle_instance_timeout",
        ]
    )]
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
    #[command(flatten)]
    foreign: ForeignOptions,
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    let cli = parse_arguments();
    if let Command::Supervise(Supervise { replace, command }) = cli.command {
        return spin::supervise(command, replace);
    }
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
            spin::wait_for_exit();
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

/// Parses the command line. Usage and help name the command that the user has typed.
fn parse_arguments() -> Cli {
    let mut command = Cli::command();
    let program = std::env::args_os().next().unwrap_or_default();
    // Spin sets the variable for its plugins, whose executables have the name of the plugin.
    if std::env::var_os("SPIN_VERSION").is_some()
        && let Some(plugin) = Path::new(&program).file_name()
        && plugin != "socket-host"
    {
        command = command.bin_name(format!("spin {}", plugin.display()));
    }
    let matches = command.get_matches();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

async fn run_command(command: Command) -> Result<()> {
    match command {
        Command::Up(options) => up(*options).await,
        Command::Build(from) => build_components(&from).await,
        Command::Check {
            from,
            variables,
            cache,
            runtime_config,
        } => check(from, variables, cache, runtime_config).await,
        Command::Supervise(_) => unreachable!("has a runtime of its own"),
    }
}

async fn up(options: Up) -> Result<()> {
    options.foreign.check()?;
    let mut signals = Signals::new()?;
    // `--watch` builds by itself, and continues when a build fails. Spin builds with `--spin`.
    if options.build && !options.watch && !options.spin {
        let manifest = options.from.load()?.manifest;
        tokio::select! {
            result = build::build(&manifest, None) => result?,
            () = signals.next() => return Ok(()),
        }
    }
    raise_file_limit();
    let upstream = options.upstream.clone();
    let mut host = tokio::select! {
        host = Host::start(options.into_host_options()?) => host?,
        () = signals.next() => return Ok(()),
    };
    let url = format!("http://{}", host.address());
    print_line(format_args!("Serving {url}"));
    print_summary(host.config(), &url, upstream.as_ref());
    print_line(format_args!("Control: http://{}", host.control_address()));

    let failure = tokio::select! {
        () = signals.next() => None,
        error = host.spin_exited() => {
            tracing::error!(%error, "the upstream has ended");
            Some(error)
        }
    };
    print_error_line(
        "Shutting down: closing sockets, draining requests. Press Ctrl-C again to exit now.",
    );
    tokio::select! {
        _ = host.stop() => failure.map_or(Ok(()), Err),
        () = signals.next() => {
            process::wait_for_builds(true);
            std::process::exit(1)
        }
    }
}

async fn build_components(from: &ManifestPath) -> Result<()> {
    let mut signals = Signals::new()?;
    let manifest = from.load()?.manifest;
    tokio::select! {
        result = build::build(&manifest, None) => result,
        () = signals.next() => bail!("interrupted: not all components were built"),
    }
}

async fn check(
    from: ManifestPath,
    variables: VariableValues,
    cache: CacheFolder,
    runtime_config: RuntimeConfigFile,
) -> Result<()> {
    let mut options = HostOptions {
        from: from.from,
        profile: from.profile,
        cache_dir: cache.cache_dir,
        runtime_config_file: runtime_config.path,
        ..HostOptions::default()
    };
    variables.apply(&mut options);
    let config = crate::check(options).await?;
    let path = config.manifest.path.display();
    print_line(format_args!("{path} is valid. It would serve:"));
    print_summary(&config, "", None);
    Ok(())
}

impl Up {
    fn into_host_options(self) -> Result<HostOptions> {
        let spin = self.spin.then(|| spin::find(self.build)).transpose()?;
        let mut options = HostOptions {
            from: self.from.from,
            profile: self.from.profile,
            upstream: self.upstream,
            listen: self.listen,
            control: self.control,
            control_names: self.control_names,
            grip_key: self.grip_key,
            runtime_config_file: self.runtime_config.path,
            sqlite_statements: self.sqlite,
            key_values: self.key_values,
            state_dir: self.state_dir,
            log_dir: self.log_dir,
            cache_dir: self.cache.cache_dir,
            truncate_logs: self.truncate_logs,
            environment: self.env.into_iter().collect(),
            quiet: self.quiet,
            follow: self.follow,
            request_timeout: self.instances.request_timeout(),
            component_limits: self.instances.limits(),
            max_instance_memory: self.instances.memory(),
            disable_cache: self.disable_cache,
            disable_pooling: self.disable_pooling,
            watch: self.watch,
            spin,
            ..HostOptions::default()
        };
        self.variables.apply(&mut options);
        Ok(options)
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
