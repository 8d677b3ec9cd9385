//! Manifests that lack what the crate needs.

use anyhow::{Result, ensure};
use tests::{Client, Server};

use crate::place::app;

/// The last line for the manifest that the log has.
const LAST_LINE: &str = "grip_key = \"{{ grip_key }}\"";

/// Starts the chat without the lines of the manifest that contain `removed`, opens a WebSocket, and
/// waits for a line of the log that contains `expected`. Returns the status and the log.
async fn start_without(removed: &str, expected: &str) -> Result<(Option<u16>, String)> {
    let folder = app("chat")?;
    let path = folder.path().join("spin.toml");
    let manifest = std::fs::read_to_string(&path)?;
    let lines = manifest.lines();
    let kept = lines.filter(|line| !line.contains(removed));
    let changed = kept.collect::<Vec<_>>().join("\n");
    ensure!(changed.len() < manifest.len(), "nothing is removed");
    std::fs::write(&path, changed)?;
    let host = Server::start(folder.path(), &[])?;
    let status = match Client::open(host.address, "/", &[]).await {
        Ok(mut client) => {
            client.send("hello").await?;
            client.closed().await?
        }
        Err(failed) => failed.status,
    };
    host.wait_for_log(&[expected]).await?;
    Ok((status, host.log_text()))
}

#[tokio::test]
async fn a_variable_is_missing() -> Result<()> {
    let (status, log) = start_without("grip_key", LAST_LINE).await?;
    ensure!(status == Some(500), "{status:?}");
    ensure!(log.contains("variable grip_key cannot be read"), "{log}");
    for line in [
        "grip_key = { default = \"\", secret = true }",
        "[component.chat.variables]",
        "allowed_outbound_hosts = [\"{{ grip_url }}\"]",
    ] {
        ensure!(log.contains(line), "{line} is not in {log}");
    }
    Ok(())
}

#[tokio::test]
async fn the_host_is_not_allowed() -> Result<()> {
    let (_, log) = start_without("allowed_outbound_hosts", LAST_LINE).await?;
    ensure!(log.contains("may not connect to the GRIP host"), "{log}");
    ensure!(
        log.contains("allowed_outbound_hosts = [\"{{ grip_url }}\"]"),
        "{log}"
    );
    Ok(())
}

#[tokio::test]
async fn the_store_is_not_allowed() -> Result<()> {
    let expected = "add \"default\" to the component's key_value_stores in spin.toml";
    let (status, _) = start_without("key_value_stores", expected).await?;
    ensure!(status == Some(500), "{status:?}");
    Ok(())
}
