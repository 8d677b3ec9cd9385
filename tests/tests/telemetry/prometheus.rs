//! Prometheus as a child process, which scrapes a host.

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tempfile::TempDir;
use tests::{eventually, free_address, request};

/// The job of the host in the configuration.
pub const JOB: &str = "socket-host";

/// A running Prometheus with data of its own. Killed on drop.
pub struct Prometheus {
    address: SocketAddr,
    child: Child,
    _folder: TempDir,
}

impl Prometheus {
    /// Starts Prometheus on a free port, and waits until it has scraped a host.
    pub async fn start(control: SocketAddr) -> Result<Self> {
        let (folder, address) = (TempDir::new()?, free_address()?);
        let path = folder.path().join("prometheus.yml");
        let config = format!(
            "global:\n  scrape_interval: 200ms\nscrape_configs:\n  - job_name: {JOB}\n    \
             static_configs:\n      - targets: [\"{control}\"]\n"
        );
        std::fs::write(&path, config)?;
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", path.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context(
                "cannot run prometheus: on Debian, install it with `tests/install prometheus`",
            )?;
        let mut prometheus = Self {
            address,
            child,
            _folder: folder,
        };
        prometheus.wait().await?;
        Ok(prometheus)
    }

    async fn wait(&mut self) -> Result<()> {
        let up = eventually("Prometheus", async || {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(Err(status));
            }
            let found = self
                .query(&format!("up{{job=\"{JOB}\"}} == 1"))
                .await
                .ok()?;
            (!found.is_empty()).then_some(Ok(()))
        });
        match up.await? {
            Ok(()) => Ok(()),
            Err(status) => bail!("prometheus exited with {status}"),
        }
    }

    /// Returns the result of a query.
    pub async fn query(&self, query: &str) -> Result<Vec<Value>> {
        let query = utf8_percent_encode(query, NON_ALPHANUMERIC);
        let head = format!(
            "GET /api/v1/query?query={query} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.address
        );
        let response = request(self.address, &head).await?;
        ensure!(response.status == 200, "{}", response.body);
        let mut body: Value = serde_json::from_str(&response.body)?;
        match body["data"]["result"].take() {
            Value::Array(result) => Ok(result),
            other => bail!("unexpected result {other}"),
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
