//! The host as a child process.

use std::{
    borrow::BorrowMut,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::{Client, Response, TIMEOUT, eventually, host_binary, request};

/// A running `socket-host up`. Killed on drop.
pub struct Server {
    child: Child,
    /// The public address.
    pub address: SocketAddr,
    /// The control port's address.
    pub control: SocketAddr,
    /// Everything written to stderr so far.
    log: Log,
}

/// The log of a host, which stays readable after the process has exited. Clones share it.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<String>>);

impl Log {
    /// Returns what has been logged so far.
    pub fn text(&self) -> String {
        self.0.lock().map(|log| log.clone()).unwrap_or_default()
    }

    fn append(&self, line: &str) {
        if let Ok(mut log) = self.0.lock() {
            *log += line;
            log.push('\n');
        }
    }
}

impl Server {
    /// Starts the host for the manifest in `folder`, on free ports.
    pub fn start(folder: &Path, options: &[&str]) -> Result<Self> {
        let mut command = Command::new(host_binary());
        command.arg("up").arg("--from").arg(folder);
        Self::run(command, options)
    }

    /// Starts the host as a proxy in front of an upstream. It has no manifest unless the options
    /// name one.
    pub fn in_front_of(upstream: &str, options: &[&str]) -> Result<Self> {
        let folder = TempDir::new()?;
        let mut command = Command::new(host_binary());
        command.args(["up", "--upstream", upstream]);
        Self::run(command.current_dir(folder.path()), options)
    }

    /// Starts the host as a process that may open this number of files.
    pub fn start_with_files(folder: &Path, files: u32, options: &[&str]) -> Result<Self> {
        let mut command = Command::new("prlimit");
        command
            .arg(format!("--nofile={files}:{files}"))
            .arg("--")
            .arg(host_binary())
            .args(["up", "--from"])
            .arg(folder);
        Self::run(command, options)
    }

    /// Runs this command with more options and waits until the host serves.
    pub fn run(command: impl BorrowMut<Command>, options: &[&str]) -> Result<Self> {
        Self::run_with_input(command, options, Stdio::null())
    }

    /// Runs this command as [`Self::run`] does, with an input.
    pub fn run_with_input(
        mut command: impl BorrowMut<Command>,
        options: &[&str],
        input: Stdio,
    ) -> Result<Self> {
        let command = command.borrow_mut();
        for option in ["--listen", "--control"] {
            if !options.contains(&option) {
                command.args([option, "127.0.0.1:0"]);
            }
        }
        let mut child = command
            .args(options)
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run socket-host")?;
        let log = Log::default();
        let stderr = BufReader::new(child.stderr.take().context("stderr")?);
        let writer = log.clone();
        let reader = std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                writer.append(&line);
            }
        });
        let (mut address, mut control) = (None, None);
        let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
        while let Some(line) = lines.next().transpose()? {
            let address_after = |prefix| {
                let url = line.strip_prefix(prefix)?;
                let address = url.strip_prefix("http://").or(url.strip_prefix("https://"));
                address.map(|address: &str| address.parse())
            };
            address = address_after("Serving ").transpose()?.or(address);
            control = address_after("Control: ").transpose()?.or(control);
            if let (Some(address), Some(control)) = (address, control) {
                std::thread::spawn(move || lines.for_each(drop));
                return Ok(Self {
                    child,
                    address,
                    control,
                    log,
                });
            }
        }
        let status = child.wait()?;
        // Completes the log before it is shown.
        let _ = reader.join();
        bail!("socket-host exited with {status}: {}", log.text())
    }

    /// Returns the error with which a host for the manifest in `folder` fails to start.
    pub fn start_error(folder: &Path, options: &[&str]) -> Result<String> {
        match Self::start(folder, options) {
            Ok(_) => bail!("the host starts with {options:?}"),
            Err(error) => Ok(format!("{error:#}")),
        }
    }

    /// Sends a GET request and returns the status and the body.
    pub async fn get(&self, path: &str) -> Result<(u16, String)> {
        let response = request(
            self.address,
            &format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address),
        )
        .await?;
        Ok((response.status, response.body))
    }

    /// Sends a GET request and parses the body as JSON.
    pub async fn get_json(&self, path: &str) -> Result<Value> {
        let (status, body) = self.get(path).await?;
        ensure!(status == 200, "{path}: {status} {body}");
        Ok(serde_json::from_str(&body)?)
    }

    /// Posts a body to `/publish/` of the control port. `headers` are complete lines.
    pub async fn publish(&self, headers: &str, body: &str) -> Result<Response> {
        let length = body.len();
        let bytes = format!(
            "POST /publish/ HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        );
        request(self.control, &bytes).await
    }

    /// Sends a request without a body to the control port.
    pub async fn control(&self, method: &str, target: &str) -> Result<Response> {
        let bytes = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        request(self.control, &bytes).await
    }

    /// Sends a request to the control port and parses the body of the response as JSON.
    pub async fn report(&self, method: &str, target: &str) -> Result<Value> {
        let response = self.control(method, target).await?;
        ensure!(response.status == 200, "{method} {target}: {response:?}");
        Ok(serde_json::from_str(&response.body)?)
    }

    /// Returns the body of `/healthz`.
    pub async fn health(&self) -> Result<Value> {
        self.report("GET", "/healthz").await
    }

    /// Returns the number under `name` in `/healthz`.
    pub async fn count(&self, name: &str) -> Result<u64> {
        let health = self.health().await?;
        health[name]
            .as_u64()
            .with_context(|| format!("no {name} in {health}"))
    }

    /// Returns the body of `/metrics`.
    pub async fn metrics(&self) -> Result<String> {
        Ok(self.control("GET", "/metrics").await?.body)
    }

    /// Waits until `/metrics` contains this line.
    pub async fn wait_for_metric(&self, line: &str) -> Result<()> {
        eventually(&format!("the metric {line:?}"), async || {
            let metrics = self.metrics().await.ok()?;
            metrics.lines().any(|metric| metric == line).then_some(())
        })
        .await
    }

    /// Opens a WebSocket.
    pub async fn socket(&self, path: &str) -> Result<Client> {
        Client::open(self.address, path, &[])
            .await
            .map_err(|failed| failed.error)
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: rustix::process::Signal) -> Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        Ok(rustix::process::kill_process(pid, signal)?)
    }

    /// Waits for the process to exit and returns its exit code, or `None` if a signal killed it.
    pub async fn wait(mut self) -> Result<Option<i32>> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code());
            }
            ensure!(Instant::now() < deadline, "the host does not exit");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Returns the id of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the number of open files.
    pub fn open_files(&self) -> Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))?.count())
    }

    /// Returns the resident memory in KiB.
    pub fn resident_kib(&self) -> Result<u64> {
        self.status_kib("VmRSS:")
    }

    /// Returns the resident memory in KiB without that of files, such as the program itself, which the
    /// system can read again.
    pub fn anonymous_kib(&self) -> Result<u64> {
        self.status_kib("RssAnon:")
    }

    fn status_kib(&self, field: &'static str) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .context(field)?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// Returns the log.
    pub fn log(&self) -> Log {
        self.log.clone()
    }

    /// Returns what has been logged so far.
    pub fn log_text(&self) -> String {
        self.log.text()
    }

    /// Waits for a log line that contains all of `words` and returns it.
    pub async fn wait_for_log(&self, words: &[&str]) -> Result<String> {
        eventually(&format!("a log line with {words:?}"), async || {
            self.log_text()
                .lines()
                .find(|line| words.iter().all(|word| line.contains(word)))
                .map(str::to_owned)
        })
        .await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
