//! Exports spans and metrics, if the build and the options say so.

use std::sync::Arc;

use anyhow::Result;

#[cfg(feature = "otel")]
use super::otlp::exporter;
use super::{Telemetry, tracer::Tracer};
use crate::{metrics::registry::Metrics, options::HostOptions, state::Services};

/// An export that has not started.
#[derive(Default)]
pub(crate) struct Export {
    #[cfg(feature = "otel")]
    exporter: Option<exporter::Exporter>,
}

/// An export that runs until it is flushed or dropped.
#[derive(Default)]
pub(crate) struct RunningExport {
    #[cfg(feature = "otel")]
    exporter: Option<exporter::RunningExporter>,
}

impl Export {
    /// Creates what a host records, and the export of its spans and of the metrics. The metrics also
    /// count what is dropped.
    ///
    /// # Errors
    /// Fails if a file with certificates cannot be used.
    pub(crate) fn new(options: &HostOptions, metrics: &Arc<Metrics>) -> Result<(Telemetry, Self)> {
        let (tracer, export) = Self::with_tracer(options, metrics)?;
        let telemetry = Telemetry {
            access_log: options.access_log,
            tracer,
        };
        Ok((telemetry, export))
    }
}

#[cfg(feature = "otel")]
impl Export {
    fn with_tracer(options: &HostOptions, metrics: &Arc<Metrics>) -> Result<(Tracer, Self)> {
        let (tracer, exporter) = exporter::Exporter::new(&options.otlp, metrics)?;
        Ok((tracer, Self { exporter }))
    }

    /// Starts to export.
    pub(crate) fn start(self, services: Arc<Services>) -> RunningExport {
        let exporter = self.exporter.map(|exporter| exporter.start(services));
        RunningExport { exporter }
    }
}

#[cfg(not(feature = "otel"))]
impl Export {
    fn with_tracer(_: &HostOptions, _: &Arc<Metrics>) -> Result<(Tracer, Self)> {
        Ok((Tracer::default(), Self::default()))
    }

    /// Does nothing.
    pub(crate) fn start(self, _: Arc<Services>) -> RunningExport {
        RunningExport::default()
    }
}

impl RunningExport {
    /// Exports what there is, within a time limit, and stops.
    pub(crate) async fn flush(&mut self) {
        #[cfg(feature = "otel")]
        if let Some(exporter) = self.exporter.take() {
            exporter.flush().await;
        }
    }
}
