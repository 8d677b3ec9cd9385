//! Metrics in the Prometheus text format.

pub(crate) mod backend;
pub(crate) mod close_reason;
pub(crate) mod gauge_guard;
pub(crate) mod registry;
