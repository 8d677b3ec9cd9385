//! Spin as a service of its own, with the commands in `docs/deploying.md`.

use std::{os::unix::fs::symlink, process::Command};

use anyhow::{Result, ensure};
use rustix::process::Signal;
use tests::{Server, burger, code_block, eventually, free_address, host_binary};

use crate::fixture::{Process, Spin};

/// Kills a process on drop.
struct Guard(Process);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.signal(Signal::KILL);
    }
}

#[tokio::test]
async fn the_commands_in_the_documentation_serve_orders() -> Result<()> {
    let (spin, folder) = (Spin::new(), burger("50ms"));
    symlink(host_binary(), spin.folder().join("socket-host"))?;
    let (control, upstream) = (free_address()?.to_string(), free_address()?.to_string());
    let mut script = code_block("deploying.md", "sh", "spin up --listen 127.0.0.1:3001")?;
    for (from, to) in [
        ("127.0.0.1:5561", &*control),
        ("127.0.0.1:3001", &upstream),
        ("socket-host up", "exec socket-host up"),
    ] {
        ensure!(script.contains(from), "no {from} in {script}");
        script = script.replace(from, to);
    }
    // The host does not listen on its default ports.
    script += " \"$@\"";
    let mut command = Command::new("bash");
    command
        .args(["-c", &script, "bash"])
        .current_dir(folder.path())
        .env("PATH", spin.path_variable())
        .env("STAND_IN_RECORD", spin.record_path())
        .env_remove("RUNTIME_CONFIG_FILE");
    let host = Server::run(command, &["--control", &control]);
    let record = eventually("the start of Spin", async || spin.record().ok()).await?;
    let _processes = record.processes()?.map(Guard);
    let host = host?;

    // Spin may not serve yet.
    let mut socket = eventually("a WebSocket", async || host.socket("/api/ws").await.ok()).await?;
    let first = socket.order().await?["id"].as_u64();
    let second = socket.order().await?["id"].as_u64();
    ensure!(
        first.is_some() && second == first.map(|id| id + 1),
        "{first:?} {second:?}"
    );
    let (status, _) = host.get("/internal/orders").await?;
    ensure!(status == 404, "{status}");
    Ok(())
}
