//! Debian's Pushpin as a process: its configuration, its start, its end.
//!
//! Debian builds it without an HTTP client of its own; `zurl` is that client, a second
//! process, which by default refuses to connect to the loopback.

use std::{
    fs::File,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{
    client,
    proxy::{KEY, free_address},
};

/// Where Debian keeps the names that Pushpin's processes find each other by.
const INTERNAL: &str = "/usr/lib/pushpin/internal.conf";

/// It starts in well under a second.
const STARTING: Duration = Duration::from_secs(20);

/// A request that a proxy does not answer in this time is tried again.
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
        configure(folder.path(), public, control, upstream)?;
        let mut pushpin = Self {
            public,
            control,
            processes: Vec::new(),
            folder,
        };
        pushpin.spawn("zurl", &["--config=zurl.conf"])?;
        pushpin.spawn("pushpin", &["--config=pushpin.conf", "--merge-output"])?;
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

    fn spawn(&mut self, program: &str, arguments: &[&str]) -> Result<()> {
        let log = File::create(self.folder.path().join(format!("{program}.log")))?;
        let process = Command::new(program)
            .args(arguments)
            .current_dir(self.folder.path())
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

    /// Whether a request goes all the way to the backend, or to where there is none, and
    /// publishing is possible.
    async fn serves(&self) -> bool {
        let through = async {
            let request = client::request("GET", "/is-it-there", &[], "")?;
            let answer = client::send(self.public, request).await?;
            let publish = client::request("POST", "/publish/", &[], r#"{"items":[]}"#)?;
            let published = client::send(self.control, publish).await?;
            anyhow::Ok(matches!(answer.status, 404 | 502) && published.status == 200)
        };
        matches!(tokio::time::timeout(PROBE, through).await, Ok(Ok(true)))
    }

    fn log(&self) -> String {
        ["zurl", "pushpin"]
            .map(|program| {
                let log = self.folder.path().join(format!("{program}.log"));
                let log = std::fs::read_to_string(log).unwrap_or_default();
                format!("{program} said:\n{log}")
            })
            .concat()
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

/// Writes all that its processes read into `folder`, where they run.
fn configure(
    folder: &Path,
    public: SocketAddr,
    control: SocketAddr,
    upstream: SocketAddr,
) -> Result<()> {
    let here = folder.display();
    ensure!(
        Path::new(INTERNAL).exists(),
        "{INTERNAL} is missing; `tests/install pushpin zurl` installs it on Debian"
    );
    let pushpin = format!(
        "[global]
include={INTERNAL}
rundir={here}
ipc_prefix=pushpin-

[runner]
services=condure,pushpin-proxy,pushpin-handler
http_port={public}
logdir={here}
client_buffer_size=200000
client_maxconn=5000

[proxy]
zurl_out_specs=ipc://{here}/zurl-in
zurl_out_stream_specs=ipc://{here}/zurl-in-stream
zurl_in_specs=ipc://{here}/zurl-out
routesfile=routes
sig_iss=pushpin
sig_key={KEY}
updates_check=off

[handler]
push_in_spec=ipc://{here}/push-in
push_in_sub_specs=ipc://{here}/push-in-sub
push_in_http_addr={}
push_in_http_port={}
stats_spec=ipc://{here}/stats
command_spec=ipc://{here}/command
message_rate=1000000
message_hwm=1000000
",
        control.ip(),
        control.port(),
    );
    let zurl = format!(
        "[General]
in_spec=ipc://{here}/zurl-in
in_stream_spec=ipc://{here}/zurl-in-stream
out_spec=ipc://{here}/zurl-out
in_req_spec=ipc://{here}/zurl-req
defpolicy=allow
allow=
deny=
"
    );
    for (name, content) in [
        ("pushpin.conf", pushpin),
        ("zurl.conf", zurl),
        ("routes", format!("* {upstream},over_http\n")),
    ] {
        std::fs::write(folder.join(name), content)?;
    }
    Ok(())
}
