//! `all`: runs the measurements against servers that this program starts.
//!
//! Each measurement gets a fresh server. One server runs at a time, and they take turns, so that
//! slow phases of the machine affect all of them.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::app::App;
use crate::layers::Layers;
use crate::measure::{
    fanout, flat_out, get, growth, idle, open, ping, recover, start, storm, warm_up,
};
use crate::process::{Processes, Server, raise_open_files};
use crate::report::{Figure, Report};
use crate::socket::Transport;
use crate::sockets::{Responder, Until};
use crate::target::{Contender, Target};

/// Attempts per measurement. Pushpin occasionally loses one of many connections that are opened
/// at the same time.
const ATTEMPTS_MAX: usize = 4;

/// The figures of `bytes` and the lengths of their messages.
const BYTES: [(&str, usize); 2] = [
    ("bytes a message of 300 bytes", 300),
    ("bytes a message of 4 KiB", 4096),
];
/// Options of the host for `growth`: as many requests may wait as there are connections.
const MANY_REQUESTS: [&str; 2] = ["--max-waiting-requests", "30000"];

/// The rate is so high that the application's own messages hardly count.
const BYTES_SOCKETS: usize = 20;
const BYTES_EVERY: u64 = 5;

/// A server to compare with.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Opponent {
    Upstream,
    Pushpin,
    Ws,
    Bun,
    /// Several hosts with a bus
    Hosts(usize),
    /// Several nodes with Socket.IO and its adapter for Redis streams
    SocketIo(usize),
    /// Another socket-host binary with the same manifest.
    Host(PathBuf),
    /// `wasmtime serve`, with this binary
    Wasmtime(PathBuf),
}

impl FromStr for Opponent {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "upstream" => Self::Upstream,
            "pushpin" => Self::Pushpin,
            "ws" => Self::Ws,
            "bun" => Self::Bun,
            _ => match text.split_once(':') {
                Some(("host", path)) if !path.is_empty() => Self::Host(path.into()),
                Some(("wasmtime", path)) if !path.is_empty() => Self::Wasmtime(path.into()),
                Some(("hosts", number)) => Self::Hosts(parse_number(number)?),
                Some(("socket-io", number)) => Self::SocketIo(parse_number(number)?),
                _ => bail!(
                    "expected upstream, pushpin, ws, bun, hosts:NUMBER, socket-io:NUMBER, host:PATH \
                     or wasmtime:PATH"
                ),
            },
        })
    }
}

/// Parses the number of servers that share a Redis server.
fn parse_number(text: &str) -> Result<usize> {
    let number = text.parse().ok().filter(|number| (2..=9).contains(number));
    number.context("expected a number from 2 to 9")
}

/// A measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Measurement {
    /// Memory per idle socket. Runs first
    Idle,
    /// Sockets opened per second
    Open,
    /// Latency of a message to many sockets
    Fanout,
    /// The same with --many sockets, once per second
    FanoutMany,
    /// Deliveries per second
    FlatOut,
    /// Round trips per second, through the application
    Ping,
    /// The same for pings that the host answers
    AutoPing,
    /// The same through a component that echoes the messages of WebSockets over HTTP
    EchoPing,
    /// The same through a component that echoes typed frames
    TypedPing,
    /// The same with an instance for each call
    TypedPingFresh,
    /// GET requests per second
    Get,
    /// The same for a response that the host sends without a component
    Static,
    /// The same for a component of WASI 0.3 that returns a string
    Hello,
    /// The same for a component of WASI 0.2
    Hello02,
    /// GET requests and pings per second with growing numbers of connections. Runs if selected with
    /// --only
    Growth,
    /// Bytes on the wire per message
    Bytes,
    /// Time to the first byte of a response
    Start,
    /// Time until all sockets of a killed host are back and have received everything
    Recover,
    /// Time until sockets that were cut at once are back and have resumed
    Storm,
    /// Idle, with held HTTP streams
    StreamIdle,
    /// Open, with held HTTP streams
    StreamOpen,
    /// Fanout, with held HTTP streams
    StreamFanout,
    /// FanoutMany, with held HTTP streams
    StreamFanoutMany,
    /// FlatOut, with held HTTP streams
    StreamFlatOut,
}

