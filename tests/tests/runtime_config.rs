//! `--runtime-config-file` and `--sqlite`.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use tests::{Server, host_binary, probe, socket_host};

/// Writes an application whose component uses configured stores, databases and variables.
fn app() -> TempDir {
    probe(
        r#"
key_value_stores = ["default", "extra"]
sqlite_databases = ["default", "extra"]
variables = { greeting = "{{ greeting }}" }
[variables]
greeting = { required = true }
"#,
    )
}

/// Writes a runtime configuration with files in `data`, and returns its path.
fn write_config(folder: &Path, data: &Path) -> Result<String> {
    let database = data.join("extra.db");
    let text = format!(
        r#"
state_dir = {:?}
log_dir = {:?}
[key_value_store.extra]
type = "spin"
path = "data/kv.db"
[sqlite_database.extra]
type = "spin"
path = {database:?}
[[variables_provider]]
type = "static"
values = {{ greeting = "configured" }}
[llm_compute]
type = "spin"
"#,
        data.join("state"),
        data.join("logs"),
    );
    let file = folder.join("runtime-config.toml");
    std::fs::write(&file, text)?;
    Ok(file.to_str().context("a path")?.to_owned())
}

#[tokio::test]
async fn a_runtime_configuration_applies_to_everything() -> Result<()> {
    let (app, data) = (app(), TempDir::new()?);
    let config = write_config(app.path(), data.path())?;
    let schema = app.path().join("schema.sql");
    std::fs::write(
        &schema,
        "CREATE TABLE t (v); INSERT INTO t VALUES ('from a file');",
    )?;
    let schema = format!("@{}:extra", schema.display());
    let mut command = Command::new(host_binary());
    command.arg("up").arg("--from").arg(app.path());
    // As Spin's own option.
    command.env("RUNTIME_CONFIG_FILE", config);
    let sqlite = ["--sqlite", &schema, "--sqlite", "CREATE TABLE d (v)"];
    let host = Server::run(command, &sqlite)?;
    host.wait_for_log(&["runtime configuration warning", "llm_compute"])
        .await?;
    for (path, expected) in [
        ("/variable/greeting", "configured"),
        ("/set?store=extra&key=a&value=b", "done"),
        ("/set?key=a&value=b", "done"),
        (
            "/sql?database=extra&sql=SELECT%20v%20FROM%20t",
            r#"{"changes":0,"columns":["v"],"id":0,"rows":[["from a file"]]}"#,
        ),
        (
            "/sql?sql=SELECT%20v%20FROM%20d",
            r#"{"changes":0,"columns":["v"],"id":0,"rows":[]}"#,
        ),
    ] {
        let response = host.get(path).await?;
        ensure!(
            response == (200, expected.to_owned()),
            "{path}: {response:?}"
        );
    }
    for file in [
        app.path().join("data/kv.db"),
        data.path().join("extra.db"),
        data.path().join("state/sqlite_key_value.db"),
        data.path().join("state/sqlite_db.db"),
        data.path().join("logs/probe_stdout.txt"),
    ] {
        ensure!(file.exists(), "{} is missing", file.display());
    }
    ensure!(
        !app.path().join(".spin").exists(),
        "the state folder is elsewhere"
    );
    Ok(())
}

fn run(command: &[&str], app: &Path) -> Result<(bool, String)> {
    let output = socket_host(command, app)?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((output.status.success(), stderr))
}

#[test]
fn a_check_touches_no_data() -> Result<()> {
    let (app, data) = (app(), TempDir::new()?);
    let config = write_config(app.path(), data.path())?;
    let (is_valid, stderr) = run(&["check", "--runtime-config-file", &config], app.path())?;
    ensure!(is_valid, "{stderr}");
    ensure!(!app.path().join("data").exists() && data.path().read_dir()?.next().is_none());
    let variable = ["check", "--variable", "greeting=a"];
    let (is_valid, stderr) = run(&variable, app.path())?;
    ensure!(
        !is_valid && stderr.contains("unknown key-value store \"extra\""),
        "{stderr}"
    );
    Ok(())
}

#[test]
fn invalid_options_are_errors_at_the_start() -> Result<()> {
    let (app, data) = (app(), TempDir::new()?);
    let config = write_config(app.path(), data.path())?;
    let invalid = app.path().join("invalid.toml");
    std::fs::write(&invalid, "\n[key_value_store.a]\ntype = \"rediss\"\n")?;
    let invalid = invalid.to_str().context("a path")?;
    let up = ["up", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"];
    for (options, parts) in [
        (
            &["--runtime-config-file", "/nothing/here.toml"][..],
            &["cannot read the runtime configuration /nothing/here.toml"][..],
        ),
        (
            &["--runtime-config-file", invalid],
            &[
                "invalid.toml:3: key_value_store.a.type",
                "did you mean `redis`",
            ],
        ),
        (
            &["--runtime-config-file", &config, "--sqlite", "CREATE"],
            &["--sqlite \"CREATE\"", "incomplete input"],
        ),
        (&["--sqlite", "@"], &["expected a statement, @FILE"]),
        (
            &["--upstream", "http://127.0.0.1:1", "--sqlite", "SELECT 1"],
            &["cannot be used with"],
        ),
    ] {
        let (started, stderr) = run(&[&up[..], options].concat(), app.path())?;
        ensure!(!started, "{options:?}");
        for part in parts {
            ensure!(stderr.contains(part), "{part} in {stderr}");
        }
    }
    Ok(())
}
