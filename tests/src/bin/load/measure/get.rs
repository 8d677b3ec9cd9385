//! `get`: small GET requests on kept connections, sent by wrk. wrk does not speak HTTP/2, so the
//! program itself sends those. It also does so for many connections: wrk opens all of them at once
//! while it measures, and drops requests at its end.

use std::io::ErrorKind;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::CpuUsage;
use crate::clock;
use crate::http;
use crate::http2;
use crate::layers::Layers;
use crate::process::children_cpu_time;
use crate::report::Figure;
use crate::stats::Samples;
use crate::target::Target;

const WARM_UP_SECONDS: u64 = 1;
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
const READ_BUFFER: usize = 64 << 10;

/// The name of the figure for the rate.
pub const REQUESTS: &str = "get, requests";
/// The name of the figure for responses with status 503 or 504, if there are any.
pub const REFUSED: &str = "get, refused";
/// The names of the others.
const P50: &str = "get p50";
const P99: &str = "get p99";
const CPU: &str = "get, own processor time";

/// Options of `get`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Connections, each with one request at a time
    #[arg(long, default_value_t = 32, value_parser = crate::connections)]
    pub connections: usize,
    /// Seconds to measure, after one second of warm-up
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
}

/// Measures requests per second and their latencies.
pub fn run(target: &Target, options: &Options) -> Result<Vec<Figure>> {
    if target.layers == Layers::H2 {
        return run_itself(options, || http2::Connection::open(target));
    }
    wrk(target, options.connections, WARM_UP_SECONDS)?;
    let before = children_cpu_time()?;
    let output = wrk(target, options.connections, options.seconds)?;
    let used = (children_cpu_time()? - before).as_secs_f64();
    let Output {
        per_second,
        p50,
        p99,
    } = Output::parse(&output)?;
    Ok(vec![
        Figure::new(REQUESTS, "/s", per_second),
        Figure::new(P50, "ms", p50),
        Figure::new(P99, "ms", p99),
        Figure::new(CPU, "% of a core", 100.0 * used / options.seconds as f64),
    ])
}

/// Does the same without wrk, by HTTP/1.1. Responses with status 503 or 504 are counted, and are no
/// errors.
pub fn run_without_wrk(target: &Target, options: &Options) -> Result<Vec<Figure>> {
    let request = http::get(target.address, &target.get_path);
    run_itself(options, || {
        Ok(Http1 {
            connection: http::Connection::open(target.address)?,
            request: request.clone(),
        })
    })
}

/// A connection with one request at a time.
trait Connection {
    /// Returns the stream, for registration with a poll.
    fn stream(&mut self) -> &mut TcpStream;
    /// Sends the request.
    fn request(&mut self) -> Result<()>;
    /// Reads what has arrived and returns the response once it is complete.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<Response>>;
}

/// A response.
#[derive(PartialEq, Eq)]
enum Response {
    /// Status 200.
    Ok,
    /// Status 503 or 504: the server has too many requests.
    Refused,
}

impl Connection for http2::Connection {
    fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream.tcp
    }

    fn request(&mut self) -> Result<()> {
        self.request()
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<Response>> {
        Ok(self.receive(buffer)?.then_some(Response::Ok))
    }
}

/// A connection with HTTP/1.1.
struct Http1 {
    connection: http::Connection,
    request: Vec<u8>,
}

impl Connection for Http1 {
    fn stream(&mut self) -> &mut TcpStream {
        &mut self.connection.stream
    }