impl Measurement {
    fn transport(self) -> Transport {
        match self {
            Self::StreamIdle
            | Self::StreamOpen
            | Self::StreamFanout
            | Self::StreamFanoutMany
            | Self::StreamFlatOut => Transport::Stream,
            _ => Transport::WebSocket,
        }
    }

    /// Returns whether it can be measured with these layers.
    fn supports(self, layers: Layers) -> bool {
        match self {
            Self::Start | Self::Recover | Self::Storm | Self::Growth => layers == Layers::Plain,
            Self::Get | Self::Static | Self::Hello | Self::Hello02 => !layers.has_deflate(),
            _ if self.transport() == Transport::Stream => {
                matches!(layers, Layers::Plain | Layers::Tls)
            }
            _ => layers != Layers::H2,
        }
    }

    /// Returns the application that it brings along.
    fn app(self) -> Option<App> {
        Some(match self {
            Self::Static => App::Static,
            Self::Hello => App::Hello,
            Self::Hello02 => App::Hello02,
            Self::EchoPing => App::Echo,
            Self::TypedPing => App::TypedReuse,
            Self::TypedPingFresh => App::Typed,
            Self::AutoPing | Self::Growth => App::Orders,
            _ => return None,
        })
    }

    /// Returns whether wrk sends its requests.
    fn uses_wrk(self, layers: Layers) -> bool {
        let is_get = matches!(self, Self::Get | Self::Static | Self::Hello | Self::Hello02);
        is_get && layers != Layers::H2
    }

    /// Returns the prefix of its figures' names.
    fn prefix(self) -> &'static str {
        match self {
            Self::Static => "static: ",
            Self::Hello => "hello: ",
            Self::Hello02 => "hello, WASI 0.2: ",
            Self::AutoPing => "auto-response: ",
            Self::EchoPing => "echo: ",
            Self::TypedPing => "typed: ",
            Self::TypedPingFresh => "typed, an instance a call: ",
            Self::FanoutMany => "many: ",
            Self::StreamFanoutMany => "many streams: ",
            _ if self.transport() == Transport::Stream => "streams: ",
            _ => "",
        }
    }
}

/// Options of `all`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Binary of the host [default: socket-host beside this program]
    #[arg(long)]
    host: Option<PathBuf>,
    /// Manifest that the host serves
    #[arg(long, default_value = "spin.toml")]
    from: PathBuf,
    /// Measure only the servers given with --vs
    #[arg(long, requires = "vs")]
    without_host: bool,
    /// Servers to compare with, separated by commas: upstream (the host as a proxy in front of a
    /// plain backend), pushpin (in front of the same backend), ws (a Node server), hosts:NUMBER
    /// (several hosts and a Redis server), socket-io:NUMBER (as many Node servers with Socket.IO),
    /// bun (a server in Bun), host:PATH (another binary of the host, with the same manifest),
    /// wasmtime:PATH (`wasmtime serve`, for hello and hello02)
    #[arg(long, value_delimiter = ',')]
    vs: Vec<Opponent>,
    /// Measure the host once with each of these layers, separated by commas, and compare with the
    /// first
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        conflicts_with = "without_host"
    )]
    layers: Vec<Layers>,
    /// Measure the host once on each of these numbers of processors, separated by commas, and
    /// compare with the first. Needs taskset
    #[arg(
        long,
        value_delimiter = ',',
        conflicts_with_all = ["layers", "without_host"],
        value_parser = crate::processors
    )]
    processors: Vec<usize>,
    /// Run only these measurements
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Measurement>,
    /// Sockets for fanout, flat-out and open
    #[arg(long, default_value_t = 2000, value_parser = crate::count)]
    sockets: usize,
    /// Sockets for fanout-many and stream-fanout-many
    #[arg(long, default_value_t = 10_000, value_parser = crate::count)]
    many: usize,
    /// Sockets for idle
    #[arg(long, default_value_t = 10_000, value_parser = crate::count)]
    idle_sockets: usize,
    /// Numbers of connections for growth, separated by commas
    #[arg(
        long,
        value_delimiter = ',',
        default_values_t = [10, 100, 1_000, 10_000],
        value_parser = crate::count
    )]
    connections: Vec<usize>,
    /// Duration of each timed measurement in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Path for get, for which the host returns 200
    #[arg(long, default_value = "/api/orders?limit=1")]
    path: String,
    /// Folder of the servers in JavaScript
    #[arg(long, default_value_os_t = crate::servers())]
    servers: PathBuf,
}

