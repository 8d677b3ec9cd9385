//! The load program: measures a running server, or starts several servers and compares them.
//! `docs/benchmarks.md` explains the figures.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};

mod all;
mod app;
mod backend;
mod clock;
mod deflate;
mod event_stream;
mod http;
mod http2;
mod layers;
mod measure;
mod message;
mod process;
mod publisher;
mod report;
mod socket;
mod sockets;
mod stats;
mod stream;
mod tally;
mod target;
mod websocket;

use layers::Layers;
use measure::{fanout, flat_out, get, hostile, idle, open, ping, start, storm};
use process::{Launch, Processes};
use report::Report;
use socket::Transport;
use target::{Target, parse_url};

/// One loopback address has about 28,000 ephemeral ports.
const SOCKETS_MAX: usize = 27_000;
const CONNECTIONS_MAX: usize = 1_000;
const LENGTH_MAX: usize = 256 << 10;

/// Measures a WebSocket server on this machine
#[derive(Debug, Parser)]
#[command(name = "load", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print JSON instead of a table
    #[arg(long, global = true)]
    json: bool,
    /// Number of runs; the table shows the median, minimum and maximum
    #[arg(long, global = true, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100))]
    runs: u64,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure the latency of a message to many sockets
    Fanout {
        #[command(flatten)]
        server: ServerOptions,
        #[command(flatten)]
        options: fanout::Options,
    },
    /// Measure deliveries per second when publishing as fast as possible
    FlatOut {
        #[command(flatten)]
        server: ServerOptions,
        #[command(flatten)]
        options: flat_out::Options,
    },
    /// Measure how many sockets can be opened per second
    Open {
        #[command(flatten)]
        server: ServerOptions,
        #[command(flatten)]
        options: open::Options,
    },
    /// Measure the server's memory per idle socket
    Idle {
        #[command(flatten)]
        server: ServerOptions,
        /// Process id of the server; its children are included
        #[arg(long)]
        pid: u32,
        #[command(flatten)]
        options: idle::Options,
    },
    /// Measure the server's memory per connection of hostile clients
    Hostile {
        #[command(flatten)]
        server: ServerOptions,
        /// Process id of the server; its children are included
        #[arg(long)]
        pid: u32,
        #[command(flatten)]
        options: hostile::Options,
    },
    /// Measure round trips of pings per second
    Ping {
        #[command(flatten)]
        server: ServerOptions,
        #[command(flatten)]
        options: ping::Options,
    },
    /// Measure small GET requests per second, sent by wrk
    Get {
        #[command(flatten)]
        server: ServerOptions,
        #[command(flatten)]
        options: get::Options,
    },
    /// Cut all sockets at once, and measure the time until they are back and have resumed
    Storm {
        #[command(flatten)]
        server: ServerOptions,
        #[command(flatten)]
        options: storm::Options,
    },
    /// Start a server and measure the time to the first byte of a response
    Start {
        /// URL at which it responds, http://HOST:PORT/PATH
        #[arg(long, default_value = "http://127.0.0.1:3000/")]
        url: String,
        /// Command that starts it, after `--`
        #[arg(required = true, last = true)]
        command: Vec<String>,
    },
    /// Run the backend that `all` puts behind proxies
    Backend {
        /// Address to listen on
        #[arg(long, default_value = "127.0.0.1:8080")]
        listen: SocketAddr,
        /// Channel to which it subscribes sockets
        #[arg(long, default_value = "orders")]
        channel: String,
    },
    /// Start socket-host, and other servers to compare it with, and measure everything
    All(all::Options),
}

/// A running server
#[derive(Args, Clone, Debug)]
struct ServerOptions {
    /// WebSocket, ws://HOST:PORT/PATH, or held stream, http://HOST:PORT/PATH
    #[arg(long, default_value = "ws://127.0.0.1:3000/api/ws")]
    url: String,
    /// URL for publishing
    #[arg(long, default_value = "http://127.0.0.1:5561/publish/")]
    control: String,
    /// Channel to which the sockets are subscribed
    #[arg(long, default_value = "orders")]
    channel: String,
    /// Token sent with each publish as `Authorization: Bearer`
    #[arg(long)]
    bearer: Option<String>,
    /// Path for `get`, for which the server returns 200
    #[arg(long, default_value = "/api/orders?limit=1")]
    path: String,
}

