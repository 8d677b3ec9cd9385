//! The limits on what clients use: what is possible at a limit, and the status, close code and metric
//! beyond it. Also which pages of other sites may use the host.

mod address;
mod connections;
mod cross_site;
mod messages;
mod proxies;
mod requests;

use anyhow::{Result, ensure};
use tempfile::TempDir;
use tests::{Response, Server, burger_without_timer};

/// A client's address, which a proxy forwards. The proxy is on this machine, like all clients here.
const CLIENT: &str = "192.0.2.7";

/// Another client's address.
const OTHER_CLIENT: &str = "192.0.2.8";

/// Returns Socket Burger with other settings: `from` in its manifest is replaced.
fn burger(from: &str, to: &str) -> Result<TempDir> {
    let folder = burger_without_timer();
    let path = folder.path().join("spin.toml");
    let manifest = std::fs::read_to_string(&path)?;
    ensure!(manifest.contains(from), "{from} in {manifest}");
    std::fs::write(&path, manifest.replace(from, to))?;
    Ok(folder)
}

/// Returns Socket Burger with another setting for WebSockets.
fn burger_with_websocket(setting: &str) -> Result<TempDir> {
    let table = "[application.tool.socket-host.websocket]";
    burger(table, &format!("{table}\n{setting}"))
}

/// Checks that a response asks the client to try again later.
fn ensure_retry(response: &Response, status: u16) -> Result<()> {
    let head = response.head.to_ascii_lowercase();
    ensure!(
        response.status == status && head.contains("\r\nretry-after: "),
        "{response:?}"
    );
    ensure!(response.body.ends_with("try again later\n"), "{response:?}");
    Ok(())
}

/// Waits until this many connections, requests or publications were dropped for this reason.
async fn wait_for_dropped(host: &Server, reason: &str, count: usize) -> Result<()> {
    let line = format!("socket_host_dropped_total{{reason={reason:?}}} {count}");
    host.wait_for_metric(&line).await
}
