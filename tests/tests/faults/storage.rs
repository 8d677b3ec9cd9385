//! Disks that are full, and stores that are damaged.

use std::{
    fs::{self, OpenOptions},
    io::{Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use rusqlite::Connection;
use tests::{Server, eventually, host_binary, probe};

const PERMISSIONS: &str = "key_value_stores = [\"default\"]\nsqlite_databases = [\"default\"]\n";

/// The size of a value.
const VALUE_BYTES: usize = 20_000;

/// A host whose state folder is on a small disk.
struct SmallDisk {
    host: Server,
    /// A file that takes space, if the host has a disk of its own.
    filler: Option<PathBuf>,
    _folders: [tempfile::TempDir; 2],
}

/// Returns the options of `unshare` with which a host can mount a disk of its own.
fn mount_options() -> Option<&'static [&'static str]> {
    let as_root: &[&str] = &["--mount"];
    let as_user: &[&str] = &["--mount", "--map-root-user"];
    let mounts = |options: &&&[&str]| {
        let mount = "mount -t tmpfs -o size=1m tmpfs /mnt";
        let output = Command::new("unshare")
            .args(**options)
            .args(["sh", "-c", mount])
            .output();
        output.is_ok_and(|output| output.status.success())
    };
    [as_root, as_user].iter().find(mounts).copied()
}

impl SmallDisk {
    fn start() -> Result<Self> {
        let folder = probe(PERMISSIONS);
        let state = tempfile::tempdir()?;
        let path = state.path().display().to_string();
        let up = |mut command: Command| {
            command
                .arg(host_binary())
                .args(["up", "--from"])
                .arg(folder.path())
                .args(["--state-dir", &path]);
            Server::run(command, &[])
        };
        let (host, filler) = match mount_options() {
            Some(options) => {
                let mut command = Command::new("unshare");
                let script = "mount -t tmpfs -o size=12m tmpfs \"$STATE\" && exec \"$0\" \"$@\"";
                command
                    .args(options)
                    .args(["sh", "-c", script])
                    .env("STATE", &path);
                let host = up(command)?;
                let root = format!("/proc/{}/root{path}/filler", host.id());
                (host, Some(root.into()))
            }
            // Files of at most 4 MiB. The signal for larger ones is ignored, as on a full disk.
            None => {
                let mut command = Command::new("env");
                command.args(["--ignore-signal=XFSZ", "prlimit", "--fsize=4194304", "--"]);
                (up(command)?, None)
            }
        };
        if let Some(filler) = &filler {
            fs::write(filler, vec![0; 8 << 20])?;
        }
        Ok(Self {
            host,
            filler,
            _folders: [folder, state],
        })
    }

    /// Makes space. Without a disk of its own, a host keeps its limit.
    fn make_space(&self) -> Result<bool> {
        match &self.filler {
            Some(filler) => Ok(fs::remove_file(filler).map(|()| true)?),
            None => Ok(false),
        }
    }
}

fn value(number: usize) -> String {
    let mut value = format!("{number}-");
    value.extend(std::iter::repeat_n('x', VALUE_BYTES));
    value
}

/// Checks that the store has exactly the values that were stored.
async fn check_values(host: &Server, stored: &[usize]) -> Result<()> {
    for number in stored {
        let (status, body) = host.get(&format!("/get?key=key{number}")).await?;
        ensure!(
            status == 200 && body == value(*number),
            "key{number}: {status}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_full_disk_loses_nothing_that_was_stored() -> Result<()> {
    let disk = SmallDisk::start()?;
    let host = &disk.host;
    let create = "/sql?sql=CREATE%20TABLE%20t%20(x)";
    ensure!(host.get(create).await?.0 == 200);
    let mut stored = Vec::new();
    let error = loop {
        let number = stored.len();
        ensure!(number < 1000, "the disk is not full");
        let path = format!("/set?key=key{number}&value={}", value(number));
        match host.get(&path).await? {
            (200, _) => stored.push(number),
            (502, error) => break error,
            other => anyhow::bail!("{other:?}"),
        }
    };
    println!("{} values fit, then: {error}", stored.len());
    host.wait_for_log(&["ERROR", "key-value store transaction failed"])
        .await?;
    check_values(host, &stored).await?;
    ensure!(host.get("/").await?.0 == 200);
    ensure!(host.health().await?["status"] == "ok");
    if disk.filler.is_some() {
        // The database and the log files are on the same disk.
        let insert = "/sql?sql=INSERT%20INTO%20t%20VALUES%20(randomblob(3000000))";
        let (status, error) = host.get(insert).await?;
        ensure!(status == 502 && error.contains("full"), "{status} {error}");
        let line = "l".repeat(10_000);
        eventually("a log file that cannot be written", async || {
            host.get(&format!("/print?line={line}")).await.ok()?;
            host.log_text()
                .contains("cannot write log file")
                .then_some(())
        })
        .await?;
    }
    if disk.make_space()? {
        eventually("space in the store", async || {
            let number = stored.len();
            let path = format!("/set?key=key{number}&value={}", value(number));
            (host.get(&path).await.ok()?.0 == 200).then_some(())
        })
        .await?;
        stored.push(stored.len());
        let insert = "/sql?sql=INSERT%20INTO%20t%20VALUES%20(1)";
        let (status, body) = host.get(insert).await?;
        ensure!(status == 200, "{status} {body}");
        eventually("a log file that can be written", async || {
            host.get("/print?line=again").await.ok()?;
            host.log_text()
                .contains("log file can be written again")
                .then_some(())
        })
        .await?;
    }
    check_values(host, &stored).await
}

#[tokio::test]
async fn a_full_database_is_an_error_of_the_statement() -> Result<()> {
    let folder = probe(PERMISSIONS);
    let host = Server::start(folder.path(), &[])?;
    for sql in ["CREATE TABLE t (x)", "INSERT INTO t VALUES (1)"] {
        let (status, body) = host
            .get(&format!("/sql?sql={}", sql.replace(' ', "%20")))
            .await?;
        ensure!(status == 200, "{sql}: {body}");
    }
    // Each connection has its own limit of pages.
    let (status, error) = host
        .get(
            "/sql?sql=PRAGMA%20max_page_count%20=%2010\
             &then=INSERT%20INTO%20t%20VALUES%20(randomblob(1000000))",
        )
        .await?;
    ensure!(status == 502 && error.contains("full"), "{status} {error}");
    let (status, body) = host.get("/sql?sql=SELECT%20x%20FROM%20t").await?;
    ensure!(status == 200 && body.contains("[[1]]"), "{status} {body}");
    Ok(())
}

/// Stores values and returns the path of the store's file, which a host has closed.
async fn fill(folder: &Path) -> Result<PathBuf> {
    let host = Server::start(folder, &[])?;
    for number in 0..50 {
        let path = format!("/set?key=key{number}&value={}", value(number));
        ensure!(host.get(&path).await?.0 == 200);
    }
    host.signal(rustix::process::Signal::TERM)?;
    ensure!(host.wait().await? == Some(0));
    let file = folder.join(".spin/sqlite_key_value.db");
    // Moves everything into the file itself.
    let connection = Connection::open(&file)?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    Ok(file)
}

#[tokio::test]
async fn a_file_that_is_no_store_is_an_error_at_the_start() -> Result<()> {
    let folder = probe(PERMISSIONS);
    let file = fill(folder.path()).await?;
    let mut database = OpenOptions::new().write(true).open(&file)?;
    database.write_all(&[b'x'; 100])?;
    drop(database);
    let damaged = fs::read(&file)?;
    let error = Server::start_error(folder.path(), &[])?;
    for part in [
        "cannot open the key-value store",
        "sqlite_key_value.db",
        "not a SQLite database",
    ] {
        ensure!(error.contains(part), "{part} in {error}");
    }
    // Nothing is overwritten, so that it can be repaired.
    ensure!(fs::read(&file)? == damaged);
    Ok(())
}

#[tokio::test]
async fn a_damaged_store_fails_only_its_operations() -> Result<()> {
    for damage in ["truncated", "overwritten"] {
        let folder = probe(PERMISSIONS);
        let file = fill(folder.path()).await?;
        let size = fs::metadata(&file)?.len();
        ensure!(size > 1_000_000, "{size} bytes");
        let mut database = OpenOptions::new().write(true).open(&file)?;
        if damage == "truncated" {
            database.set_len(size / 2)?;
        } else {
            database.seek(SeekFrom::Start(4096))?;
            database.write_all(&vec![0xff; size as usize / 2])?;
        }
        drop(database);
        match Server::start(folder.path(), &[]) {
            // SQLite may notice it when it opens the file.
            Err(error) => {
                let error = format!("{error:#}");
                ensure!(error.contains("sqlite_key_value.db"), "{damage}: {error}");
            }
            Ok(host) => {
                let mut failed = 0;
                for number in 0..50 {
                    let (status, body) = host.get(&format!("/get?key=key{number}")).await?;
                    match status {
                        200 => ensure!(body == value(number), "{damage}: another value"),
                        404 | 502 => failed += 1,
                        _ => anyhow::bail!("{damage}: {status} {body}"),
                    }
                }
                ensure!(failed > 0, "{damage}: no value is damaged");
                host.wait_for_log(&["ERROR", "key-value store"])
                    .await
                    .context(damage)?;
                ensure!(host.get("/").await?.0 == 200);
                ensure!(host.health().await?["status"] == "ok");
            }
        }
    }
    Ok(())
}
