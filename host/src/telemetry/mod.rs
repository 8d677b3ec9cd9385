//! What the host reports about itself, besides the metrics of the control port.
//!
//! - `logging` sets up the log of the process.
//! - `recent_log` keeps the last lines of the log for the control port.
//! - `panics` logs and counts panics, and keeps them from affecting more than one request.
//! - `request` observes the requests of clients, for the access log and for traces.
//! - `access_log` writes a line for each request and WebSocket.
//! - `trace_context` reads and writes the headers that connect the spans of several processes.
//! - `tracer` records spans, which `sampler` selects. `backend` records the calls of a backend.
//! - `export` starts `otlp`, which exports spans and metrics to a collector, if it is in the build.

pub(crate) mod access_log;
pub(crate) mod backend;
pub(crate) mod export;
pub(crate) mod line_queue;
pub(crate) mod logging;
#[cfg(feature = "otel")]
pub(crate) mod otlp;
pub(crate) mod panics;
pub(crate) mod recent_log;
pub(crate) mod request;
mod sampler;
pub(crate) mod trace_context;
pub(crate) mod tracer;

use tracer::Tracer;

/// What a host records about requests. The default records nothing.
#[derive(Clone, Default)]
pub(crate) struct Telemetry {
    /// Whether requests and WebSockets are logged.
    pub(crate) access_log: bool,
    /// Records spans.
    pub(crate) tracer: Tracer,
}
