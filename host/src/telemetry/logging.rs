//! The log of the process, on stderr.

use std::{
    io::{self, Stderr, stderr},
    sync::OnceLock,
    time::Duration,
};

use clap::ValueEnum;
use tracing::Metadata;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::{
    telemetry::{access_log, line_queue::LineQueue, panics, recent_log},
    terminal,
};

/// What is logged unless `RUST_LOG` is set.
const DEFAULT_FILTER: &str = "warn,socket_host=info,redis=off";

/// The format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people.
    Text,
    /// An object on each line.
    Json,
}

/// The queue of the access log, once something was logged there.
static ACCESS_LOG: OnceLock<Option<LineQueue>> = OnceLock::new();

/// Starts to log, and to log panics. Must be called once.
pub(crate) fn init(format: LogFormat) {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(format == LogFormat::Text && terminal::has_colors(&stderr()))
        .with_writer(LogWriter)
        // They would go to the same stderr, and panic when it is closed.
        .log_internal_errors(false);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).with_span_list(false).init(),
    }
    panics::install_hook();
}

/// Waits until the access log is written, at most for `timeout`.
pub(crate) fn flush(timeout: Duration) {
    if let Some(Some(queue)) = ACCESS_LOG.get() {
        queue.flush(timeout);
    }
}

/// Writes the access log through a queue, since it grows with the requests of clients. Everything else
/// is rare, and written at once.
struct LogWriter;

/// Where a line goes.
enum Line {
    Stderr(Stderr),
    Queue(LineQueue),
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line::Stderr(stderr())
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line {
        if metadata.target() != access_log::TARGET {
            return self.make_writer();
        }
        // Without a thread, it is written like everything else.
        let queue = ACCESS_LOG.get_or_init(|| LineQueue::start(stderr()).ok());
        match queue {
            Some(queue) => Line::Queue(queue.clone()),
            None => self.make_writer(),
        }
    }
}

impl io::Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stderr(stderr) => stderr.write(line),
            Self::Queue(queue) => queue.write(line),
        }
    }

    /// Called once for each line.
    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::Stderr(stderr) => {
                recent_log::record(line);
                let _cleared = terminal::clear_progress();
                stderr.write_all(line)
            }
            Self::Queue(queue) => queue.write_all(line),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
