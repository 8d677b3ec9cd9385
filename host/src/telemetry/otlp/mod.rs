//! Exports spans and metrics over OTLP, the protocol of OpenTelemetry.
//!
//! - `options` reads the environment variables that OpenTelemetry defines.
//! - `exporter` is the task that sends batches of spans, and the metrics at intervals.
//! - `client` sends a message to a collector.
//! - `spans` and `metrics` encode what is sent.

mod client;
pub(crate) mod exporter;
mod message;
mod metrics;
mod options;
mod spans;

pub use options::OtlpOptions;
