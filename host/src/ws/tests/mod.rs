//! Tests of sessions against a scripted backend and client, and model tests of their order.

mod interleavings;
mod model_backend;
mod session;
mod timed;
mod wire;
