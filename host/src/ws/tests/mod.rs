//! Tests of sessions: `session` and `timed` script the backend, `interleavings` checks random
//! sequences against a model.

mod interleavings;
mod model_backend;
mod session;
mod timed;
pub(super) mod wire;
