//! The stand-in for Spin, and its processes.

use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tests::{Server, eventually, host_binary, probe, spin_stand_in};

/// A folder in `PATH` with the executable `spin`, and what the stand-in writes there.
pub struct Spin {
    folder: TempDir,
}

/// What the stand-in was started with.
pub struct Record(Value);

impl Spin {
    pub fn new() -> Self {
        let folder = TempDir::new().expect("create a temporary folder");
        symlink(spin_stand_in(), folder.path().join("spin")).expect("link the stand-in");
        Self { folder }
    }

    /// The folder with the executable.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The file that the stand-in writes.
    pub fn record_path(&self) -> PathBuf {
        self.folder.path().join("record.json")
    }

    /// Returns the command that serves the manifest in `app` with `--spin`.
    pub fn command(&self, app: &Path) -> Command {
        let mut command = Command::new(host_binary());
        command
            .args(["up", "--spin", "--from"])
            .arg(app)
            .env("PATH", self.path_variable())
            .env("STAND_IN_RECORD", self.record_path())
            .env_remove("SPIN_BIN_PATH")
            .env_remove("SPIN_LOG_DIR")
            .env_remove("RUNTIME_CONFIG_FILE");
        command
    }

    /// Returns a `PATH` in which the stand-in comes first.
    pub fn path_variable(&self) -> String {
        let path = std::env::var("PATH").unwrap_or_default();
        format!("{}:{path}", self.folder.path().display())
    }

    /// Starts the host and waits until it serves.
    pub fn serve(&self, app: &Path, options: &[&str]) -> Result<Server> {
        Server::run(self.command(app), options)
    }

    /// Returns the error of a start that fails.
    pub fn start_error(&self, command: Command, options: &[&str]) -> Result<String> {
        match Server::run(command, options) {
            Ok(_) => anyhow::bail!("the host starts"),
            Err(error) => Ok(error.to_string()),
        }
    }

    /// Starts the host with Spin in a mode in which it never serves, and waits for Spin's processes.
    pub async fn start_without_waiting(
        &self,
        app: &Path,
        mode: &str,
    ) -> Result<(std::process::Child, Record)> {
        let child = self
            .command(app)
            .env("STAND_IN_MODE", mode)
            .args(["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"])
            .stdout(Stdio::null())
            .spawn()?;
        let record = eventually("the start of Spin", async || self.record().ok()).await?;
        Ok((child, record))
    }

    /// Returns what the stand-in was started with, by the last command.
    pub fn record(&self) -> Result<Record> {
        let text = std::fs::read_to_string(self.record_path())?;
        Ok(Record(serde_json::from_str(&text)?))
    }
}

impl Record {
    /// The arguments after `up`, separated by spaces.
    pub fn arguments(&self) -> Result<String> {
        let arguments = self.0["arguments"].as_array().context("arguments")?;
        let arguments: Option<Vec<_>> = arguments.iter().map(Value::as_str).collect();
        Ok(arguments.context("texts")?.join(" "))
    }

    /// The value of `--variable`.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.0["variables"][name].as_str()
    }

    /// The environment variables of Spin, as JSON.
    pub fn environment(&self) -> String {
        self.0["environment"].to_string()
    }

    /// The processes of Spin: the parent, and its child, which owns the port.
    pub fn processes(&self) -> Result<[Process; 2]> {
        let process = |index: usize| {
            let id = self.0["processes"][index]
                .as_i64()
                .context("a process id")?;
            let id = Pid::from_raw(id.try_into()?).context("a process id")?;
            anyhow::Ok(Process(id))
        };
        Ok([process(0)?, process(1)?])
    }

    /// Waits until both processes have exited.
    pub async fn wait_for_exit(&self) -> Result<()> {
        for process in self.processes()? {
            let what = format!("the exit of {process:?}");
            eventually(&what, async || (!process.is_running()).then_some(())).await?;
        }
        Ok(())
    }

    /// Checks that both processes have exited.
    pub fn expect_exited(&self) -> Result<()> {
        for process in self.processes()? {
            ensure!(!process.is_running(), "{process:?} is running");
        }
        Ok(())
    }
}

/// A process on this machine.
#[derive(Clone, Copy, Debug)]
pub struct Process(pub Pid);

impl Process {
    pub fn signal(self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.0, signal)?)
    }

    /// A process that has exited may not have been waited for, and is then still listed.
    pub fn is_running(self) -> bool {
        let state = self.status_line("State:");
        state.is_some_and(|state| !state.starts_with('Z'))
    }

    pub fn parent(self) -> Result<Self> {
        let parent = self.status_line("PPid:").context("no such process")?;
        Ok(Self(Pid::from_raw(parent.parse()?).context("no parent")?))
    }

    /// The command line, which every user of the machine can read.
    pub fn command_line(self) -> Result<String> {
        let path = format!("/proc/{}/cmdline", self.0.as_raw_nonzero());
        let bytes = std::fs::read(path)?;
        Ok(String::from_utf8_lossy(&bytes).replace('\0', " "))
    }

    fn status_line(self, name: &str) -> Option<String> {
        let path = format!("/proc/{}/status", self.0.as_raw_nonzero());
        let status = std::fs::read_to_string(path).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim().to_owned())
    }
}

/// Writes an application with the probe, which prints the variables of the host.
pub fn app(extra: &str) -> TempDir {
    probe(&format!(
        r#"
key_value_stores = ["default"]
[component.probe.variables]
url = "{{{{ grip_url }}}}"
key = "{{{{ grip_key }}}}"
color = "{{{{ color }}}}"
[variables]
grip_url = {{ default = "" }}
grip_key = {{ default = "", secret = true }}
color = {{ default = "red" }}
{extra}"#
    ))
}
