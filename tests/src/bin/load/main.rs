//! The load program: measures a running server, or starts servers and measures
//! them side by side. What each figure means is in `docs/benchmarks.md`.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand};

mod all;
mod backend;
mod clock;
mod frame;
mod http;
mod measure;
mod message;
mod process;
mod publisher;
mod report;
mod sockets;
mod stats;
mod stream;
mod tally;
mod target;

use measure::{fanout, flat_out, get, idle, open, ping, start};
use report::Report;
use sockets::Kind;
use target::{Start, Target};

/// Below the 28,000 ports that one loopback address has to give.
const SOCKETS_MAX: usize = 27_000;
const CONNECTIONS_MAX: usize = 1_000;
const LENGTH_MAX: usize = 256 << 10;

/// Measure a server of WebSockets on this machine
#[derive(Debug, Parser)]
#[command(name = "load", max_term_width = 100)]
struct Command {
    #[command(subcommand)]
    what: What,
    /// Print JSON instead of a table
    #[arg(long, global = true)]
    json: bool,
    /// Measure so many times; the table shows the middle, least and greatest
    #[arg(long, global = true, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100))]
    runs: u64,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Publish now and then to many sockets: latency
    Fanout {
        #[command(flatten)]
        server: ServerOptions,
        #[command(flatten)]
        options: fanout::Options,
    },
    /// Publish as fast as possible to many sockets: deliveries a second
    FlatOut {
        #[command(flatten)]
        server: ServerOptions,
        #[command(flatten)]
        options: flat_out::Options,
    },
    /// Open sockets: how many a second
    Open {
        #[command(flatten)]
        server: ServerOptions,
        #[command(flatten)]
        options: open::Options,
    },
    /// Hold idle sockets: the server's memory for each
    Idle {
        #[command(flatten)]
        server: ServerOptions,
        /// The server's process; its children are counted with it
        #[arg(long)]
        pid: u32,
        #[command(flatten)]
        options: idle::Options,
    },
    /// Ping and wait for the pong: round trips a second
    Ping {
        #[command(flatten)]
        server: ServerOptions,
        #[command(flatten)]
        options: ping::Options,
    },
    /// Small GETs: requests a second
    Get {
        #[command(flatten)]
        server: ServerOptions,
        #[command(flatten)]
        options: get::Options,
    },
    /// Start a server: time to the first byte it answers
    Start {
        /// Where it will answer, http://HOST:PORT/PATH
        #[arg(long, default_value = "http://127.0.0.1:3000/")]
        url: String,
        /// The command, after `--`
        #[arg(required = true, last = true)]
        command: Vec<String>,
    },
    /// Be the backend that `all` puts behind proxies
    Backend {
        /// Where it listens
        #[arg(long, default_value = "127.0.0.1:8080")]
        listen: SocketAddr,
        /// The channel that it subscribes to
        #[arg(long, default_value = "orders")]
        channel: String,
    },
    /// Start socket-host, and others to compare it with, and measure everything
    All(all::Options),
}

/// A server that is running already
#[derive(Args, Clone, Debug)]
struct ServerOptions {
    /// Its WebSocket, ws://HOST:PORT/PATH, or its held stream, http://HOST:PORT/PATH
    #[arg(long, default_value = "ws://127.0.0.1:3000/api/ws")]
    url: String,
    /// Its control port
    #[arg(long, default_value = "http://127.0.0.1:5561/publish/")]
    control: String,
    /// The channel that its sockets are subscribed to
    #[arg(long, default_value = "orders")]
    channel: String,
    /// Token sent with each publish as `Authorization: Bearer`
    #[arg(long)]
    bearer: Option<String>,
    /// A path that it answers with 200, for `get`
    #[arg(long, default_value = "/api/orders?limit=1")]
    path: String,
}

impl ServerOptions {
    fn target(&self) -> Result<Target> {
        let kind = match self.url.starts_with("http:") {
            true => Kind::Stream,
            false => Kind::WebSocket,
        };
        let scheme = match kind {
            Kind::Stream => "http",
            Kind::WebSocket => "ws",
        };
        let (address, path) = target::url(&self.url, scheme).context("--url")?;
        let (control, publish_path) = target::url(&self.control, "http").context("--control")?;
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        ensure!(
            self.path.starts_with('/') && plain(&self.path),
            "--path {:?} is not a plain ASCII path",
            self.path
        );
        ensure!(
            self.bearer.as_deref().is_none_or(plain),
            "--bearer is not a token: it has characters beyond ASCII"
        );
        Ok(Target {
            address,
            kind,
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
    let Command { what, json, runs } = Command::parse();
    let mut report = Report::default();
    if let What::Backend { listen, channel } = what {
        return backend::serve(listen, channel);
    }
    if let What::All(options) = &what {
        all::run(options, runs, &mut report)?;
    } else {
        process::raise_open_files(sockets(&what))?;
        for _ in 0..runs {
            let (name, figures) = once(&what)?;
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
        .context("printing the figures")?;
    let faults = report.faults();
    if !faults.is_empty() {
        bail!("not all went well: {}", faults.join("; "));
    }
    Ok(())
}

fn once(what: &What) -> Result<(String, Vec<report::Figure>)> {
    let (server, figures) = match what {
        What::Fanout { server, options } => (server, fanout::run(&server.target()?, options)?),
        What::FlatOut { server, options } => (server, flat_out::run(&server.target()?, options)?),
        What::Open { server, options } => (server, open::run(&server.target()?, options)?),
        What::Idle {
            server,
            pid,
            options,
        } => (server, idle::run(&server.target()?, *pid, options)?),
        What::Ping { server, options } => (server, ping::run(&server.target()?, options)?),
        What::Get { server, options } => (server, get::run(&server.target()?, options)?),
        What::Start { url, command } => {
            let (address, path) = target::url(url, "http").context("--url")?;
            return Ok((
                url.clone(),
                start::run(&Start::of(command)?, address, &path)?,
            ));
        }
        What::Backend { .. } | What::All(_) => unreachable!("no single measurement"),
    };
    Ok((server.url.clone(), figures))
}

/// Sockets open at the same time.
fn sockets(what: &What) -> usize {
    match what {
        What::Fanout { options, .. } => options.sockets,
        What::FlatOut { options, .. } => options.sockets,
        What::Open { options, .. } => options.sockets,
        What::Idle { options, .. } => options.sockets + options.before,
        What::Ping { options, .. } => options.sockets,
        What::Get { options, .. } => options.connections,
        What::Start { .. } | What::Backend { .. } | What::All(_) => 0,
    }
}

fn at_most(text: &str, most: usize) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (1..=most).contains(&number) => Ok(number),
        _ => Err(format!("expected a number from 1 to {most}")),
    }
}

/// Reads a number of sockets.
fn count(text: &str) -> Result<usize, String> {
    at_most(text, SOCKETS_MAX)
}

/// Reads a number of connections, or of what goes on at a time.
fn connections(text: &str) -> Result<usize, String> {
    at_most(text, CONNECTIONS_MAX)
}

/// Reads the length of a message.
fn length(text: &str) -> Result<usize, String> {
    at_most(text, LENGTH_MAX)
}

/// The comparison servers' folder in this repository.
fn servers() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/load/servers"))
}
