//! Stands in for the executable `spin`: the same command line, the same processes, and the same
//! output. The components run in the runtime of the host.
//!
//! `spin-stand-in up …` starts `spin-stand-in trigger http …`, which owns the port. SIGTERM to the
//! parent ends both, and SIGKILL leaves the child running. Two environment variables control it:
//!
//! - `STAND_IN_RECORD`: the file to which it writes its arguments, environment, variables and
//!   processes, as JSON.
//! - `STAND_IN_MODE`: `fail` exits during the start, `wait` never serves, and `stubborn` ignores
//!   SIGTERM. `wait stubborn` does both.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use clap::{
    Args, Parser,
    builder::{OsStringValueParser, TypedValueParser as _},
};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustix::process::{Pid, Signal, getpid, getppid, kill_process};
use serde_json::json;
use spin_runtime::{
    Changes, Embedded, EmbeddedOptions, Limits, Manifest, ManifestOptions, ManifestUse,
    RuntimeConfig, SqliteStatement, Variables,
    backend::{Backend as _, Body, Caller, Client, full},
};
use tokio::{
    net::TcpListener,
    process::Command,
    signal::unix::{SignalKind, signal},
};

/// The status of a start that fails.
const FAILURE: u8 = 3;

#[derive(Parser)]
enum Cli {
    Up(Options),
    #[command(subcommand)]
    Trigger(Trigger),
}

#[derive(Parser)]
enum Trigger {
    Http(Options),
}

/// The options of Spin that a host may pass on.
#[derive(Args)]
struct Options {
    #[arg(short, long, default_value = "spin.toml")]
    from: PathBuf,
    #[arg(long, env = "SPIN_HTTP_LISTEN_ADDR")]
    listen: SocketAddr,
    #[arg(long)]
    build: bool,
    #[arg(short, long)]
    env: Vec<String>,
    #[arg(long)]
    variable: Vec<String>,
    #[arg(long)]
    profile: Option<String>,
    #[arg(long, env = "RUNTIME_CONFIG_FILE")]
    runtime_config_file: Option<PathBuf>,
    #[arg(long)]
    sqlite: Vec<SqliteStatement>,
    #[arg(long)]
    key_value: Vec<String>,
    #[arg(short, long)]
    quiet: bool,
    #[arg(long)]
    follow: Vec<String>,
    #[arg(
        short = 'L',
        long,
        env = "SPIN_LOG_DIR",
        value_parser = OsStringValueParser::new().map(PathBuf::from)
    )]
    log_dir: Option<PathBuf>,
    #[arg(long)]
    truncate_logs: bool,
    #[arg(long)]
    state_dir: Option<PathBuf>,
    #[arg(long)]
    cache_dir: Option<PathBuf>,
    #[arg(long)]
    disable_cache: bool,
    #[arg(long)]
    disable_pooling: bool,
    #[arg(long, env = "SPIN_MAX_INSTANCE_MEMORY")]
    max_instance_memory: Option<usize>,
    #[command(flatten)]
    _ignored: Ignored,
}

/// Options that are accepted and have no effect.
#[derive(Args)]
#[allow(dead_code)]
struct Ignored {
    #[arg(long)]
    max_instance_reuse_count: Option<String>,
    #[arg(long)]
    max_instance_concurrent_reuse_count: Option<String>,
    #[arg(long)]
    idle_instance_timeout: Option<String>,
    #[arg(long)]
    temp: Option<PathBuf>,
    #[arg(long)]
    direct_mounts: bool,
    #[arg(long)]
    insecure: bool,
    #[arg(long)]
    debug_info: bool,
    #[arg(long)]
    http1_max_buf_size: Option<usize>,
    #[arg(long)]
    cache: Option<PathBuf>,
    #[arg(long)]
    allow_transient_write: bool,
    #[arg(long)]
    component_id: Vec<String>,
    #[arg(long)]
    experimental_wasi_otel: bool,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    match Cli::parse() {
        Cli::Up(options) => up(&options).await,
        Cli::Trigger(Trigger::Http(options)) => trigger(options).await,
    }
}

fn mode() -> String {
    std::env::var("STAND_IN_MODE").unwrap_or_default()
}