impl Options {
    fn contenders(&self) -> Result<Vec<Contender>> {
        let binary = match &self.host {
            Some(binary) => binary.clone(),
            None => std::env::current_exe()?.with_file_name("socket-host"),
        };
        let hosts =
            |name: String, binary: PathBuf, layers, hosts, processors| Contender::SocketHost {
                name,
                binary,
                manifest: self.from.clone(),
                get_path: self.path.clone(),
                layers,
                hosts,
                processors,
            };
        let host = |name, binary, layers| hosts(name, binary, layers, 1, None);
        let mut contenders = Vec::new();
        for layers in &self.layers {
            contenders.push(host(layers.name().to_string(), binary.clone(), *layers));
        }
        for number in &self.processors {
            let name = match number {
                1 => "1 processor".to_string(),
                number => format!("{number} processors"),
            };
            contenders.push(hosts(name, binary.clone(), Layers::Plain, 1, Some(*number)));
        }
        if !self.without_host && contenders.is_empty() {
            let name = "socket-host".to_string();
            contenders.push(host(name, binary.clone(), Layers::Plain));
        }
        contenders.extend(self.vs.iter().map(|opponent| match opponent {
            Opponent::Upstream => Contender::Upstream {
                binary: binary.clone(),
            },
            Opponent::Pushpin => Contender::Pushpin,
            Opponent::Ws => Contender::Ws {
                servers: self.servers.clone(),
            },
            Opponent::Bun => Contender::Bun {
                servers: self.servers.clone(),
            },
            Opponent::Hosts(number) => {
                let name = format!("{number} hosts");
                hosts(name, binary.clone(), Layers::Plain, *number, None)
            }
            Opponent::SocketIo(nodes) => Contender::SocketIo {
                servers: self.servers.clone(),
                nodes: *nodes,
            },
            Opponent::Host(path) => {
                let name = format!("host:{}", path.display());
                host(name, path.clone(), Layers::Plain)
            }
            Opponent::Wasmtime(path) => Contender::Wasmtime {
                binary: path.clone(),
                // Each measurement has its own.
                component: PathBuf::new(),
            },
        }));
        Ok(contenders)
    }

    fn measurements(&self) -> Vec<Measurement> {
        let all = Measurement::value_variants().iter().copied();
        if self.only.is_empty() {
            all.filter(|measurement| *measurement != Measurement::Growth)
                .collect()
        } else {
            all.filter(|measurement| self.only.contains(measurement))
                .collect()
        }
    }

    /// Returns the options of the parts of a measurement, each of which gets a fresh server.
    fn parts(&self, measurement: Measurement) -> Vec<Self> {
        if measurement != Measurement::Growth {
            return vec![self.clone()];
        }
        let part = |connections: &usize| Self {
            connections: vec![*connections],
            ..self.clone()
        };
        self.connections.iter().map(part).collect()
    }

    fn idle(&self) -> idle::Options {
        idle::Options {
            sockets: self.idle_sockets,
            before: 100,
            settle: 3,
        }
    }
}

/// Runs the measurements and logs progress to standard error.
pub fn run(options: &Options, runs: u64, report: &mut Report) -> Result<()> {
    let measurements = options.measurements();
    let idle = options.idle();
    let mut most = [options.sockets, options.many, idle.sockets + idle.before].to_vec();
    if measurements.contains(&Measurement::Growth) {
        most.extend(&options.connections);
    }
    raise_open_files(most.into_iter().max().unwrap_or(0))?;
    report.relative_to_first = !options.layers.is_empty() || !options.processors.is_empty();
    let contenders = options.contenders()?;
    let needs_wrk = contenders.iter().any(|contender| {
        let measured = |it: &&Measurement| supports(contender, **it);
        let mut measured = measurements.iter().filter(measured);
        measured.any(|measurement| measurement.uses_wrk(contender.layers()))
    });
    if needs_wrk {
        get::require_wrk()?;
    }
    for run in 1..=runs {
        for contender in &contenders {
            for measurement in &measurements {
                if !supports(contender, *measurement) {
                    continue;
                }
                eprintln!("run {run} of {runs}: {}: {measurement:?}", contender.name());
                for options in options.parts(*measurement) {
                    measure(contender, *measurement, &options, report);
                }
            }
        }
    }
    Ok(())
}

