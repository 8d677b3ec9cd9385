//! The rotation of components' log files, by the host and by logrotate.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use tests::{Server, eventually, probe};

/// The name of the log file.
const NAME: &str = "probe_stdout.txt";

/// An application, and the folder of its logs.
struct App {
    folder: TempDir,
    logs: PathBuf,
}

impl App {
    fn new() -> Self {
        let folder = probe("");
        let logs = folder.path().join(".spin/logs");
        Self { folder, logs }
    }

    fn start(&self, options: &[&str]) -> Result<Server> {
        let options = [&["--quiet"], options].concat();
        Server::start(self.folder.path(), &options)
    }

    /// Returns the log file and its predecessors. The component also prints to its stderr.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.logs)? {
            let entry = entry?;
            if entry
                .file_name()
                .to_string_lossy()
                .starts_with("probe_stdout.")
            {
                files.push(entry.path());
            }
        }
        Ok(files)
    }

    /// Returns the lines of all files, ordered by their text.
    fn lines(&self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for file in self.files()? {
            let text = fs::read_to_string(file)?;
            lines.extend(text.lines().map(str::to_owned));
        }
        lines.sort();
        Ok(lines)
    }

    /// Waits until the files have these lines, each of them once.
    async fn wait_for_lines(&self, expected: &[String]) -> Result<()> {
        eventually("the last line", async || {
            let lines = self.lines().ok()?;
            lines.contains(expected.last()?).then_some(())
        })
        .await?;
        let lines = self.lines()?;
        ensure!(lines == expected, "{lines:?}");
        Ok(())
    }
}

/// Prints lines, and returns them.
async fn print(host: &Server, numbers: std::ops::Range<usize>) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for number in numbers {
        let line = format!("line-{number:05}");
        let (status, _) = host.get(&format!("/print?line={line}")).await?;
        ensure!(status == 200, "{status}");
        lines.push(line);
    }
    Ok(lines)
}

#[tokio::test]
async fn full_files_are_rotated_and_lose_nothing() -> Result<()> {
    let app = App::new();
    // Of an earlier version, which rotated nothing.
    fs::create_dir_all(&app.logs)?;
    let old: String = (0..50).map(|_| "line-\n").collect();
    fs::write(app.logs.join(NAME), old)?;
    let host = app.start(&["--log-max-size", "120B", "--log-keep", "30"])?;
    let lines = print(&host, 0..200).await?;
    let mut expected = vec!["line-".to_owned(); 50];
    expected.extend(lines);
    app.wait_for_lines(&expected).await?;
    let read = |name: &str| fs::read_to_string(app.logs.join(name));
    ensure!(read("probe_stdout.20.txt")?.starts_with("line-\n"));
    ensure!(read("probe_stdout.1.txt")?.lines().count() == 10);
    ensure!(read(NAME)?.ends_with("line-00199\n"));

    // Fewer are kept from now on.
    drop(host);
    let host = app.start(&["--log-max-size", "120B", "--log-keep", "2"])?;
    print(&host, 200..201).await?;
    eventually("the older files to be deleted", async || {
        (app.files().ok()?.len() == 3).then_some(())
    })
    .await?;
    ensure!(read("probe_stdout.2.txt")?.starts_with("line-00180"));
    Ok(())
}

#[tokio::test]
async fn files_are_not_rotated_below_the_default_size() -> Result<()> {
    let app = App::new();
    let host = app.start(&[])?;
    let lines = print(&host, 0..20).await?;
    app.wait_for_lines(&lines).await?;
    ensure!(!app.logs.join("probe_stdout.1.txt").exists());
    Ok(())
}

/// Rotates the log file with the program logrotate.
fn logrotate(app: &App, directive: &str) -> Result<()> {
    let folder = TempDir::new()?;
    let config = folder.path().join("logrotate.conf");
    let file = app.logs.join(NAME);
    let text = format!(
        "{} {{\n rotate 1000\n nocompress\n missingok\n {directive}\n}}\n",
        file.display()
    );
    fs::write(&config, text)?;
    // One state for all runs, which is not in the folder of the logs.
    let output = Command::new("/usr/sbin/logrotate")
        .args(["--force", "--state"])
        .arg(app.folder.path().join("logrotate.state"))
        .arg(&config)
        .output()
        .context("cannot run logrotate")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{error}");
    Ok(())
}

#[tokio::test]
async fn logrotate_may_move_a_file_while_it_is_written() -> Result<()> {
    let app = App::new();
    let host = app.start(&[])?;
    let mut expected = print(&host, 0..1).await?;
    let printing = print(&host, 1..300);
    tokio::pin!(printing);
    // Rotates between two lines, while the host writes further ones.
    let printed = loop {
        tokio::select! {
            printed = &mut printing => break printed?,
            () = tokio::time::sleep(std::time::Duration::from_millis(20)) => {
                logrotate(&app, "nocreate")?;
            }
        }
    };
    expected.extend(printed);
    logrotate(&app, "nocreate")?;
    expected.extend(print(&host, 300..301).await?);
    app.wait_for_lines(&expected).await?;
    ensure!(app.files()?.len() > 3);
    Ok(())
}

#[tokio::test]
async fn logrotate_may_empty_a_file() -> Result<()> {
    let app = App::new();
    let host = app.start(&[])?;
    let mut expected = Vec::new();
    for round in 0..3 {
        expected.extend(print(&host, round * 10..round * 10 + 10).await?);
        // What is written between its copy and the truncation would be lost.
        app.wait_for_lines(&expected).await?;
        logrotate(&app, "copytruncate")?;
    }
    app.wait_for_lines(&expected).await?;
    expected.extend(print(&host, 30..31).await?);
    app.wait_for_lines(&expected).await?;
    let current = fs::read_to_string(app.logs.join(NAME))?;
    ensure!(current == "line-00030\n", "{current:?}");
    Ok(())
}
