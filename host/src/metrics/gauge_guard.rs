//! A guard that counts in a gauge for as long as it lives.

use prometheus_client::metrics::gauge::Gauge;

/// Increments a gauge when it is created and decrements it when it is dropped.
pub(crate) struct GaugeGuard(Gauge);

impl GaugeGuard {
    /// Increments `gauge`.
    pub(crate) fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}
