//! Debian's Pushpin as two processes: their start, and their end.

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

use crate::{
    backend::READINESS,
    client,
    proxy::{KEY, free_address},
};

/// It starts in well under a second.
const STARTING: Duration = Duration::from_secs(20);

/// What is not through in this time is tried again.
const PROBE: Duration = Duration::from_secs(1);

/// Between two looks at whether it serves, or has ended.
const LOOK: Duration = Duration::from_millis(20);

/// How long its processes may take to end before they are killed.
const STOPPING: Duration = Duration::from_secs(5);

/// A running Pushpin. Dropped, all its processes are stopped.
pub struct Pushpin {
    /// Where clients connect.
    pub public: SocketAddr,
    /// Where publishers connect.
    pub control: SocketAddr,
    processes: Vec<Child>,
    folder: TempDir,
}

impl Pushpin {
    /// Starts it in front of `upstream`, and waits until it serves.
    pub async fn start(upstream: SocketAddr) -> Result<Self> {
        // Somebody else may take a port between our look and its start.
        let mut last = None;
        for _ in 0..3 {
            match Self::start_once(upstream).await {
                Ok(pushpin) => return Ok(pushpin),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("never tried")?)
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
        let deadline = Instant::now() + STARTING;
        while !pushpin.serves().await {
            for process in &mut pushpin.processes {
                if let Some(status) = process.try_wait()? {
                    bail!("a process ended with {status}; {}", pushpin.log());
                }
            }
            ensure!(
                Instant::now() < deadline,
                "it does not serve; {}",
                pushpin.log()
            );
            tokio::time::sleep(LOOK).await;
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
                format!("cannot run {program}; `tests/install pushpin zurl` installs it on Debian")
            })?;
        self.processes.push(process);
        Ok(())
    }

    /// Whether its processes are in touch: each looks for the others when it starts, and until it
    /// has found them some requests are lost and some are answered with 500.
    async fn serves(&self) -> bool {
        let through = async {
            let next = client::request("GET", READINESS, &[], "")?;
            let mut stream = client::hold(self.public, next).await?;
            // There is no backend.
            if stream.status() == 502 {
                return self.publishes().await;
            }
            stream.expect("linked,held,").await?;
            let upgrade = client::upgrade(self.public, READINESS, &[])?;
            let mut socket = client::shake(self.public, upgrade).await?.accepted()?;
            self.publishes().await?;
            stream.expect("published").await?;
            socket.expect("published").await
        };
        matches!(tokio::time::timeout(PROBE, through).await, Ok(Ok(())))
    }

    /// Publishes to those who ask whether it serves.
    async fn publishes(&self) -> Result<()> {
        let published = json!({"content": "published"});
        let formats = json!({"ws-message": published, "http-stream": published});
        let items = json!({"items": [{"channel": READINESS, "formats": formats}]});
        let publish = client::request("POST", "/publish/", &[], &items.to_string())?;
        let answer = client::send(self.control, publish).await?;
        ensure!(answer.status == 200, "{answer:?}");
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
            format!("{} said:\n{log}", path.display())
        })
        .collect()
    }
}

impl Drop for Pushpin {
    fn drop(&mut self) {
        // Killed, `pushpin` would leave the processes behind that it started.
        for process in &mut self.processes {
            let _ = kill_process(Pid::from_child(process), Signal::TERM);
        }
        let deadline = Instant::now() + STOPPING;
        for process in &mut self.processes {
            while !matches!(process.try_wait(), Ok(Some(_)) | Err(_)) {
                if Instant::now() > deadline {
                    eprintln!("a process of Pushpin does not end: {}", process.id());
                    let _ = process.kill();
                }
                std::thread::sleep(LOOK);
            }
        }
    }
}
