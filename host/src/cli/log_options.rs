//! The command-line options for the log files of components.

use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, value_parser};
use spin_runtime::LogRotation;

use crate::config::{Limits, parse_duration};

#[derive(Args)]
pub(super) struct LogOptions {
    /// The size at which a log file is renamed and a new one begun, such as `10MiB`; or `off`.
    #[arg(long, value_name = "SIZE", default_value = "10MiB", value_parser = parse_size)]
    log_max_size: MaxSize,
    /// The age at which a log file is renamed and a new one begun, such as `1d` [default: any age].
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    log_max_age: Option<Duration>,
    /// How many renamed files are kept of each log file.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 5,
        value_parser = value_parser!(u16).range(1..=1000)
    )]
    log_keep: u16,
}

/// The largest size of a log file, if it is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MaxSize(Option<u64>);

impl LogOptions {
    /// Returns when log files are rotated.
    pub(super) fn rotation(&self) -> LogRotation {
        LogRotation {
            max_bytes: self.log_max_size.0,
            max_age: self.log_max_age,
            keep: self.log_keep.into(),
        }
    }
}

fn parse_size(text: &str) -> Result<MaxSize, String> {
    let expected = "expected a size from 1 byte to 1GiB, such as 10MiB, or off";
    if text == "off" {
        return Ok(MaxSize(None));
    }
    let ByteSize(bytes) = text.trim().parse().map_err(|_| expected.to_owned())?;
    if !(1..=Limits::DEFAULT.max_size_bytes).contains(&bytes) {
        return Err(expected.to_owned());
    }
    Ok(MaxSize(Some(bytes)))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        log: LogOptions,
    }

    fn parse(options: &[&str]) -> Result<LogRotation, String> {
        let arguments = ["up"].iter().chain(options);
        let command = Command::try_parse_from(arguments);
        let command = command.map_err(|error| error.to_string())?;
        Ok(command.log.rotation())
    }

    #[test]
    fn the_defaults_are_those_of_the_runtime() {
        assert_eq!(parse(&[]), Ok(LogRotation::DEFAULT));
    }

    #[test]
    fn sizes_may_be_off() {
        let rotation = |max_bytes, max_age, keep| LogRotation {
            max_bytes,
            max_age,
            keep,
        };
        let day = Some(Duration::from_secs(86_400));
        for (options, expected) in [
            (
                &["--log-max-size=off", "--log-keep=1"][..],
                rotation(None, None, 1),
            ),
            (
                &["--log-max-size=100kB", "--log-max-age=1d"],
                rotation(Some(100_000), day, 5),
            ),
        ] {
            assert_eq!(parse(options), Ok(expected), "{options:?}");
        }
        for invalid in [
            "--log-max-size=0",
            "--log-max-size=2GiB",
            "--log-keep=0",
            "--log-max-age=x",
        ] {
            assert!(parse(&[invalid]).is_err(), "{invalid}");
        }
    }
}
