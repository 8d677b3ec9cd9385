//! The start of Spin: its executable, its options, and starts that fail.

use std::{os::unix::fs::PermissionsExt as _, process::Command};

use anyhow::{Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tests::{eventually, host_binary};

use crate::fixture::{Spin, app};

#[tokio::test]
async fn options_are_passed_on() -> Result<()> {
    let (spin, app) = (Spin::new(), app(""));
    let state = tempfile::tempdir()?;
    let state = state.path().to_str().unwrap_or_default();
    let options = [
        "--build",
        "--env",
        "COLOR=blue",
        "--variable",
        "color=green = x",
        "--state-dir",
        state,
    ];
    let host = spin.serve(app.path(), &options)?;
    ensure!(host.get("/variable/color").await? == (200, "green = x".into()));
    let environment = host.get_json("/env").await?;
    ensure!(environment["COLOR"] == "blue", "{environment}");
    ensure!(host.get("/set?key=a&value=b").await?.0 == 200);
    ensure!(std::fs::exists(format!("{state}/sqlite_key_value.db"))?);
    let arguments = spin.record()?.arguments()?;
    let manifest = app.path().join("spin.toml");
    for part in [
        &format!("--from {} --listen 127.0.0.1:", manifest.display()),
        "--build",
    ] {
        ensure!(arguments.contains(part), "no {part:?} in {arguments}");
    }
    ensure!(!arguments.contains("--quiet"), "{arguments}");
    Ok(())
}

#[tokio::test]
async fn the_key_is_in_no_command_line() -> Result<()> {
    let (spin, app) = (Spin::new(), app(""));
    let mut command = spin.command(app.path());
    command.env("SOCKET_HOST_GRIP_KEY", "s3cret");
    let host = tests::Server::run(command, &[])?;
    ensure!(host.get("/variable/key").await?.1 == "s3cret");
    let url = host.get("/variable/url").await?.1;
    ensure!(url == format!("http://{}", host.control), "{url}");

    let record = spin.record()?;
    ensure!(record.variable("SPIN_VARIABLE_GRIP_KEY") == Some("s3cret"));
    let [parent, child] = record.processes()?;
    for process in [child, parent, parent.parent()?, parent.parent()?.parent()?] {
        let line = process.command_line()?;
        ensure!(line.contains("up ") || line.contains("trigger "), "{line}");
        ensure!(!line.contains("s3cret"), "{line}");
    }
    Ok(())
}

#[tokio::test]
async fn variables_of_other_sources_apply_to_the_host() -> Result<()> {
    let (spin, app) = (Spin::new(), app(""));
    let options = ["--variable", "grip_key=chosen", "--quiet"];
    let host = spin.serve(app.path(), &options)?;
    let record = spin.record()?;
    ensure!(record.variable("SPIN_VARIABLE_GRIP_KEY") == Some("chosen"));
    ensure!(record.arguments()?.contains("--quiet"));
    let headers = host.get_json("/headers").await?;
    let token = headers["grip-sig"].as_str().unwrap_or_default();
    let key = grip::Key::parse("chosen")?;
    grip::signature::verify(&key, token, std::time::SystemTime::now())?;
    Ok(())
}

#[tokio::test]
async fn output_is_passed_on() -> Result<()> {
    let (spin, app) = (Spin::new(), app(""));
    let host = spin.serve(app.path(), &["--build"])?;
    host.wait_for_log(&["[spin] Building component"]).await?;
    host.wait_for_log(&["[spin] Serving http://127.0.0.1:"])
        .await?;
    ensure!(host.get("/print?line=from-the-component").await?.0 == 200);
    host.wait_for_log(&["from-the-component"]).await?;
    Ok(())
}

#[tokio::test]
async fn a_failed_start_shows_the_output() -> Result<()> {
    let (spin, app) = (Spin::new(), app(""));
    let mut command = spin.command(app.path());
    command.env("STAND_IN_MODE", "fail");
    let error = spin.start_error(command, &["--build"])?;
    let (_, shown) = error.split_once("error: ").unwrap_or_default();
    for part in ["`spin up`", "status 3", "Building", "the oven is cold"] {
        ensure!(shown.contains(part), "no {part:?} in {error}");
    }

    // Spin's own check of its options.
    let options = ["--variable", "grip_key=x", "--state-dir", ""];
    let error = spin.start_error(spin.command(app.path()), &options)?;
    ensure!(error.contains("--state-dir"), "{error}");

    let text = std::fs::read_to_string(app.path().join("spin.toml"))?;
    let text = text.replace("probe.wasm", "missing.wasm");
    std::fs::write(app.path().join("spin.toml"), text)?;
    let error = spin.start_error(spin.command(app.path()), &[])?;
    ensure!(error.contains("missing.wasm"), "{error}");
    Ok(())
}

#[tokio::test]
async fn the_executable_is_found_or_named() -> Result<()> {
    let (spin, app) = (Spin::new(), app(""));
    let empty = tempfile::tempdir()?;
    let mut command = spin.command(app.path());
    command.env("PATH", empty.path());
    let error = spin.start_error(command, &[])?;
    for part in ["https://spinframework.dev/install", "SPIN_BIN_PATH", "PATH"] {
        ensure!(error.contains(part), "no {part:?} in {error}");
    }

    // The variable wins over an executable in PATH, which fails.
    let other = empty.path().join("spin");
    std::fs::write(&other, "#!/bin/sh\necho the other spin >&2\nexit 5\n")?;
    std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o755))?;
    let path = format!("{}:{}", empty.path().display(), spin.path_variable());
    let with = |named: &str| {
        let mut command = spin.command(app.path());
        command.env("PATH", &path).env("SPIN_BIN_PATH", named);
        command
    };
    let error = spin.start_error(with(""), &[])?;
    ensure!(
        error.contains("the other spin") && error.contains("status 5"),
        "{error}"
    );
    let named = spin.folder().join("spin");
    let host = tests::Server::run(with(&named.display().to_string()), &[])?;
    ensure!(host.get("/").await?.0 == 200);
    let error = spin.start_error(with("/nowhere/spin"), &[])?;
    ensure!(
        error.contains("/nowhere/spin") && error.contains("SPIN_BIN_PATH"),
        "{error}"
    );
    Ok(())
}

