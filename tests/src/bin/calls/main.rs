//! Measures what a call of a component costs, without sockets: in this process, on one thread.
//!
//! See `docs/benchmarks.md`.

mod application;
mod instructions;

use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};

use application::Application;

/// Measures what a call of a component costs, in this process and on one thread.
#[derive(Debug, Parser)]
struct Options {
    /// Measure only these calls
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Call>,
    /// Calls in a sample
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    calls: u32,
    /// Samples, of which the least, the median and the greatest are printed
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    samples: u32,
    /// Count instructions with Callgrind instead of measuring time
    #[arg(long)]
    instructions: bool,
    /// Make this number of calls and print nothing. Used by --instructions
    #[arg(long, hide = true, requires = "only")]
    run: Option<u32>,
}

/// A kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Call {
    /// GET of a component for WASI 0.3 that returns a string
    Get,
    /// The same with the ten headers that the host adds to requests with WebSocket events
    GetHeaders,
    /// POST of 1 KiB to a component for WASI 0.3 that returns it
    Echo,
    /// GET of a component for WASI 0.2 that returns a string
    Get02,
    /// POST of 1 KiB to a component for WASI 0.2 that returns it
    Echo02,
    /// A WebSocket message over HTTP, as the host sends it, to a component for WASI 0.3
    Message,
    /// A WebSocket message as a typed frame of SIP-016, whose component sends one
    Frame,
    /// The same with instances that are reused
    FrameReused,
}

impl Call {
    fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    let all = Call::value_variants();
    let calls = if options.only.is_empty() {
        all
    } else {
        &options.only
    };
    if let (Some(number), [call]) = (options.run, calls) {
        return run(*call, number);
    }
    if options.instructions {
        println!("{:<14} {:>14}", "call", "instructions");
        for call in calls {
            let number = instructions::count(*call)?;
            println!("{:<14} {number:>14}", call.name());
        }
        return Ok(());
    }
    println!(
        "{:<14} {:>10} {:>10} {:>10}  microseconds",
        "call", "least", "median", "greatest"
    );
    for call in calls {
        let times = measure(*call, &options)?;
        let [least, median, greatest] =
            [0, times.len() / 2, times.len() - 1].map(|index| times[index]);
        println!(
            "{:<14} {least:>10.1} {median:>10.1} {greatest:>10.1}",
            call.name()
        );
    }
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().context("no runtime")
}

/// Makes calls.
fn run(call: Call, number: u32) -> Result<()> {
    let application = Application::load()?;
    runtime()?.block_on(async {
        for _ in 0..number {
            application.call(call).await?;
        }
        Ok(())
    })
}

/// Returns the microseconds of a call in each sample, in ascending order.
fn measure(call: Call, options: &Options) -> Result<Vec<f64>> {
    let application = Application::load()?;
    runtime()?.block_on(async {
        for _ in 0..options.calls {
            application.call(call).await?;
        }
        let mut times = Vec::new();
        for _ in 0..options.samples {
            let start = Instant::now();
            for _ in 0..options.calls {
                application.call(call).await?;
            }
            times.push(start.elapsed().as_secs_f64() * 1e6 / f64::from(options.calls));
        }
        times.sort_by(f64::total_cmp);
        Ok(times)
    })
}
