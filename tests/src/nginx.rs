//! nginx as a child process.

use std::{
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::{TIMEOUT, free_address, workspace};

/// Debian's nginx, which is in the `PATH` of root only.
const PROGRAM: &str = "/usr/sbin/nginx";

/// A running nginx. Killed on drop.
pub struct Nginx {
    /// Its address.
    pub address: SocketAddr,
    child: Child,
    folder: TempDir,
}

impl Nginx {
    /// Starts nginx on a free port, in front of hosts that need not run yet. It balances over them.
    pub fn start(hosts: &[SocketAddr]) -> Result<Self> {
        let template = fixture("balancer.conf")?;
        let servers = hosts
            .iter()
            .map(|host| format!("server {host} max_fails=0;"));
        let servers = servers.collect::<Vec<_>>().join("\n    ");
        Self::start_with(|address| {
            let conf = template.replace("ADDRESS", &address.to_string());
            Ok(conf.replace("SERVERS", &servers))
        })
    }

    /// Starts nginx on a free port with a configuration of its servers, which listen there.
    pub fn start_with(servers: impl FnOnce(SocketAddr) -> Result<String>) -> Result<Self> {
        let (folder, address) = (TempDir::new()?, free_address()?);
        let conf = fixture("nginx.conf")?.replace("FOLDER", &folder.path().display().to_string());
        let path = folder.path().join("nginx.conf");
        std::fs::write(&path, conf)?;
        std::fs::write(folder.path().join("servers.conf"), servers(address)?)?;
        let child = Command::new(PROGRAM)
            .arg("-c")
            .arg(&path)
            .arg("-e")
            .arg(folder.path().join("error.log"))
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| {
                format!("cannot run {PROGRAM}: on Debian, install it with `tests/install nginx`")
            })?;
        let mut nginx = Self {
            address,
            child,
            folder,
        };
        nginx.wait()?;
        Ok(nginx)
    }

    /// Waits until it accepts connections.
    fn wait(&mut self) -> Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        while TcpStream::connect(self.address).is_err() {
            let exit = self.child.try_wait()?;
            ensure!(exit.is_none(), "nginx exited: {exit:?}; {}", self.log());
            ensure!(Instant::now() < deadline, "nginx does not accept");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Returns the errors and warnings that it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("error.log")).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn fixture(name: &str) -> Result<String> {
    let path = workspace().join("tests/fixtures/nginx").join(name);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}