/// Returns whether a server can be measured.
fn supports(contender: &Contender, measurement: Measurement) -> bool {
    let is_host = matches!(contender, Contender::SocketHost { .. });
    let has_app = match measurement.app() {
        Some(app) => contender.serves(app),
        None => contender.supports(measurement.transport()),
    };
    has_app
        && measurement.supports(contender.layers())
        // Without a manifest, proxies have limits that a few connections reach.
        && (measurement != Measurement::Growth || !contender.is_proxy())
        && (measurement != Measurement::Recover || contender.hosts() > 1)
        && (measurement != Measurement::Storm || is_host)
}

/// Runs one measurement, again if it fails, and adds its figures or the failure to the report.
fn measure(
    contender: &Contender,
    measurement: Measurement,
    options: &Options,
    report: &mut Report,
) {
    let name = contender.name();
    for attempt in 1..=ATTEMPTS_MAX {
        match measure_once(contender, measurement, options) {
            Ok(figures) => return report.add(name, measurement.prefix(), figures),
            Err(error) if attempt < ATTEMPTS_MAX => {
                eprintln!("failed, trying again: {error:#}");
            }
            // The other measurements go on.
            Err(error) => report.fail(format!("{name}: {measurement:?}: {error:#}")),
        }
    }
}

/// Starts a server, measures it and stops it.
fn measure_once(
    contender: &Contender,
    measurement: Measurement,
    options: &Options,
) -> Result<Vec<Figure>> {
    let state = tempfile::tempdir().context("creating a folder for the server's state")?;
    let app = measurement.app();
    let with_app = app.map(|app| contender.serving(app, state.path()));
    let with_app = with_app.transpose()?;
    let contender = with_app.as_ref().unwrap_or(contender);
    let (mut target, mut launch) = contender.target(measurement.transport(), state.path())?;
    if app.is_some() && matches!(contender, Contender::SocketHost { .. }) {
        target.ready_path = target.get_path.clone();
        if measurement == Measurement::Growth {
            launch.arguments.extend(MANY_REQUESTS.map(String::from));
        }
    }
    if measurement == Measurement::Start {
        return start::run(&launch, target.address, &target.get_path);
    }
    let mut server = Server::start(&launch)?;
    if target.tls.is_some() {
        server.wait_until_ready(target.control, "/readyz")?;
    } else {
        server.wait_until_ready(target.address, &target.ready_path)?;
    }
    if app.is_none_or(App::has_channel) {
        if target.tls.is_none() {
            server.first_byte(target.control, "/healthz")?;
        }
        warm_up(&target)?;
    }
    let figures = if measurement == Measurement::Recover {
        recover::run(&target, &mut server, options.sockets)?
    } else {
        measure_running(&target, &server.processes(), measurement, options)?
    };
    server.stop()?;
    Ok(figures)
}