/// Starts the trigger, and passes signals on to it.
async fn up(options: &Options) -> Result<ExitCode> {
    if options.build {
        println!("Building component with `make`");
    }
    if mode() == "fail" {
        eprintln!("Error: cannot load the application\n\nCaused by:\n  the oven is cold");
        return Ok(ExitCode::from(FAILURE));
    }
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(["trigger", "http"])
        .args(std::env::args_os().skip(2))
        .spawn()?;
    let pid = child.id().context("the trigger has exited")?;
    let pid = Pid::from_raw(pid.try_into()?).context("no process id")?;
    loop {
        tokio::select! {
            status = child.wait() => {
                let code = status?.code().unwrap_or(1);
                return Ok(ExitCode::from(u8::try_from(code)?));
            }
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        kill_process(pid, Signal::TERM)?;
    }
}

/// Serves the components.
async fn trigger(options: Options) -> Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let variables = variables(&options.variable)?;
    record(&variables)?;
    let app = load(&options, variables).await?;
    if mode().contains("wait") {
        eprintln!("waiting");
    } else {
        let listener = TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
        println!("\nServing http://{address}");
        println!("Available Routes:\n  app: http://{address}/...");
        tokio::spawn(serve(listener, Arc::new(app)));
    }
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if !mode().contains("stubborn") {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// Writes what the processes were started with.
fn record(variables: &BTreeMap<String, String>) -> Result<()> {
    let Some(path) = std::env::var_os("STAND_IN_RECORD") else {
        return Ok(());
    };
    let environment: BTreeMap<_, _> = std::env::vars()
        .filter(|(name, _)| name.starts_with("SPIN_"))
        .collect();
    let record = json!({
        "processes": [
            getppid().map(|pid| pid.as_raw_nonzero().get()),
            getpid().as_raw_nonzero().get(),
        ],
        "arguments": std::env::args().skip(3).collect::<Vec<_>>(),
        "environment": environment,
        "variables": variables,
    });
    // A reader sees the whole file or none.
    let whole = Path::new(&path).with_extension("new");
    std::fs::write(&whole, record.to_string())?;
    Ok(std::fs::rename(whole, path)?)
}

async fn load(options: &Options, variables: BTreeMap<String, String>) -> Result<Embedded> {
    let manifest_options = ManifestOptions {
        usage: ManifestUse::Embedded,
        profile: options.profile.as_deref(),
    };
    let manifest = Manifest::load(&options.from, manifest_options)?;
    let runtime_config = match &options.runtime_config_file {
        Some(file) => RuntimeConfig::load(file)?,
        None => RuntimeConfig::default(),
    };
    // Spin ignores names that the manifest does not declare.
    let declared = variables
        .into_iter()
        .filter(|(name, _)| manifest.variables.contains_key(name));
    let variables = Variables::with_providers(
        &manifest,
        &declared.collect::<Vec<_>>(),
        &runtime_config.variable_providers,
        BTreeMap::new(),
        |name| std::env::var(name).ok(),
    )?;
    let default = Limits::DEFAULT;
    let memory = options
        .max_instance_memory
        .or(runtime_config.max_instance_memory);
    let state_dir = options
        .state_dir
        .clone()
        .or(runtime_config.state_dir.clone())
        .unwrap_or_else(|| manifest.root.join(".spin"));
    let embedded = EmbeddedOptions {
        log_dir: options.log_dir.clone().or(runtime_config.log_dir.clone()),
        cache_dir: options.cache_dir.clone(),
        truncate_logs: options.truncate_logs,
        environment: pairs(&options.env).into_iter().collect(),
        quiet: options.quiet,
        follow: options.follow.clone(),
        cache: !options.disable_cache,
        pooling: !options.disable_pooling,
        limits: Limits {
            instances_per_component: 20,
            instance_memory_bytes: memory.unwrap_or(default.instance_memory_bytes),
            ..default
        },
        runtime_config,
        sqlite_statements: options.sqlite.clone(),
        ..EmbeddedOptions::new(state_dir)
    };
    let load = move || {
        let app = Embedded::new(embedded)?;
        app.replace(&manifest, &variables, &Changes::default(), || {})?;
        anyhow::Ok(app)
    };
    let app = tokio::task::spawn_blocking(load).await??;
    let keys = pairs(&options.key_value).into_iter();
    let keys: Vec<_> = keys.map(|(key, value)| (key, value.into_bytes())).collect();
    if !keys.is_empty() {
        app.set_keys(keys).await?;
    }
    Ok(app)
}

/// Returns the values of `--variable NAME=VALUE` and `--variable @FILE.json`.
fn variables(options: &[String]) -> Result<BTreeMap<String, String>> {
    let mut variables = BTreeMap::new();
    for option in options {
        if let Some(file) = option.strip_prefix('@') {
            let text = std::fs::read_to_string(file).context("--variable")?;
            variables.extend(serde_json::from_str::<BTreeMap<String, String>>(&text)?);
        } else {
            variables.extend(pairs(std::slice::from_ref(option)));
        }
    }
    Ok(variables)
}

fn pairs(texts: &[String]) -> Vec<(String, String)> {
    let pairs = texts.iter().filter_map(|text| text.split_once('='));
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

async fn serve(listener: TcpListener, app: Arc<Embedded>) {
    while let Ok((stream, client)) = listener.accept().await {
        // Nagle's algorithm would delay responses.
        let _ = stream.set_nodelay(true);
        let app = app.clone();
        let service = service_fn(move |request| {
            let app = app.clone();
            async move { Ok::<_, Infallible>(handle(&app, request, client).await) }
        });
        tokio::spawn(async move {
            let builder = auto::Builder::new(TokioExecutor::new());
            // The host handles errors of connections.
            let _ = builder
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn handle(app: &Embedded, request: Request<Incoming>, client: SocketAddr) -> Response<Body> {
    let mut request = request.map(|body| body.map_err(Into::into).boxed_unsync());
    request
        .extensions_mut()
        .insert(Caller::Client(Client::plain(client)));
    let response = app.call(request).await;
    response.unwrap_or_else(|_| {
        let mut response = Response::new(full(""));
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
}
