//! Logs, traces and metrics: the access log, and an OTLP collector.

mod collector;
mod export;
mod logs;
mod traces;
mod upstream;
