//! Stands in for the executable `spin`: the same command line, the same processes, and the same
//! output. The components run in the runtime of the host.
//!
//! `spin-stand-in up …` starts `spin-stand-in trigger http …`, which owns the port. SIGTERM to the
//! parent ends both, and SIGKILL leaves the child running. Two environment variables control it:
//!
//! - `STAND_IN_RECORD`: the file to which it writes its arguments, environment and processes, as
//!   JSON.
//! - `STAND_IN_MODE`: `fail` exits during the start, `wait` never serves, and `stubborn` ignores
//!   SIGTERM.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use clap::{Args, Parser};
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
    Changes, Embedded, EmbeddedOptions, Limits, Manifest, ManifestUse, Variables,
    backend::{Backend as _, Body, Caller, full},
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
    #[arg(short, long)]
    from: PathBuf,
    #[arg(long, env = "SPIN_HTTP_LISTEN_ADDR")]
    listen: SocketAddr,
    #[arg(long)]
    build: bool,
    #[arg(short, long)]
    env: Vec<String>,
    #[arg(long)]
    variable: Vec<String>,
    #[arg(short, long)]
    quiet: bool,
    #[arg(short = 'L', long)]
    log_dir: Option<PathBuf>,
    #[arg(long)]
    state_dir: Option<PathBuf>,
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
    record()?;
    let app = load(&options).await?;
    if mode() == "wait" {
        eprintln!("waiting");
    } else {
        let listener = TcpListener::bind(options.listen).await?;
        println!("\nServing http://{}", options.listen);
        println!("Available Routes:\n  app: http://{}/...", options.listen);
        tokio::spawn(serve(listener, Arc::new(app)));
    }
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if mode() != "stubborn" {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// Writes what the processes were started with.
fn record() -> Result<()> {
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
    });
    // A reader sees the whole file or none.
    let whole = Path::new(&path).with_extension("new");
    std::fs::write(&whole, record.to_string())?;
    Ok(std::fs::rename(whole, path)?)
}

async fn load(options: &Options) -> Result<Embedded> {
    let manifest = Manifest::load(&options.from, ManifestUse::Embedded)?;
    let lookup = |name: &str| std::env::var(name).ok();
    let variables = Variables::new(
        &manifest,
        &pairs(&options.variable),
        BTreeMap::new(),
        lookup,
    )?;
    let state_dir = options.state_dir.clone();
    let embedded = EmbeddedOptions {
        log_dir: options.log_dir.clone(),
        environment: pairs(&options.env).into_iter().collect(),
        quiet: options.quiet,
        limits: Limits {
            instances_per_component: 20,
            ..Limits::DEFAULT
        },
        ..EmbeddedOptions::new(state_dir.unwrap_or_else(|| manifest.root.join(".spin")))
    };
    let load = move || {
        let app = Embedded::new(embedded)?;
        app.replace(&manifest, &variables, &Changes::default(), || {})?;
        Ok(app)
    };
    tokio::task::spawn_blocking(load).await?
}

fn pairs(texts: &[String]) -> Vec<(String, String)> {
    let pairs = texts.iter().filter_map(|text| text.split_once('='));
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

async fn serve(listener: TcpListener, app: Arc<Embedded>) {
    while let Ok((stream, client)) = listener.accept().await {
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
    request.extensions_mut().insert(Caller::Client(client));
    let response = app.call(request).await;
    response.unwrap_or_else(|_| {
        let mut response = Response::new(full(""));
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
}
