//! nginx as a child process, which balances over several hosts.

use std::{
    net::{SocketAddr, TcpStream},
    path::Path,
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
    _folder: TempDir,
}

impl Nginx {
    /// Starts nginx on a free port, in front of hosts that need not run yet.
    pub fn start(hosts: &[SocketAddr]) -> Result<Self> {
        let (folder, address) = (TempDir::new()?, free_address()?);
        let path = folder.path().join("nginx.conf");
        std::fs::write(&path, configuration(folder.path(), address, hosts)?)?;
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
            _folder: folder,
        };
        nginx.wait()?;
        Ok(nginx)
    }

    /// Waits until it accepts connections.
    fn wait(&mut self) -> Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        while TcpStream::connect(self.address).is_err() {
            let exit = self.child.try_wait()?;
            ensure!(exit.is_none(), "nginx exited: {exit:?}");
            ensure!(Instant::now() < deadline, "nginx does not accept");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configuration(folder: &Path, address: SocketAddr, hosts: &[SocketAddr]) -> Result<String> {
    let path = workspace().join("tests/fixtures/nginx.conf");
    let template = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let servers = hosts
        .iter()
        .map(|host| format!("server {host} max_fails=0;"));
    Ok(template
        .replace("FOLDER", &folder.display().to_string())
        .replace("ADDRESS", &address.to_string())
        .replace("SERVERS", &servers.collect::<Vec<_>>().join("\n        ")))
}
