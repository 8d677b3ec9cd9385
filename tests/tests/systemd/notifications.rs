//! What the host reports to the service manager.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use tempfile::TempDir;
use tests::{Server, TIMEOUT, host_binary, probe, without_terminal};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpStream, UnixDatagram},
    time::timeout,
};

/// The receiving end of the notifications.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    _folder: TempDir,
}

impl Manager {
    fn new() -> Result<Self> {
        let folder = TempDir::new()?;
        let path = folder.path().join("notify");
        Ok(Self {
            socket: UnixDatagram::bind(&path)?,
            path,
            _folder: folder,
        })
    }

    /// Starts a host that reports to this manager.
    fn start(&self, mut command: Command, app: &TempDir, options: &[&str]) -> Result<Server> {
        command.arg(host_binary()).args(["up", "--from"]);
        command.arg(app.path()).env("NOTIFY_SOCKET", &self.path);
        Server::run(command, options)
    }

    /// Returns the next message.
    async fn next(&self) -> Result<String> {
        let mut buffer = vec![0; 4096];
        let received = timeout(TIMEOUT, self.socket.recv(&mut buffer)).await;
        let length = received.context("no message")??;
        buffer.truncate(length);
        Ok(String::from_utf8(buffer)?)
    }

    /// Returns the next message with this line, and those before it.
    async fn until(&self, line: &str) -> Result<Vec<String>> {
        let mut messages = Vec::new();
        loop {
            messages.push(self.next().await?);
            let message = messages.last().context("a message")?;
            if message.lines().any(|it| it == line) {
                return Ok(messages);
            }
        }
    }

    /// Returns whether nothing arrives for this time, after what has arrived already.
    async fn is_silent(&self, time: Duration) -> bool {
        let mut buffer = [0; 4096];
        while self.socket.try_recv(&mut buffer).is_ok() {}
        timeout(time, self.socket.recv(&mut buffer)).await.is_err()
    }
}

/// A command that runs the command in its arguments.
fn directly() -> Command {
    Command::new("env")
}

#[tokio::test]
async fn the_start_and_the_shutdown_are_reported() -> Result<()> {
    let manager = Manager::new()?;
    let app = probe("");
    let host = manager.start(directly(), &app, &[])?;
    let start = manager.until("READY=1").await?;
    let (ready, before) = start.split_last().context("messages")?;
    let address = host.address;
    ensure!(
        ready.contains(&format!("STATUS=Serving http://{address}")),
        "{ready}"
    );
    // A start may take long, since components are compiled.
    ensure!(
        before[0].contains("STATUS=Loading the application\n"),
        "{before:?}"
    );
    ensure!(
        before[0].contains("EXTEND_TIMEOUT_USEC=20000000\n"),
        "{before:?}"
    );

    let mut hanging = TcpStream::connect(address).await?;
    let bytes = format!("GET /hang HTTP/1.1\r\nHost: {address}\r\n\r\n");
    hanging.write_all(bytes.as_bytes()).await?;
    ensure!(host.get("/headers").await?.0 == 200);
    host.signal(Signal::TERM)?;
    let stopping = manager.until("STOPPING=1").await?;
    ensure!(stopping.len() == 1, "{stopping:?}");
    let draining = manager
        .until("STATUS=Draining: 0 WebSockets, 0 held requests")
        .await?;
    ensure!(
        draining[0].contains("EXTEND_TIMEOUT_USEC=20000000\n"),
        "{draining:?}"
    );
    drop(hanging);
    ensure!(host.wait().await? == Some(0));
    Ok(())
}

#[tokio::test]
async fn a_reload_is_reported() -> Result<()> {
    let manager = Manager::new()?;
    let app = probe("");
    let host = manager.start(without_terminal(), &app, &[])?;
    manager.until("READY=1").await?;
    host.signal(Signal::HUP)?;
    let reloading = manager.next().await?;
    let time = reloading
        .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
        .and_then(|time| time.trim_end().parse::<u64>().ok());
    ensure!(time.is_some_and(|time| time > 0), "{reloading}");
    ensure!(
        manager
            .next()
            .await?
            .starts_with("READY=1\nSTATUS=Serving ")
    );
    Ok(())
}

#[tokio::test]
async fn a_stopped_host_misses_the_watchdog() -> Result<()> {
    let manager = Manager::new()?;
    let app = probe("");
    let mut command = directly();
    command.env("WATCHDOG_USEC", "400000");
    let host = manager.start(command, &app, &[])?;
    manager.until("READY=1").await?;
    for _ in 0..3 {
        ensure!(manager.next().await? == "WATCHDOG=1\n");
    }
    host.signal(Signal::STOP)?;
    let limit = Duration::from_millis(400);
    // Messages that were sent before the signal are not counted.
    ensure!(manager.is_silent(limit * 3).await);
    host.signal(Signal::CONT)?;
    ensure!(manager.next().await? == "WATCHDOG=1\n");
    // While it drains, it still works.
    host.signal(Signal::TERM)?;
    manager.until("STOPPING=1").await?;
    ensure!(host.wait().await? == Some(0));
    Ok(())
}

#[tokio::test]
async fn the_watchdog_is_for_one_process() -> Result<()> {
    let manager = Manager::new()?;
    let app = probe("");
    let mut command = directly();
    command.envs([("WATCHDOG_USEC", "100000"), ("WATCHDOG_PID", "1")]);
    let _host = manager.start(command, &app, &[])?;
    manager.until("READY=1").await?;
    ensure!(manager.is_silent(Duration::from_millis(300)).await);
    Ok(())
}
