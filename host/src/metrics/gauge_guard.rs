//! Something that counts in a gauge as long as it is there.

use prometheus_client::metrics::gauge::Gauge;

/// See the module's words.
pub(crate) struct GaugeGuard(Gauge);

impl GaugeGuard {
    /// Counts one in `gauge`, until this is dropped.
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
