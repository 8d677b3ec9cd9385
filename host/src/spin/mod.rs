//! Runs `spin up` as the upstream: `--spin`.
//!
//! ```text
//! host ── spawns ──▶ supervisor ── spawns ──▶ spin up ──▶ spin trigger http, on a loopback port
//!   └───── pipe ────────▲   (the same binary)     └────────────── one process group ───────────┘
//! ```
//!
//! The supervisor ends Spin's process group when the pipe closes. The pipe closes when the host stops
//! Spin, and also when the host is killed. The supervisor and Spin have process groups of their own,
//! so that Ctrl-C in a terminal reaches only the host, which drains first.
//!
//! - [`executable`] finds Spin.
//! - [`arguments`] passes the host's options on to Spin.
//! - [`grip`] resolves the variables `grip_url` and `grip_key`.
//! - [`process`] starts Spin, waits until it serves, and stops it; [`readiness`] asks whether it
//!   serves; [`output`] copies what it prints.
//! - [`supervisor`] is the hidden subcommand.

mod arguments;
mod executable;
mod grip;
mod output;
mod process;
mod readiness;
mod supervisor;

pub(crate) use executable::find;
pub(crate) use process::{SpinProcess, wait_for_exit};
pub(crate) use supervisor::{SUPERVISE, supervise};
