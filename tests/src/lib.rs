//! Shared code of the end-to-end tests: the host as a child process, and its clients.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

mod address;
mod app;
pub mod backend;
mod cluster;
pub mod deflate;
mod docs;
mod http;
pub mod http2_frame;
mod kitchen;
mod large;
mod nginx;
mod proxy;
pub mod pushpin;
mod redis;
mod server;
pub mod storm;
mod upstream;
mod websocket;

pub use self::{
    address::free_address,
    app::{app_with_manifest, burger, burger_without_timer, probe, typed},
    cluster::Cluster,
    docs::code_block,
    http::{Response, read_response, request},
    kitchen::{kitchen, kitchen_command},
    large::large_component,
    nginx::Nginx,
    proxy::Proxy,
    redis::{MASTER, Redis},
    server::{Log, Server},
    upstream::{Upstream, spin_stand_in},
    websocket::{COMPONENT_PING, Client, HandshakeError},
};

/// The time after which a test gives up waiting.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// The pause between two polls of a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Returns the workspace's root folder.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// Returns the path of the host's binary. `tests/run` builds it before it runs the tests.
pub fn host_binary() -> PathBuf {
    wasm("probe");
    built("target/release/socket-host")
}

/// Returns the path of a component. `tests/run` builds it before it runs the tests.
pub fn wasm(name: &str) -> PathBuf {
    built(&format!("target/wasm32-wasip2/component/{name}.wasm"))
}

fn built(path: &str) -> PathBuf {
    let path = workspace().join(path);
    assert!(
        path.exists(),
        "{} is missing: tests/run builds it",
        path.display()
    );
    path
}

/// Runs a command of the host, such as `check` or `build`, for the manifest in `folder`.
pub fn socket_host(command: &[&str], folder: &Path) -> Result<Output> {
    Command::new(host_binary())
        .args(command)
        .arg("--from")
        .arg(folder)
        .output()
        .context("cannot run socket-host")
}

/// Returns a command that runs the command in its arguments without the terminal of the test, as a
/// service manager does. SIGHUP has its default action, even if the test ignores it.
pub fn without_terminal() -> Command {
    let mut command = Command::new("setsid");
    command.args(["env", "--default-signal=HUP"]);
    command
}

/// Polls `condition` until it returns a value. Fails after [`TIMEOUT`].
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(value) = condition().await {
            return Ok(value);
        }
        ensure!(Instant::now() < deadline, "timed out waiting for {what}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
