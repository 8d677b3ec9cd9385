//! Socket Burger on several hosts, which share a Redis server.

use std::{fmt::Display, path::Path, process::Command};

use anyhow::Result;
use tempfile::TempDir;

use crate::{burger, host_binary};

const RUNTIME_CONFIG: &str = "runtime-config.toml";

/// Writes Socket Burger's manifest for one host, with an order created every `interval`. The orders
/// are in database 0 of the Redis server at the address `redis`.
pub fn kitchen(redis: impl Display, interval: &str) -> Result<TempDir> {
    let folder = burger(interval);
    let store =
        format!("[key_value_store.default]\ntype = \"redis\"\nurl = \"redis://{redis}/0\"\n");
    std::fs::write(folder.path().join(RUNTIME_CONFIG), store)?;
    Ok(folder)
}

/// Returns the command that runs a host for a folder written by [`kitchen`]. The bus is database 1 of
/// the Redis server at the address `bus`.
pub fn kitchen_command(folder: &Path, bus: impl Display) -> Command {
    let mut command = Command::new(host_binary());
    command.arg("up").arg("--from").arg(folder);
    command.args(["--bus", &format!("redis://{bus}/1")]);
    let config = folder.join(RUNTIME_CONFIG);
    command.arg("--runtime-config-file").arg(config);
    command
}
