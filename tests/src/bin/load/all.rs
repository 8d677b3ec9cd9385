//! Everything, against servers this program starts: each fresh for each run,
//! one at a time, in turn, so that no target has the better hour.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use crate::measure::{fanout, flat_out, get, idle, open, ping, start, warm_up};
use crate::process::{Server, raise_open_files};
use crate::report::{Figure, Report};
use crate::sockets::{Kind, Until};
use crate::target::{Known, Target};

/// How often a server may fail at a measurement before that is told instead of a figure: Pushpin
/// now and then loses one of many connections that are opened at a time.
const TRIES: usize = 4;

/// A server to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Other {
    /// The host in front of a plain backend, with --upstream
    Upstream,
    /// Pushpin, from the Debian packages pushpin and zurl, in front of the same backend
    Pushpin,
    /// Node with the `ws` package
    Ws,
}

/// A measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Measure {
    /// Memory; first, while the server is fresh
    Idle,
    /// See the command of that name
    Open,
    /// See the command of that name
    Fanout,
    /// Fanout, to --many sockets, once a second
    FanoutMany,
    /// See the command of that name
    FlatOut,
    /// See the command of that name
    Ping,
    /// See the command of that name
    Get,
    /// See the command of that name
    Start,
    /// Idle, of held HTTP streams
    StreamIdle,
    /// Open, of held HTTP streams
    StreamOpen,
    /// Fanout, to held HTTP streams
    StreamFanout,
    /// FanoutMany, to held HTTP streams
    StreamFanoutMany,
    /// FlatOut, to held HTTP streams
    StreamFlatOut,
}

impl Measure {
    fn kind(self) -> Kind {
        match self {
            Self::StreamIdle
            | Self::StreamOpen
            | Self::StreamFanout
            | Self::StreamFanoutMany
            | Self::StreamFlatOut => Kind::Stream,
            _ => Kind::WebSocket,
        }
    }

    /// What goes before the names of its figures.
    fn of(self) -> &'static str {
        match self {
            Self::FanoutMany => "many: ",
            Self::StreamFanoutMany => "many streams: ",
            _ if self.kind() == Kind::Stream => "streams: ",
            _ => "",
        }
    }
}

/// What to start and what to measure.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The host's binary [default: socket-host beside this program]
    #[arg(long)]
    host: Option<PathBuf>,
    /// The manifest it serves
    #[arg(long, default_value = "spin.toml")]
    from: PathBuf,
    /// Do not measure the host, only what it is compared with
    #[arg(long, requires = "vs")]
    without_host: bool,
    /// Servers to compare it with
    #[arg(long, value_enum, value_delimiter = ',')]
    vs: Vec<Other>,
    /// Measure only these
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Measure>,
    /// Sockets for fanout, flat-out and open
    #[arg(long, default_value_t = 2000, value_parser = crate::count)]
    sockets: usize,
    /// Sockets, or streams, for fanout-many and stream-fanout-many
    #[arg(long, default_value_t = 10_000, value_parser = crate::count)]
    many: usize,
    /// Sockets for idle
    #[arg(long, default_value_t = 10_000, value_parser = crate::count)]
    idle_sockets: usize,
    /// Seconds of each measurement that lasts
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// A path that the host answers with 200, for get
    #[arg(long, default_value = "/api/orders?limit=1")]
    path: String,
    /// Folder of the comparison servers
    #[arg(long, default_value_os_t = crate::servers())]
    servers: PathBuf,
}

impl Options {
    fn targets(&self) -> Result<Vec<Known>> {
        let mut targets = Vec::new();
        let beside =
            || Ok::<_, anyhow::Error>(std::env::current_exe()?.with_file_name("socket-host"));
        let binary = self.host.clone().map_or_else(beside, Ok)?;
        if !self.without_host {
            targets.push(Known::SocketHost {
                binary: binary.clone(),
                manifest: self.from.clone(),
                get_path: self.path.clone(),
            });
        }
        targets.extend(self.vs.iter().map(|other| match other {
            Other::Upstream => Known::Upstream {
                binary: binary.clone(),
            },
            Other::Pushpin => Known::Pushpin,
            Other::Ws => Known::Ws {
                servers: self.servers.clone(),
            },
        }));
        Ok(targets)
    }

