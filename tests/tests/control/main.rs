//! The control port for people: the requests of the dashboard, and the commands that use a running host.

mod commands;
mod doctor;
mod endpoints;
mod terminal;

use std::process::{Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use tests::host_binary;
use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};

/// A command of the host without the variables of the test's environment.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(host_binary());
    command
        .args(arguments)
        .env_remove("NO_COLOR")
        .env_remove("SOCKET_HOST_CONTROL")
        .env_remove("SOCKET_HOST_GRIP_KEY")
        .env_remove("SOCKET_HOST_TOKEN")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Runs a command with this input until it exits.
async fn run_with_input(arguments: &[&str], input: &[u8]) -> Result<Output> {
    let mut child = command(arguments).spawn()?;
    let mut stdin = child.stdin.take().context("stdin")?;
    stdin.write_all(input).await?;
    drop(stdin);
    let output = timeout(tests::TIMEOUT, child.wait_with_output()).await;
    Ok(output.context("the command does not exit")??)
}

async fn run(arguments: &[&str]) -> Result<Output> {
    run_with_input(arguments, b"").await
}

/// Runs a command that succeeds, and returns what it prints.
async fn stdout(arguments: &[&str]) -> Result<String> {
    let output = run(arguments).await?;
    ensure!(output.status.success(), "{arguments:?}: {output:?}");
    ensure!(output.stderr.is_empty(), "{arguments:?}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs a command that fails with status 1, and returns its error.
async fn error(arguments: &[&str]) -> Result<String> {
    let output = run(arguments).await?;
    ensure!(output.status.code() == Some(1), "{arguments:?}: {output:?}");
    Ok(String::from_utf8(output.stderr)?)
}
