//! Debian's Pushpin as child processes.

use std::{
    fs::File,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tempfile::TempDir;
use tests::free_address;

use crate::{backend::READINESS, client, proxy::KEY};

/// The time for Pushpin to start. It usually takes less than a second.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// The timeout of a readiness check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// The pause between two checks whether Pushpin serves, or has exited.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The time for the processes to exit before they are killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A running Pushpin. Its processes are stopped on drop.
pub struct Pushpin {
    /// The address for clients.
    pub public: SocketAddr,
    /// The address for publishers.
    pub control: SocketAddr,
    processes: Vec<Child>,
    folder: TempDir,
}

impl Pushpin {
    /// Starts Pushpin in front of `upstream` and waits until it serves.
    pub async fn start(upstream: SocketAddr) -> Result<Self> {
        // Another process may take one of its ports before it starts.
        let mut last = None;
        for _ in 0..3 {
            match Self::start_once(upstream).await {
                Ok(pushpin) => return Ok(pushpin),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no attempt")?)
    }

    async fn start_once(upstream: SocketAddr) -> Result<Self> {
        let folder = TempDir::with_prefix("pushpin-")?;
        let (public, control) = (free_address()?, free_address()?);
        let programs = tests::pushpin::Pushpin {
            public,
            control,
            upstream,
            key: KEY,
            client_buffer: 200_000,
            connections: 5000,
            log_level: 2,
        }
        .configure(folder.path())?;
        let mut pushpin = Self {
            public,
            control,
            processes: Vec::new(),
            folder,
        };
        for (program, argument) in programs {
            pushpin.spawn(program, &argument)?;
        }
        let deadline = Instant::now() + START_TIMEOUT;
        while !pushpin.is_ready().await {
            for process in &mut pushpin.processes {
                if let Some(status) = process.try_wait()? {
                    bail!("a process exited with {status}; {}", pushpin.log());
                }
            }
            ensure!(
                Instant::now() < deadline,
                "it does not become ready; {}",
                pushpin.log()
            );
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(pushpin)
    }

    fn spawn(&mut self, program: &str, argument: &str) -> Result<()> {
        let log = File::create(self.folder.path().join(format!("{program}.log")))?;
        let process = Command::new(program)
            .arg(argument)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| {
                format!(
                    "cannot run {program}: on Debian, install it with `tests/install pushpin zurl`"
                )
            })?;
        self.processes.push(process);
        Ok(())
    }

    /// Checks whether the processes have found each other. Before that, requests are lost or get a
    /// 500.
    async fn is_ready(&self) -> bool {
        let check = async {
            let next = client::request("GET", READINESS, &[], "")?;
            let mut stream = client::hold(self.public, next).await?;
            // The backend is not running.
            if stream.status() == 502 {
                return self.publish_check().await;
            }
            stream.expect("linked,held,").await?;
            let upgrade = client::upgrade(self.public, READINESS, &[])?;
            let mut socket = client::handshake(self.public, upgrade).await?.accepted()?;
            self.publish_check().await?;
            stream.expect("published").await?;
            socket.expect("published").await
        };
        matches!(tokio::time::timeout(CHECK_TIMEOUT, check).await, Ok(Ok(())))
    }

    /// Publishes to the sockets and streams of the readiness check.
    async fn publish_check(&self) -> Result<()> {
        let published = json!({"content": "published"});
        let formats = json!({"ws-message": published, "http-stream": published});
        let items = json!({"items": [{"channel": READINESS, "formats": formats}]});
        let publish = client::request("POST", "/publish/", &[], &items.to_string())?;
        let response = client::send(self.control, publish).await?;
        ensure!(response.status == 200, "{response:?}");
        Ok(())
    }

    fn log(&self) -> String {
        let Ok(files) = std::fs::read_dir(&self.folder) else {
            return String::new();
        };
        let logs = files.flatten().map(|entry| entry.path());
        let logs = logs.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
        logs.map(|path| {
            let log = std::fs::read_to_string(&path).unwrap_or_default();
            format!("{}:\n{log}", path.display())
        })
        .collect()
    }
}

impl Drop for Pushpin {
    fn drop(&mut self) {
        // If killed, `pushpin` would leave its child processes behind.
        for process in &mut self.processes {
            let _ = kill_process(Pid::from_child(process), Signal::TERM);
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        for process in &mut self.processes {
            while !matches!(process.try_wait(), Ok(Some(_)) | Err(_)) {
                if Instant::now() > deadline {
                    eprintln!("a process of Pushpin does not exit: {}", process.id());
                    let _ = process.kill();
                }
                std::thread::sleep(POLL_INTERVAL);
            }
        }
    }
}
