//! Something that counts in a gauge as long as it is there.

use prometheus_client::metrics::gauge::Gauge;

/// See the module's words.
pub struct Counted(Gauge);

impl Counted {
    /// Counts one in `gauge`, until this is dropped.
    pub fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
