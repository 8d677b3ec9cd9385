//! What the host writes about components: their output, warnings, and failures.

use std::{fs, path::Path};

use anyhow::{Result, ensure};
use futures_util::future::join_all;
use rusqlite::Connection;
use tests::{Server, eventually, probe, socket_host, workspace};

#[tokio::test]
async fn lines_on_the_terminal_name_their_component() -> Result<()> {
    let folder = probe("");
    let host = Server::start(folder.path(), &[])?;
    ensure!(host.get("/print?line=one%0Atwo").await?.0 == 200);
    for line in ["[probe] one", "[probe] two"] {
        host.wait_for_log(&[line]).await?;
    }
    let file = folder.path().join(".spin/logs/probe_stdout.txt");
    eventually("the log file", async || {
        let text = fs::read_to_string(&file).ok()?;
        (text == "one\ntwo\n").then_some(())
    })
    .await
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_log_file_is_written_again_once_the_disk_has_space() -> Result<()> {
    let folder = probe("");
    let logs = folder.path().join("logs");
    fs::create_dir(&logs)?;
    let file = logs.join("probe_stdout.txt");
    std::os::unix::fs::symlink("/dev/full", &file)?;
    let log_dir = logs.display().to_string();
    let host = Server::start(folder.path(), &["--quiet", "--log-dir", &log_dir])?;
    for _ in 0..20 {
        ensure!(host.get("/print?line=lost").await?.0 == 200);
    }
    let failure = ["cannot write log file", "probe_stdout.txt"];
    host.wait_for_log(&failure).await?;
    fs::remove_file(&file)?;
    eventually("output in the file", async || {
        host.get("/print?line=kept").await.ok()?;
        fs::read_to_string(&file)
            .ok()?
            .contains("kept")
            .then_some(())
    })
    .await?;
    host.wait_for_log(&["log file can be written again", "lost_bytes"])
        .await?;
    let log = host.log_text();
    ensure!(log.matches(failure[0]).count() == 1, "{log}");
    Ok(())
}

#[tokio::test]
async fn a_flood_of_traps_is_counted() -> Result<()> {
    let folder = probe("");
    let host = Server::start(folder.path(), &[])?;
    for response in join_all((0..100).map(|_| host.get("/trap"))).await {
        ensure!(response?.0 == 500);
    }
    host.wait_for_log(&["component failed", "component=\"probe\"", "suppressed="])
        .await?;
    let log = host.log_text();
    ensure!(log.matches("component failed").count() < 80, "{log}");
    Ok(())
}

#[tokio::test]
async fn a_store_that_is_not_granted_is_logged_once() -> Result<()> {
    let folder = probe("key_value_stores = [\"default\"]");
    let host = Server::start(folder.path(), &[])?;
    for label in ["orders", "orders", "other", "orders"] {
        let (status, body) = host.get(&format!("/keys?store={label}")).await?;
        ensure!(
            status == 502 && body.contains("AccessDenied"),
            "{status} {body}"
        );
    }
    for label in ["label=\"orders\"", "label=\"other\""] {
        host.wait_for_log(&["WARN", "key_value_stores", "component=\"probe\"", label])
            .await?;
    }
    let log = host.log_text();
    ensure!(log.matches("key-value store denied").count() == 2, "{log}");
    Ok(())
}

#[tokio::test]
async fn a_locked_store_is_logged_before_operations_fail() -> Result<()> {
    let folder = probe("key_value_stores = [\"default\"]");
    let host = Server::start(folder.path(), &[])?;
    let other = Connection::open(folder.path().join(".spin/sqlite_key_value.db"))?;
    other.execute_batch("BEGIN IMMEDIATE")?;
    let set = async {
        let (status, body) = host.get("/set?key=a&value=1").await?;
        ensure!(status == 200, "{status} {body}");
        Ok(())
    };
    let release = async {
        host.wait_for_log(&["WARN", "locked by another process", "sqlite_key_value.db"])
            .await?;
        Ok(other.execute_batch("COMMIT")?)
    };
    tokio::try_join!(set, release)?;
    host.wait_for_log(&["WARN", "no longer locked"]).await?;
    Ok(())
}

#[test]
fn a_store_that_is_locked_at_the_start_is_an_error() -> Result<()> {
    let folder = probe("key_value_stores = [\"default\"]");
    fs::create_dir(folder.path().join(".spin"))?;
    let other = Connection::open(folder.path().join(".spin/sqlite_key_value.db"))?;
    other.execute_batch("CREATE TABLE t (x); BEGIN EXCLUSIVE")?;
    let error = Server::start_error(folder.path(), &[])?;
    for part in [
        "key-value store is locked by another process",
        "another process has locked it for more than 5s",
        "--state-dir",
    ] {
        ensure!(error.contains(part), "no {part:?} in {error}");
    }
    Ok(())
}

#[test]
fn folders_that_cannot_be_used_name_their_option() -> Result<()> {
    let folder = probe("key_value_stores = [\"default\"]");
    let file = folder.path().join("file");
    fs::write(&file, "")?;
    let below_a_file = file.join("folder").display().to_string();
    for (option, what) in [
        ("--state-dir", "cannot use the state folder"),
        ("--log-dir", "cannot use the log folder"),
    ] {
        let error = Server::start_error(folder.path(), &[option, &below_a_file])?;
        let way_out = format!("choose another folder with {option}");
        for part in [what, &way_out, &below_a_file] {
            ensure!(error.contains(part), "no {part:?} in {error}");
        }
    }
    // By default, the logs are in the state folder.
    let folder = probe("");
    fs::write(folder.path().join(".spin"), "")?;
    let error = Server::start_error(folder.path(), &[])?;
    ensure!(error.contains("--state-dir"), "{error}");
    Ok(())
}

#[test]
fn check_warns_about_missing_permissions_and_foreign_routes() -> Result<()> {
    let check = |folder: &Path| {
        let output = socket_host(&["check"], folder)?;
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{log}");
        Ok(log)
    };
    let folder = probe("");
    let log = check(folder.path())?;
    for part in [
        "component may open no key-value store",
        "component may open no SQLite database",
        "component may send no requests",
        "component=\"probe\"",
    ] {
        ensure!(log.contains(part), "no {part:?} in {log}");
    }
    let granted = "key_value_stores = [\"default\"]\nsqlite_databases = [\"default\"]\n\
        allowed_outbound_hosts = [\"http://self\"]\n";
    for granted in [check(probe(granted).path())?, check(workspace())?] {
        ensure!(!granted.contains("WARN"), "{granted}");
    }
    let manifest = folder.path().join("spin.toml");
    let text = fs::read_to_string(&manifest)?.replace("\"/...\"", "\"/chat/{room}\"");
    fs::write(&manifest, text)?;
    let log = check(folder.path())?;
    ensure!(log.contains("write /chat/:room"), "{log}");
    Ok(())
}
