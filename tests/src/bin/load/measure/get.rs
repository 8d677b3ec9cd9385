//! `get`: small GET requests on kept connections, sent by wrk.

use std::io::ErrorKind;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::process::children_cpu_time;
use crate::report::Figure;
use crate::target::Target;

const WARM_UP_SECONDS: u64 = 1;

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
        Figure::new("get, requests", "/s", per_second),
        Figure::new("get p50", "ms", p50),
        Figure::new("get p99", "ms", p99),
        Figure::new(
            "get, own processor time",
            "% of a core",
            100.0 * used / options.seconds as f64,
        ),
    ])
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
    let url = format!("http://{}{}", target.address, target.get_path);
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