    fn request(&mut self) -> Result<()> {
        self.connection.send(&self.request)
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<Response>> {
        let status = self.connection.receive(buffer)?;
        ensure!(!self.connection.close, "the server closes the connection");
        Ok(match status {
            None => None,
            Some(200) => Some(Response::Ok),
            Some(503 | 504) => Some(Response::Refused),
            Some(status) => bail!("the status of a response is {status}"),
        })
    }
}

/// Sends the requests, one at a time on each connection.
fn run_itself<C: Connection>(
    options: &Options,
    mut open: impl FnMut() -> Result<C>,
) -> Result<Vec<Figure>> {
    let mut poll = Poll::new().context("creating a poll")?;
    let mut events = Events::with_capacity(options.connections);
    let mut connections = Vec::with_capacity(options.connections);
    for number in 0..options.connections {
        let mut connection = open()?;
        poll.registry()
            .register(connection.stream(), Token(number), Interest::READABLE)?;
        connections.push(connection);
    }
    let cpu = CpuUsage::start();
    let start = clock::now() + clock::nanoseconds(Duration::from_secs(WARM_UP_SECONDS));
    let end = start + clock::nanoseconds(Duration::from_secs(options.seconds));
    let give_up = end + clock::nanoseconds(RESPONSE_TIMEOUT);
    for connection in &mut connections {
        connection.request()?;
    }
    let mut sent = vec![clock::now(); connections.len()];
    let mut waiting = connections.len();
    let mut latencies = Samples::default();
    let mut refused = 0;
    let mut buffer = vec![0; READ_BUFFER];
    while waiting > 0 {
        let left = clock::until(give_up);
        ensure!(
            !left.is_zero(),
            "{waiting} requests had no response {RESPONSE_TIMEOUT:?} after the end"
        );
        match poll.poll(&mut events, Some(left)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result.context("polling the connections")?,
        }
        for event in &events {
            let Token(number) = event.token();
            let connection = &mut connections[number];
            let Some(response) = connection.receive(&mut buffer)? else {
                continue;
            };
            let at = clock::now();
            if (start..end).contains(&at) {
                match response {
                    Response::Ok => latencies.push(at.saturating_sub(sent[number])),
                    Response::Refused => refused += 1,
                }
            }
            if at < end {
                sent[number] = at;
                connection.request()?;
            } else {
                waiting -= 1;
            }
        }
    }
    let cpu = cpu.figure(CPU);
    let per_second = latencies.len() as f64 / options.seconds as f64;
    let [p50, p99] = latencies.percentiles([0.5, 0.99]);
    let mut figures = vec![
        Figure::new(REQUESTS, "/s", per_second),
        Figure::milliseconds(P50, p50),
        Figure::milliseconds(P99, p99),
        cpu,
    ];
    if refused > 0 {
        let per_second = f64::from(refused) / options.seconds as f64;
        figures.push(Figure::new(REFUSED, "/s", per_second));
    }
    Ok(figures)
}

/// Fails if wrk is not installed.
pub fn require_wrk() -> Result<()> {
    // Without a URL it prints its usage and fails.
    let run = Command::new("wrk")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match run {
        Err(error) if error.kind() == ErrorKind::NotFound => bail!(
            "wrk is missing, which sends the requests of `get`: install it with \
             `tests/install wrk` on Debian"
        ),
        run => run.map(drop).context("running wrk"),
    }
}

/// Runs wrk for some seconds and returns its output.
fn wrk(target: &Target, connections: usize, seconds: u64) -> Result<String> {
    require_wrk()?;
    let scheme = if target.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let url = format!("{scheme}://{}{}", target.address, target.get_path);
    let output = Command::new("wrk")
        .args(["--threads", "1", "--latency"])
        .args(["--connections", &connections.to_string()])
        .args(["--duration", &format!("{seconds}s")])
        .arg(&url)
        .output()
        .context("running wrk")?;
    ensure!(
        output.status.success(),
        "wrk failed for {url}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).context("output of wrk")
}

/// The figures in wrk's output. Latencies are in milliseconds.
#[derive(Debug, PartialEq)]
struct Output {
    per_second: f64,
    p50: f64,
    p99: f64,
}

impl Output {
    /// Parses the output. Errors that wrk has counted are errors.
    fn parse(text: &str) -> Result<Self> {
        let value = |name: &str| {
            let mut lines = text.lines();
            lines.find_map(|line| line.trim().strip_prefix(name).map(str::trim))
        };
        for error in ["Socket errors:", "Non-2xx or 3xx responses:"] {
            if let Some(count) = value(error) {
                bail!("wrk reports errors: {error} {count}");
            }
        }
        let value = |name: &str| value(name).with_context(|| format!("no {name:?} in {text}"));
        Ok(Self {
            per_second: value("Requests/sec:")?
                .parse()
                .context("requests per second")?,
            p50: milliseconds(value("50%")?)?,
            p99: milliseconds(value("99%")?)?,
        })
    }
}

/// Parses a duration such as `812.00us`.
fn milliseconds(text: &str) -> Result<f64> {
    for (unit, factor) in [("us", 1e-3), ("ms", 1.0), ("s", 1e3), ("m", 60e3)] {
        if let Some(number) = text.strip_suffix(unit) {
            return Ok(number.parse::<f64>()? * factor);
        }
    }
    bail!("{text:?} is not a duration")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "Running 1s test @ http://127.0.0.1:3000/\n  1 threads and 4 connections\n\
        \x20 Thread Stats   Avg      Stdev     Max   +/- Stdev\n\
        \x20   Latency     1.55ms  392.99us   4.15ms   82.98%\n\
        \x20   Req/Sec     2.57k   242.78     2.78k    91.67%\n\
        \x20 Latency Distribution\n     50%    1.53ms\n     75%    1.65ms\n     90%    1.85ms\n\
        \x20    99%  812.50us\n  3080 requests in 1.20s, 1.57MB read\n\
        Requests/sec:   2560.46\nTransfer/sec:      1.30MB\n";

    #[test]
    fn output_of_wrk_is_parsed() {
        let expected = Output {
            per_second: 2560.46,
            p50: 1.53,
            p99: 0.8125,
        };
        assert_eq!(Output::parse(OUTPUT).unwrap(), expected);
        assert_eq!(milliseconds("1.20s").unwrap(), 1200.0);
        assert!(Output::parse("").is_err() && milliseconds("fast").is_err());
    }

    #[test]
    fn errors_that_wrk_reports_are_errors() {
        for line in [
            "  Non-2xx or 3xx responses: 3080\n",
            "  Socket errors: connect 4, read 0, write 0, timeout 0\n",
        ] {
            let error = Output::parse(&(OUTPUT.to_owned() + line)).unwrap_err();
            assert!(error.to_string().contains(line.trim()), "{error}");
        }
    }
}