impl ServerOptions {
    fn target(&self) -> Result<Target> {
        let (transport, scheme) = if self.url.starts_with("http:") {
            (Transport::Stream, "http")
        } else {
            (Transport::WebSocket, "ws")
        };
        let (address, path) = parse_url(&self.url, scheme).context("--url")?;
        let (control, publish_path) = parse_url(&self.control, "http").context("--control")?;
        let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        ensure!(
            self.path.starts_with('/') && is_plain(&self.path),
            "--path {:?} is not an ASCII path that starts with /",
            self.path
        );
        ensure!(
            self.bearer.as_deref().is_none_or(is_plain),
            "--bearer contains spaces, control characters or non-ASCII characters"
        );
        Ok(Target {
            address,
            peers: Vec::new(),
            greeting: None,
            transport,
            layers: Layers::Plain,
            tls: None,
            path,
            get_path: self.path.clone(),
            ready_path: self.path.clone(),
            control,
            publish_path,
            channel: self.channel.clone(),
            bearer: self.bearer.clone(),
        })
    }
}

fn main() -> Result<()> {
    let Cli {
        command,
        json,
        runs,
    } = Cli::parse();
    let mut report = Report::default();
    if let Command::Backend { listen, channel } = command {
        return backend::serve(listen, channel);
    }
    if let Command::All(options) = &command {
        all::run(options, runs, &mut report)?;
    } else {
        process::raise_open_files(sockets(&command))?;
        for _ in 0..runs {
            let (name, figures) = measure_once(&command)?;
            report.add(&name, "", figures);
        }
    }
    let text = if json {
        format!("{:#}\n", report.json())
    } else {
        report.table()
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("cannot write the figures")?;
    let faults = report.faults();
    ensure!(
        faults.is_empty(),
        "measurements failed: {}",
        faults.join("; ")
    );
    Ok(())
}

fn measure_once(command: &Command) -> Result<(String, Vec<report::Figure>)> {
    let (server, figures) = match command {
        Command::Fanout { server, options } => (
            server,
            fanout::run(&server.target()?, options, &Processes::default())?,
        ),
        Command::FlatOut { server, options } => {
            (server, flat_out::run(&server.target()?, options)?)
        }
        Command::Open { server, options } => (server, open::run(&server.target()?, options)?),
        Command::Idle {
            server,
            pid,
            options,
        } => (server, idle::run(&server.target()?, *pid, options)?),
        Command::Hostile {
            server,
            pid,
            options,
        } => (server, hostile::run(&server.target()?, *pid, options)?),
        Command::Ping { server, options } => (server, ping::run(&server.target()?, options)?),
        Command::Get { server, options } => (server, get::run(&server.target()?, options)?),
        Command::Storm { server, options } => (server, storm::run(&server.target()?, options)?),
        Command::Start {
            url,
            command: server,
        } => {
            let (address, path) = parse_url(url, "http").context("--url")?;
            return Ok((
                url.clone(),
                start::run(&Launch::from_command(server)?, address, &path)?,
            ));
        }
        Command::Backend { .. } | Command::All(_) => unreachable!("not a single measurement"),
    };
    Ok((server.url.clone(), figures))
}

/// Returns the number of sockets that are open at the same time.
fn sockets(command: &Command) -> usize {
    match command {
        Command::Fanout { options, .. } => options.sockets,
        Command::FlatOut { options, .. } => options.sockets,
        Command::Open { options, .. } => options.sockets,
        Command::Idle { options, .. } => options.sockets + options.before,
        Command::Hostile { options, .. } => options.connections,
        Command::Ping { options, .. } => options.sockets,
        Command::Get { options, .. } => options.connections,
        Command::Storm { options, .. } => options.sockets,
        Command::Start { .. } | Command::Backend { .. } | Command::All(_) => 0,
    }
}

fn parse_up_to(text: &str, max: usize) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (1..=max).contains(&number) => Ok(number),
        _ => Err(format!("expected a number from 1 to {max}")),
    }
}

/// Parses a number of sockets.
fn count(text: &str) -> Result<usize, String> {
    parse_up_to(text, SOCKETS_MAX)
}

/// Parses a number of connections or a concurrency.
fn connections(text: &str) -> Result<usize, String> {
    parse_up_to(text, CONNECTIONS_MAX)
}

/// Parses a number of processors.
fn processors(text: &str) -> Result<usize, String> {
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    parse_up_to(text, available)
}

/// Parses the length of a message.
fn length(text: &str) -> Result<usize, String> {
    parse_up_to(text, LENGTH_MAX)
}

/// Returns the folder of the servers in this repository.
fn servers() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/load/servers"))
}
