//! Colours and progress on terminals, and none in pipes; and `--open`.

use std::{os::unix::fs::PermissionsExt as _, process::Stdio};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use tests::{Server, burger_without_timer, eventually, host_binary, large_component, wasm};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::Command,
    time::timeout,
};

/// Returns a command that runs a shell command in a terminal of its own.
fn terminal(line: &str, variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new("script");
    command
        .args(["--quiet", "--return", "--command", line, "/dev/null"])
        .env_remove("NO_COLOR")
        .env("TERM", "xterm")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Runs a shell command in a terminal of its own, and returns what it displays.
async fn in_terminal(line: &str, variables: &[(&str, &str)]) -> Result<String> {
    let output = timeout(tests::TIMEOUT, terminal(line, variables).output()).await;
    let output = output.context("the command does not exit")??;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Reads until a text was received, and returns all of what was.
async fn read_until(mut stream: impl AsyncRead + Unpin, text: &str) -> Result<String> {
    let mut received = Vec::new();
    loop {
        let read = timeout(tests::TIMEOUT, stream.read_buf(&mut received)).await;
        let length = read.context("nothing is received")??;
        let so_far = String::from_utf8_lossy(&received);
        if so_far.contains(text) {
            return Ok(so_far.into_owned());
        }
        ensure!(length > 0, "the end comes before {text:?}: {so_far:?}");
    }
}

#[tokio::test]
async fn colors_are_for_terminals() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &[])?;
    let program = host_binary();
    let program = program.display();
    let sessions = format!("{program} sessions --control {}", host.control);
    let shown = in_terminal(&sessions, &[]).await?;
    ensure!(shown.contains("\u{1b}[1mCONNECTION"), "{shown:?}");
    for variables in [&[("NO_COLOR", "1")][..], &[("TERM", "dumb")]] {
        let shown = in_terminal(&sessions, variables).await?;
        ensure!(
            shown.contains("CONNECTION") && !shown.contains('\u{1b}'),
            "{shown:?}"
        );
    }
    let failing = format!("{program} close --control {} x", host.control);
    let shown = in_terminal(&failing, &[]).await?;
    ensure!(
        shown.contains("\u{1b}[1;31merror:\u{1b}[0m x: "),
        "{shown:?}"
    );
    Ok(())
}

#[tokio::test]
async fn compiling_is_shown_on_terminals() -> Result<()> {
    let folder = tests::app_with_manifest(
        "spin_manifest_version = 2\napplication.name = \"large\"\n\
         trigger.http = [{ route = \"/\", component = \"large\" }]\n\
         [component.large]\nsource = \"large.wasm\"\n",
    );
    let large = large_component(&wasm("probe"))?;
    std::fs::write(folder.path().join("large.wasm"), large)?;
    // An empty cache of compiled components.
    let cache = tempfile::tempdir()?;
    let check = format!(
        "env XDG_CACHE_HOME={} {} check --from {}",
        cache.path().display(),
        host_binary().display(),
        folder.path().display()
    );
    let mut child = terminal(&check, &[]).spawn()?;
    let stdout = child.stdout.take().context("stdout")?;
    // Compiling may take minutes on a busy machine, and its end is not waited for.
    let shown = read_until(stdout, "compiling components (1 s)").await?;
    ensure!(
        shown.contains("\r\u{1b}[K⠋ compiling components (0 s)"),
        "{shown:?}"
    );
    ensure!(!shown.contains("INFO"), "{shown:?}");
    let mut child = Command::new("sh")
        .args(["-c", &format!("exec {check}")])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let stderr = child.stderr.take().context("stderr")?;
    let logged = read_until(stderr, "compiling components").await?;
    ensure!(
        logged.contains("INFO") && !logged.contains(['\r', '\u{1b}']),
        "{logged:?}"
    );
    Ok(())
}

#[tokio::test]
async fn the_browser_is_opened() -> Result<()> {
    let folder = burger_without_timer();
    let programs = tempfile::tempdir()?;
    let opened = programs.path().join("opened");
    let program = programs.path().join("xdg-open");
    std::fs::write(
        &program,
        format!("#!/bin/sh\necho \"$1\" > {}\n", opened.display()),
    )?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
    let path = std::env::var("PATH")?;
    let path = format!("{}:{path}", programs.path().display());
    for (option, is_dashboard) in [("--open", false), ("--open=dashboard", true)] {
        let mut command = std::process::Command::new(host_binary());
        command
            .arg("up")
            .arg("--from")
            .arg(folder.path())
            .env("PATH", &path);
        let host = Server::run(command, &[option])?;
        let address = if is_dashboard {
            host.control
        } else {
            host.address
        };
        let url = format!("http://{address}");
        eventually(&url, async || {
            let text = std::fs::read_to_string(&opened).ok()?;
            (text.trim_end() == url).then_some(())
        })
        .await?;
        host.signal(Signal::TERM)?;
        ensure!(host.wait().await? == Some(0));
    }
    Ok(())
}
