//! The command line: options, logging, and exit.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use spin_runtime::{ManifestOptions, ManifestUse};

use crate::{
    HostOptions,
    config::{AppConfig, Limits},
    dev::{build, process},
    signals::Signals,
    spin,
    telemetry::logging::{self, LogFormat},
    terminal::{self, Painter, Style, print_error_line, print_line},
};

mod browser;
mod doctor;
mod foreign_options;
mod instance_limits;
mod log_options;
mod manuals;
mod proxy_options;
mod remote;
mod summary;
mod tls_options;
mod up;
mod variable_option;

use doctor::Doctor;
use manuals::{Completions, Manual};
use remote::{Close, ListSessions, Publish, Tail};
use up::Up;
use variable_option::VariableOption;

/// The time at exit for writing what components have printed.
const EXIT_FLUSH_TIMEOUT: Duration = Limits::DEFAULT.exit_flush_timeout;

/// Serves Spin components over HTTP and WebSockets, on one port.
#[derive(Parser)]
#[command(name = "socket-host", version)]
struct Cli {
    /// The format of the log.
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        env = "SOCKET_HOST_LOG_FORMAT",
        value_enum,
        default_value_t = LogFormat::Text
    )]
    log_format: LogFormat,
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
    /// Examine whether an application can be served. Takes the options of `up`.
    Doctor(Doctor),
    /// Publish a text to a channel of a running host.
    Publish(Publish),
    /// Print what is published to a channel of a running host.
    Tail(Tail),
    /// List the open WebSockets of a running host.
    Sessions(ListSessions),
    /// Close WebSockets of a running host.
    Close(Close),
    /// Print completions for a shell.
    Completions(Completions),
    /// Print the manual page, or write those of all commands.
    Man(Manual),
    /// Run a command until stdin is closed.
    #[command(name = spin::SUPERVISE, hide = true)]
    Supervise(Supervise),
}

#[derive(Args)]
struct Supervise {
    /// Become the command instead, and end when the supervisor, which has this id, is killed.
    #[arg(long, value_name = "PID")]
    replace: Option<i32>,
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

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    let mut cli = parse_arguments();
    if let Command::Supervise(Supervise { replace, command }) = cli.command {
        return spin::supervise(command, replace);
    }
    // Before there are threads, since the environment is changed.
    if let Command::Up(up) = &mut cli.command
        && let Err(error) = up.take_sockets()
    {
        return fail(&error);
    }
    logging::init(cli.log_format);
    terminal::enable_progress();
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
    logging::flush(EXIT_FLUSH_TIMEOUT);
    result.unwrap_or_else(|error| fail(&error))
}

/// Prints an error, and returns the status of a process that has failed.
fn fail(error: &anyhow::Error) -> ExitCode {
    let label = Painter::stderr().paint(Style::Error, "error:");
    print_error_line(format_args!("{label} {error:#}"));
    ExitCode::FAILURE
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

async fn run_command(command: Command) -> Result<ExitCode> {
    match command {
        Command::Up(up) => return up.run().await,
        Command::Build(from) => build_components(&from).await?,
        Command::Check {
            from,
            variables,
            cache,
            runtime_config,
        } => check(from, variables, cache, runtime_config).await?,
        Command::Doctor(doctor) => return Ok(doctor.run().await),
        Command::Publish(publish) => publish.run().await?,
        Command::Tail(tail) => tail.run().await?,
        Command::Sessions(sessions) => sessions.run().await?,
        Command::Close(close) => return close.run().await,
        Command::Completions(completions) => completions.run(Cli::command()),
        Command::Man(manual) => manual.run(Cli::command())?,
        Command::Supervise(_) => unreachable!("has a runtime of its own"),
    }
    Ok(ExitCode::SUCCESS)
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
    summary::print(&config, "", None);
    Ok(())
}
