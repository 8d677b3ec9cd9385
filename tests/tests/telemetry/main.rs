//! Logs, traces and metrics: the access log, an OTLP collector, and Prometheus.

mod collector;
mod dashboard;
mod export;
mod logs;
mod prometheus;
mod traces;
mod upstream;
