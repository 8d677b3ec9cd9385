//! Redis servers as child processes: masters, replicas, and sentinels.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{TIMEOUT, eventually, free_address};

/// The name by which sentinels know the master.
pub const MASTER: &str = "mymaster";

/// A running Redis server with data of its own. Killed on drop.
pub struct Redis {
    /// Its address.
    pub address: SocketAddr,
    folder: TempDir,
    arguments: Vec<String>,
    /// `None` while the server is stopped.
    child: Option<Child>,
}

impl Redis {
    /// Starts a server on a free port.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// Starts a server with more options.
    pub fn start_with(options: &[&str]) -> Result<Self> {
        Self::launch(|address, _| {
            let mut arguments = data_arguments(address);
            arguments.extend(options.iter().map(|&option| option.to_owned()));
            Ok(arguments)
        })
    }

    /// Starts a replica of the server at an address, which may be that of a proxy.
    pub fn start_replica(master: SocketAddr) -> Result<Self> {
        let (ip, port) = (master.ip().to_string(), master.port().to_string());
        Self::start_with(&["--replicaof", &ip, &port])
    }

    /// Starts a sentinel that watches a master together with others. `quorum` of them must agree that
    /// it is down.
    pub fn start_sentinel(master: SocketAddr, quorum: usize) -> Result<Self> {
        Self::launch(|address, folder| {
            let (ip, port) = (master.ip(), master.port());
            let config = format!(
                "bind 127.0.0.1\nport {}\nsentinel monitor {MASTER} {ip} {port} {quorum}\n\
                 sentinel down-after-milliseconds {MASTER} 500\n\
                 sentinel failover-timeout {MASTER} 5000\n",
                address.port()
            );
            let file = folder.join("sentinel.conf");
            fs::write(&file, config)?;
            let file = file.to_str().context("a path")?;
            Ok(vec![file.to_owned(), "--sentinel".to_owned()])
        })
    }

    fn launch(arguments: impl Fn(SocketAddr, &Path) -> Result<Vec<String>>) -> Result<Self> {
        // Another process may take the port before the server does.
        for _ in 0..5 {
            let address = free_address()?;
            let folder = TempDir::new()?;
            let mut redis = Self {
                address,
                arguments: arguments(address, folder.path())?,
                folder,
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

    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Deletes the data of the server, which must be stopped.
    pub fn delete_data(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "the server runs");
        self.folder = TempDir::new()?;
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
        redis_cli(&[&["-p", &port], arguments].concat())
    }

    /// Does the same for database 1, in which the tests have the bus.
    pub fn bus_command(&self, arguments: &[&str]) -> Result<String> {
        self.command(&[&["-n", "1"], arguments].concat())
    }

    /// Makes this server a replica of another one, or with `None` a master.
    pub fn replicate(&self, master: Option<&Self>) -> Result<()> {
        let (host, port) = match master {
            Some(master) => (
                master.address.ip().to_string(),
                master.address.port().to_string(),
            ),
            None => ("NO".to_owned(), "ONE".to_owned()),
        };
        self.command(&["REPLICAOF", &host, &port])?;
        Ok(())
    }

    /// Waits until this replica has everything that its master has.
    pub async fn caught_up(&self, master: &Self) -> Result<()> {
        eventually("the replica", async || {
            let replica = self.replication().ok()?;
            let is_linked = replica.contains("master_link_status:up");
            let received = field(&replica, "slave_repl_offset:")?;
            let master = master.replication().ok()?;
            let written = field(&master, "master_repl_offset:")?;
            (is_linked && received == written).then_some(())
        })
        .await
    }

    fn replication(&self) -> Result<String> {
        self.command(&["INFO", "replication"])
    }

    /// Runs the server and waits until it answers. Returns false if it exits, as when its port is
    /// in use.
    fn run(&mut self) -> Result<bool> {
        let child = Command::new("redis-server")
            .args(&self.arguments)
            .current_dir(self.folder.path())
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

/// Runs `redis-cli` and returns its output.
pub(crate) fn redis_cli(arguments: &[&str]) -> Result<String> {
    let output = Command::new("redis-cli")
        // An error that Redis returns is one of the command.
        .arg("-e")
        .args(arguments)
        .output()
        .context("cannot run redis-cli: on Debian, install it with `tests/install redis-server`")?;
    ensure!(output.status.success(), "redis-cli: {output:?}");
    Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
}

/// Returns the arguments of a server with data, which it does not lose.
fn data_arguments(address: SocketAddr) -> Vec<String> {
    let port = address.port();
    let options = format!(
        "--bind 127.0.0.1 --port {port} --appendonly yes --appendfsync always \
         --repl-diskless-sync-delay 0"
    );
    let options = options.split_whitespace().map(str::to_owned);
    // No snapshots.
    options
        .chain(["--save".to_owned(), String::new()])
        .collect()
}

/// Returns what follows a name in the output of `INFO`.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let line = info.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim())
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