#[test]
fn conflicting_options_are_errors() -> Result<()> {
    let (spin, app) = (Spin::new(), app(""));
    for (options, reason) in [
        (
            &["--upstream", "http://127.0.0.1:1"][..],
            "an upstream of its own",
        ),
        (&["--watch"], "cannot replace components that run in Spin"),
    ] {
        let error = spin.start_error(spin.command(app.path()), options)?;
        ensure!(
            error.contains(reason) && error.contains(options[0]),
            "{error}"
        );
    }
    let missing = spin.start_error(spin.command("/nowhere".as_ref()), &[])?;
    ensure!(
        missing.contains("/nowhere") && missing.contains("--from"),
        "{missing}"
    );
    Ok(())
}

#[tokio::test]
async fn a_signal_during_the_start_ends_spin() -> Result<()> {
    let (spin, app) = (Spin::new(), app(""));
    let (mut host, record) = spin.start_without_waiting(app.path()).await?;
    kill_process(Pid::from_child(&host), Signal::INT)?;
    let status = eventually("the exit", async || host.try_wait().ok().flatten()).await?;
    ensure!(status.code() == Some(0), "{status}");
    record.expect_exited()
}

#[test]
fn the_supervisor_reports_its_command() -> Result<()> {
    // A closed pipe ends the command at once.
    let supervise = |command: &[&str], stdin: std::process::Stdio| {
        Command::new(host_binary())
            .args(["supervise", "--"])
            .args(command)
            .stdin(stdin)
            .output()
    };
    let (reader, writer) = std::io::pipe()?;
    let output = supervise(&["sh", "-c", "exit 7"], reader.into())?;
    ensure!(output.status.code() == Some(7), "{output:?}");
    drop(writer);
    let (reader, writer) = std::io::pipe()?;
    let output = supervise(&["/nowhere/spin"], reader.into())?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(126) && error.contains("/nowhere/spin"),
        "{output:?}"
    );
    drop(writer);
    let (reader, _) = std::io::pipe()?;
    let output = supervise(&["sleep", "1000"], reader.into())?;
    ensure!(output.status.code() == Some(128 + 15), "{output:?}");
    Ok(())
}