fn measure_running(
    target: &Target,
    processes: &Processes,
    measurement: Measurement,
    options: &Options,
) -> Result<Vec<Figure>> {
    let Options {
        sockets, seconds, ..
    } = *options;
    let fanout = |sockets, every, length| {
        let options = fanout::Options {
            sockets,
            every,
            seconds,
            length,
        };
        fanout::run(target, &options, processes)
    };
    // Few messages are published, so the application's own ones would distort the bytes.
    let latency = |sockets, every| {
        let mut figures = fanout(sockets, every, 400)?;
        figures.retain(|figure| figure.name != fanout::BYTES);
        Ok(figures)
    };
    let pings = |answered_by| {
        let options = ping::Options {
            sockets: 200,
            seconds,
            answered_by,
        };
        ping::run(target, &options)
    };
    match measurement {
        Measurement::Idle | Measurement::StreamIdle => {
            idle::run(target, processes.servers[0], &options.idle())
        }
        Measurement::Open | Measurement::StreamOpen => {
            let options = open::Options {
                sockets,
                concurrency: 1,
                until: Until::Upgraded,
            };
            open::run(target, &options)
        }
        Measurement::Fanout | Measurement::StreamFanout => latency(sockets, 100),
        Measurement::FanoutMany | Measurement::StreamFanoutMany => latency(options.many, 1000),
        Measurement::Bytes => {
            let mut figures = Vec::new();
            for (name, length) in BYTES {
                let mut all = fanout(BYTES_SOCKETS, BYTES_EVERY, length)?;
                all.retain(|figure| figure.name == fanout::BYTES);
                figures.extend(all.into_iter().map(|figure| Figure {
                    name: name.into(),
                    ..figure
                }));
            }
            Ok(figures)
        }
        Measurement::FlatOut | Measurement::StreamFlatOut => {
            let options = flat_out::Options {
                sockets,
                publishers: 4,
                window: 32,
                seconds,
                length: 400,
            };
            flat_out::run(target, &options)
        }
        Measurement::Ping => pings(Responder::Application),
        Measurement::AutoPing => pings(Responder::Host),
        Measurement::EchoPing | Measurement::TypedPing | Measurement::TypedPingFresh => {
            pings(Responder::Echo)
        }
        Measurement::Growth => growth::run(target, &options.connections, seconds),
        Measurement::Get | Measurement::Static | Measurement::Hello | Measurement::Hello02 => {
            let connections = 32;
            let options = get::Options {
                connections,
                seconds,
            };
            get::run(target, &options)
        }
        Measurement::Storm => {
            let options = storm::Options {
                sockets,
                ..storm::Options::default()
            };
            storm::run(target, &options)
        }
        Measurement::Start | Measurement::Recover => unreachable!("measured otherwise"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_measured_where_they_exist() {
        let supported = |measurement: Measurement| {
            let layers = Layers::value_variants().iter().copied();
            layers
                .filter(|layers| measurement.supports(*layers))
                .collect::<Vec<_>>()
        };
        use Layers::*;
        assert_eq!(supported(Measurement::Get), [Plain, Tls, H2]);
        assert_eq!(
            supported(Measurement::Ping),
            [Plain, Tls, Deflate, TlsDeflate]
        );
        assert_eq!(supported(Measurement::StreamOpen), [Plain, Tls]);
        assert_eq!(supported(Measurement::Start), [Plain]);
    }

    #[test]
    fn servers_are_measured_with_what_they_serve() {
        let measured = |contender: &Contender| {
            let all = Measurement::value_variants().iter().copied();
            all.filter(|measurement| supports(contender, *measurement))
                .collect::<Vec<_>>()
        };
        use Measurement::*;
        let wasmtime = Contender::Wasmtime {
            binary: PathBuf::new(),
            component: PathBuf::new(),
        };
        assert_eq!(measured(&wasmtime), [Hello, Hello02]);
        let bun = Contender::Bun {
            servers: PathBuf::new(),
        };
        assert_eq!(
            measured(&bun),
            [
                Idle, Open, Fanout, FanoutMany, FlatOut, Ping, AutoPing, Get, Growth, Bytes, Start
            ]
        );
    }

    #[test]
    fn opponents_are_parsed() {
        let host = Opponent::Host("/old/socket-host".into());
        assert_eq!("host:/old/socket-host".parse::<Opponent>().unwrap(), host);
        assert_eq!("ws".parse::<Opponent>().unwrap(), Opponent::Ws);
        let wasmtime = Opponent::Wasmtime("/bin/wasmtime".into());
        assert_eq!(
            "wasmtime:/bin/wasmtime".parse::<Opponent>().unwrap(),
            wasmtime
        );
        for invalid in ["", "host", "host:", "wasmtime:", "nginx"] {
            let error = invalid.parse::<Opponent>().unwrap_err().to_string();
            assert!(error.contains("host:PATH"), "{invalid:?}: {error}");
        }
    }
}
