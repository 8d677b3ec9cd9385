//! What the host reports about itself, besides the metrics of the control port.
//!
//! - `panics` logs and counts panics, and keeps them from affecting more than one request.

pub(crate) mod panics;