    fn measures(&self) -> Vec<Measure> {
        let all = Measure::value_variants().iter().copied();
        all.filter(|measure| self.only.is_empty() || self.only.contains(measure))
            .collect()
    }
}

/// Runs it all, telling on standard error what is going on.
pub fn run(options: &Options, runs: u64, report: &mut Report) -> Result<()> {
    let idle = idle::Options {
        sockets: options.idle_sockets,
        before: 100,
        settle: 3,
    };
    let most = options.sockets.max(options.many);
    raise_open_files(most.max(idle.sockets + idle.before))?;
    let targets = options.targets()?;
    for run in 1..=runs {
        for known in &targets {
            for measure in options.measures() {
                if !known.holds(measure.kind()) {
                    continue;
                }
                for attempt in 1..=TRIES {
                    eprintln!("run {run} of {runs}: {}: {measure:?}", known.name());
                    match one(known, measure, options, &idle) {
                        Ok(figures) => {
                            report.add(known.name(), measure.of(), figures);
                            break;
                        }
                        Err(error) if attempt < TRIES => eprintln!("it fails: {error:#}"),
                        // The others are worth having; what failed is told with their figures.
                        Err(error) => {
                            report.fail(format!("{}: {measure:?}: {error:#}", known.name()));
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

/// One measurement of a server started for it.
fn one(
    known: &Known,
    measure: Measure,
    options: &Options,
    idle: &idle::Options,
) -> Result<Vec<Figure>> {
    let state = tempfile::tempdir().context("making a folder for the server's state")?;
    let (target, start) = known.target(measure.kind(), state.path())?;
    if measure == Measure::Start {
        return start::run(&start, target.address, &target.get_path);
    }
    let mut server = Server::start(&start)?;
    server.ready(target.address, &target.ready_path)?;
    server.first_byte(target.control, "/healthz")?;
    warm_up(&target)?;
    let figures = running(&target, server.pid(), measure, options, idle)?;
    let status = server.stop()?;
    ensure!(
        status.success(),
        "after SIGTERM the server ended with {status}, not 0"
    );
    Ok(figures)
}

fn running(
    target: &Target,
    pid: u32,
    measure: Measure,
    options: &Options,
    idle: &idle::Options,
) -> Result<Vec<Figure>> {
    let Options {
        sockets, seconds, ..
    } = *options;
    match measure {
        Measure::Idle | Measure::StreamIdle => idle::run(target, pid, idle),
        Measure::Open | Measure::StreamOpen => open::run(
            target,
            &open::Options {
                sockets,
                concurrency: 1,
                until: Until::Upgraded,
            },
        ),
        Measure::Fanout
        | Measure::FanoutMany
        | Measure::StreamFanout
        | Measure::StreamFanoutMany => {
            let many = matches!(measure, Measure::FanoutMany | Measure::StreamFanoutMany);
            fanout::run(
                target,
                &fanout::Options {
                    sockets: if many { options.many } else { sockets },
                    every: if many { 1000 } else { 100 },
                    seconds,
                    length: 400,
                },
            )
        }
        Measure::FlatOut | Measure::StreamFlatOut => flat_out::run(
            target,
            &flat_out::Options {
                sockets,
                publishers: 4,
                window: 32,
                seconds,
                length: 400,
            },
        ),
        Measure::Ping => ping::run(
            target,
            &ping::Options {
                sockets: 200,
                seconds,
            },
        ),
        Measure::Get => get::run(
            target,
            &get::Options {
                connections: 32,
                seconds,
            },
        ),
        Measure::Start => unreachable!("a start is measured from before it"),
    }
}
