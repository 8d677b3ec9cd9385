//! Timers with a cron expression, and Spin's cron triggers.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use tests::{Server, app_with_manifest, eventually, host_binary, probe, workspace};

/// Returns the manifest of an application with cron triggers only.
fn triggers() -> String {
    let component = |id: &str, behavior: &str| {
        format!(
            r#"
[[trigger.cron]]
component = "{id}"
cron_expression = "* * * * * *"
[component.{id}]
source = "{}/target/wasm32-wasip2/component/scheduled.wasm"
environment = {{ BEHAVIOR = "{behavior}" }}
"#,
            workspace().display()
        )
    };
    let application = "spin_manifest_version = 2\napplication.name = \"cron\"\n";
    format!(
        "{application}{}{}",
        component("report", ""),
        component("broken", "error")
    )
}

#[tokio::test]
async fn cron_triggers_call_their_components_each_second() -> Result<()> {
    let folder = app_with_manifest(&triggers());
    let host = Server::start(folder.path(), &[])?;
    let file = folder.path().join(".spin/logs/report_stdout.txt");
    let times = eventually("three events", async || {
        let text = fs::read_to_string(&file).ok()?;
        let times = text
            .lines()
            .map(|line| line.strip_prefix("event ")?.parse::<u64>().ok());
        let times = times.collect::<Option<Vec<_>>>()?;
        (times.len() >= 3).then_some(times)
    })
    .await?;
    ensure!(times.is_sorted_by(|one, next| one < next), "{times:?}");
    ensure!(times[2] - times[0] < 30, "{times:?}");
    let words = ["ERROR", "timer failed", "timer=\"broken\"", "out of paper"];
    host.wait_for_log(&words).await?;
    ensure!(host.get("/").await?.0 == 404);
    Ok(())
}

#[tokio::test]
async fn timers_follow_a_cron_expression() -> Result<()> {
    let folder = probe(
        r#"[[application.tool.socket-host.timer]]
request = "GET /print?line=tick"
cron = "* * * * * *"
"#,
    );
    let _host = Server::start(folder.path(), &["--quiet"])?;
    let file = folder.path().join(".spin/logs/probe_stdout.txt");
    eventually("two requests", async || {
        let text = fs::read_to_string(&file).ok()?;
        text.starts_with("tick\ntick\n").then_some(())
    })
    .await
}

#[tokio::test]
async fn an_upstream_calls_its_own_components() -> Result<()> {
    let folder = app_with_manifest(&triggers());
    let path = folder.path().display().to_string();
    let host = Server::in_front_of("http://127.0.0.1:9", &["--from", &path])?;
    host.wait_for_log(&["WARN", "[[trigger.cron]] is ignored"])
        .await?;
    Ok(())
}

#[test]
fn check_prints_cron_timers_and_rejects_invalid_ones() -> Result<()> {
    let check = |folder: &Path| {
        let output = Command::new(host_binary())
            .args(["check", "--from"])
            .arg(folder)
            .output()
            .context("socket-host check")?;
        let text = [output.stdout, output.stderr].concat();
        anyhow::Ok((output.status.success(), String::from_utf8(text)?))
    };
    let table = |cron: &str| {
        format!(
            "[[application.tool.socket-host.timer]]\nrequest = \"GET /print\"\ncron = {cron:?}\n"
        )
    };
    let text = triggers() + &table("0 30 4 * * MON");
    let (is_valid, text) = check(app_with_manifest(&text).path())?;
    ensure!(is_valid, "{text}");
    for line in [
        "component report at * * * * * * (cron)",
        "GET /print at 0 30 4 * * MON (cron)",
    ] {
        ensure!(text.contains(line), "no {line:?} in {text}");
    }
    let text = triggers() + &table("0 0 0 1 1 * 2020");
    let text = text.replacen("* * * * * *", "0 0 0 1 1 * 2020", 1);
    let (is_valid, text) = check(app_with_manifest(&text).path())?;
    ensure!(is_valid, "{text}");
    for part in [
        "trigger.cron[0].cron_expression",
        "no times in the future, so the component is never called",
        "application.tool.socket-host.timer[0].cron",
        "no times in the future, so the request is never sent",
    ] {
        ensure!(text.contains(part), "no {part:?} in {text}");
    }
    let text = triggers().replace("* * * * * *", "* * * * *") + &table("0 0 0 30 2 *");
    let (is_valid, text) = check(app_with_manifest(&text).path())?;
    ensure!(!is_valid, "{text}");
    for part in [
        "spin.toml",
        "trigger.cron[0].cron_expression",
        "put one for the seconds in front",
        "application.tool.socket-host.timer[0].cron",
        "matches no time",
    ] {
        ensure!(text.contains(part), "no {part:?} in {text}");
    }
    Ok(())
}
