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
//! - [`variables`] resolves the variables that Spin gets from the host.
//! - [`process`] starts Spin, waits until it serves, and stops it; [`readiness`] asks whether it
//!   serves; [`output`] copies what it prints.
//! - [`supervisor`] is the hidden subcommand.

use std::net::SocketAddr;

use anyhow::Result;
use spin_runtime::Manifest;

use crate::{app, options::HostOptions};

mod arguments;
mod executable;
mod output;
mod process;
mod readiness;
mod supervisor;
mod variables;

pub(crate) use executable::find;
pub(crate) use process::{SpinProcess, wait_for_exit};
pub(crate) use supervisor::{SUPERVISE, supervise};

/// Starts Spin if the options request it, and changes them to those of a host in front of it.
///
/// `control` is the address of the control port, which components publish to.
///
/// # Errors
/// Fails if Spin exits before it serves.
pub(crate) async fn start(
    options: &mut HostOptions,
    manifest: &Manifest,
    control: SocketAddr,
) -> Result<Option<SpinProcess>> {
    let Some(spin) = options.spin.take() else {
        return Ok(None);
    };
    let grip_url = app::grip_url(control);
    let grip_key = options.grip_key.clone().unwrap_or_else(app::random_key);
    let spin = SpinProcess::start(&spin, options, manifest, grip_url, grip_key).await?;
    options.upstream = Some(spin.url()?);
    options.grip_key = Some(spin.grip_key().to_owned());
    Ok(Some(spin))
}
