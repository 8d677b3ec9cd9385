//! The start of Spin: its executable, its options, and starts that fail.

use std::{os::unix::fs::PermissionsExt as _, process::Command};

use anyhow::{Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tests::{eventually, host_binary};

use crate::fixture::{Spin, app};

#[tokio::test]
async fn options_are_passed_on() -> Result<()> {
    let (spin, app) = (
        Spin::new(),
        app("[component.probe.profile.other]\nenvironment = { PROFILE = \"other\" }\n"),
    );
    let state = tempfile::tempdir()?;
    let cache = state.path().join("cache");
    let cache = cache.to_str().unwrap_or_default();
    let state = state.path().to_str().unwrap_or_default();
    let options = [
        "--build",
        "--profile",
        "other",
        "--env",
        "COLOR=blue",
        "--variable",
        "color=green = x",
        "--state-dir",
        state,
        "--cache-dir",
        cache,
        "--log-dir",
        "",
        "--key-value",
        "one=1 = x",
        "--sqlite",
        "CREATE TABLE one (id)",
        "--follow",
        "probe",
        "--truncate-logs",
        "--disable-cache",
        "--disable-pooling",
        "--max-instance-reuse-count",
        "1..128",
        "--idle-instance-timeout",
        "2s",
        "--max-instance-memory",
        "33554432",
        "--request-timeout",
        "20s",
        "--debug-info",
        "--component-id",
        "probe",
    ];
    let host = spin.serve(app.path(), &options)?;
    ensure!(host.get("/variable/color").await? == (200, "green = x".into()));
    let environment = host.get_json("/env").await?;
    ensure!(environment["COLOR"] == "blue", "{environment}");
    ensure!(environment["PROFILE"] == "other", "{environment}");
    ensure!(host.get("/get?key=one").await? == (200, "1 = x".into()));
    ensure!(host.get("/print?line=printed-text").await?.0 == 200);
    host.wait_for_log(&["printed-text"]).await?;
    for file in ["sqlite_key_value.db", "sqlite_db.db"] {
        ensure!(std::fs::exists(format!("{state}/{file}"))?, "{file}");
    }
    ensure!(!std::fs::exists(format!("{state}/logs"))?);
    let (status, _) = host.get("/alloc?mib=64").await?;
    ensure!(status == 500, "{status}");
    let arguments = spin.record()?.arguments()?;
    let manifest = app.path().join("spin.toml");
    for part in [
        &format!("--from {} --listen 127.0.0.1:", manifest.display()),
        "--build --truncate-logs --disable-cache --disable-pooling --profile other",
        &format!("--log-dir  --cache-dir {cache}"),
        "--max-instance-reuse-count 1..128 --idle-instance-timeout 2s",
        "--debug-info --component-id probe",
    ] {
        ensure!(arguments.contains(part), "no {part:?} in {arguments}");
    }
    for part in ["--quiet", "--request-timeout", "color"] {
        ensure!(!arguments.contains(part), "{part:?} in {arguments}");
    }
    Ok(())
}

#[tokio::test]
async fn variables_take_precedence_over_providers() -> Result<()> {
    let (spin, app) = (Spin::new(), app(""));
    let file = app.path().join("runtime-config.toml");
    std::fs::write(
        &file,
        "[[variables_provider]]\ntype = \"static\"\n\
         values = { color = \"provided\", grip_key = \"provided\", grip_url = \"provided\" }\n",
    )?;
    let file = file.to_str().unwrap_or_default();
    for (options, color) in [
        (&[][..], "provided"),
        (&["--variable", "color=chosen"], "chosen"),
    ] {
        let options = [&["--runtime-config-file", file][..], options].concat();
        let host = spin.serve(app.path(), &options)?;
        ensure!(host.get("/variable/color").await?.1 == color, "{options:?}");
        let url = host.get("/variable/url").await?.1;
        ensure!(url == format!("http://{}", host.control), "{url}");
        // Signatures are valid.
        let key = grip::Key::parse(&host.get("/variable/key").await?.1)?;
        let headers = host.get_json("/headers").await?;
        let token = headers["grip-sig"].as_str().unwrap_or_default();
        grip::signature::verify(&key, token, std::time::SystemTime::now())?;
    }
    let error = spin.start_error(spin.command(app.path()), &["--variable", "colour=x"])?;
    ensure!(error.contains("unknown variable \"colour\""), "{error}");
    Ok(())
}

#[tokio::test]
async fn the_key_is_hidden_from_other_users() -> Result<()> {
    let (spin, app) = (Spin::new(), app(""));
    let mut command = spin.command(app.path());
    command.env("SOCKET_HOST_GRIP_KEY", "s3cret");
    let host = tests::Server::run(command, &[])?;
    ensure!(host.get("/variable/key").await?.1 == "s3cret");
    let url = host.get("/variable/url").await?.1;
    ensure!(url == format!("http://{}", host.control), "{url}");

    let record = spin.record()?;
    ensure!(record.variable("grip_key") == Some("s3cret"));
    ensure!(!record.environment().contains("s3cret"));
    let arguments = record.arguments()?;
    let (_, file) = arguments.split_once("--variable @").unwrap_or_default();
    let file = file.split(' ').next().unwrap_or_default();
    ensure!(file.ends_with(".json"), "{arguments}");
    eventually("the deletion of the file", async || {
        (!std::fs::exists(file).ok()?).then_some(())
    })
    .await?;
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
    ensure!(record.variable("grip_key") == Some("chosen"));
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
            "--spin starts its own upstream",
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
    let (mut host, record) = spin.start_without_waiting(app.path(), "wait").await?;
    kill_process(Pid::from_child(&host), Signal::INT)?;
    let status = eventually("the exit", async || host.try_wait().ok().flatten()).await?;
    ensure!(status.code() == Some(0), "{status}");
    record.expect_exited()
}

#[tokio::test]
async fn a_second_signal_during_the_start_exits_at_once() -> Result<()> {
    let (spin, app) = (Spin::new(), app(""));
    let mode = "wait stubborn";
    let (mut host, record) = spin.start_without_waiting(app.path(), mode).await?;
    // More than two, because the system merges a signal with a pending one.
    let status = eventually("the exit", async || {
        kill_process(Pid::from_child(&host), Signal::INT).ok()?;
        host.try_wait().ok().flatten()
    })
    .await?;
    // With 0, the host would have waited for Spin.
    ensure!(status.code() == Some(1), "{status}");
    record.wait_for_exit().await
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
