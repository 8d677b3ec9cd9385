//! A Redis server as a child process.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{TIMEOUT, free_address};

/// A running Redis server with data of its own. Killed on drop.
pub struct Redis {
    /// Its address.
    pub address: SocketAddr,
    folder: TempDir,
    /// `None` while the server is stopped.
    child: Option<Child>,
}

impl Redis {
    /// Starts a server on a free port.
    pub fn start() -> Result<Self> {
        // Another process may take the port before the server does.
        for _ in 0..5 {
            let address = free_address()?;
            let mut redis = Self {
                address,
                folder: TempDir::new()?,
                child: None,
            };
            if redis.run()? {
                return Ok(redis);
            }
        }
        bail!("redis-server cannot be started")
    }

    /// Starts the server again on the same port, with its data.
    pub fn restart(&mut self) -> Result<()> {
        ensure!(self.run()?, "redis-server cannot be started again");
        Ok(())
    }

    /// Stops the server.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Sends a signal to the process, if it runs.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match &self.child {
            Some(child) => Ok(kill_process(Pid::from_child(child), signal)?),
            None => Ok(()),
        }
    }

    /// Returns the address as a URL.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Runs a command with `redis-cli` and returns its output.
    pub fn command(&self, arguments: &[&str]) -> Result<String> {
        let port = self.address.port().to_string();
        let output = Command::new("redis-cli")
            .args(["-p", &port])
            .args(arguments)
            .output()
            .context(
                "cannot run redis-cli: on Debian, install it with `tests/install redis-server`",
            )?;
        ensure!(output.status.success(), "redis-cli: {output:?}");
        Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
    }

    /// Runs the server and waits until it answers. Returns false if it exits, as when its port is
    /// in use.
    fn run(&mut self) -> Result<bool> {
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port"])
            .arg(self.address.port().to_string())
            .args([
                "--save",
                "",
                "--appendonly",
                "yes",
                "--appendfsync",
                "always",
            ])
            .arg("--dir")
            .arg(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context(
                "cannot run redis-server: on Debian, install it with `tests/install redis-server`",
            )?;
        let child = self.child.insert(child);
        let deadline = Instant::now() + TIMEOUT;
        while !answers(self.address) {
            if child.try_wait()?.is_some() {
                return Ok(false);
            }
            ensure!(Instant::now() < deadline, "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(true)
    }
}

fn answers(address: SocketAddr) -> bool {
    let ping = || -> std::io::Result<[u8; 5]> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"PING\r\n")?;
        let mut reply = [0; 5];
        stream.read_exact(&mut reply)?;
        Ok(reply)
    };
    ping().is_ok_and(|reply| reply == *b"+PONG")
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}
