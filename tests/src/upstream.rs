//! An upstream that runs components, as `spin up` does.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::built;

/// A running stand-in for Spin. Killed on drop.
pub struct Upstream {
    child: Child,
    /// Its address.
    pub address: SocketAddr,
}

impl Upstream {
    /// Serves the manifest in `folder` on a free port.
    pub fn start(folder: &Path, options: &[&str]) -> Result<Self> {
        let mut child = Command::new(spin_stand_in())
            .args(["trigger", "http", "--listen", "127.0.0.1:0", "--from"])
            .arg(folder)
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run the stand-in for Spin")?;
        let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
        while let Some(line) = lines.next().transpose()? {
            if let Some(address) = line.strip_prefix("Serving http://") {
                let address = address.parse()?;
                std::thread::spawn(move || lines.for_each(drop));
                return Ok(Self { child, address });
            }
        }
        bail!("the stand-in for Spin exited with {}", child.wait()?)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the path of the stand-in for Spin. `tests/run` builds it before it runs the tests.
pub fn spin_stand_in() -> PathBuf {
    built("target/release/spin-stand-in")
}
