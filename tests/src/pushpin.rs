//! Debian's Pushpin as child processes, and its configuration files.
//!
//! Debian builds Pushpin without an HTTP client. A second process, `zurl`, is its client; by
//! default it refuses to connect to loopback addresses.

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

/// The configuration, installed by Debian, with which Pushpin's processes find each other.
const INTERNAL: &str = "/usr/lib/pushpin/internal.conf";

/// The time for the processes to exit before they are killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// The pause between two checks whether a process has exited.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The configuration of a Pushpin instance.
///
/// Its rate limits are always raised out of the way: by default it sends 2,500 messages a second
/// and queues 25,000.
pub struct Pushpin<'a> {
    /// The address for clients.
    pub public: SocketAddr,
    /// The address for publishers.
    pub control: SocketAddr,
    /// The content of the file `routes`: which backend gets a request.
    pub routes: &'a str,
    /// The signing key, either plain or as `base64:…`.
    pub key: &'a str,
    /// The buffer of a client connection in each direction, in bytes. Pushpin reserves it for
    /// each of `connections` at start.
    pub client_buffer: usize,
    /// The maximum number of client connections.
    pub connections: usize,
    /// The log level: 0 logs errors only, 2 logs every request.
    pub log_level: u8,
}

/// A program and its only argument.
pub type Program = (&'static str, String);

impl Pushpin<'_> {
    /// Writes the configuration into `folder`, which also holds the processes' sockets. Returns
    /// the two programs to run: the HTTP client and Pushpin itself.
    ///
    /// # Errors
    /// If Pushpin is not installed, or if the folder is not writable.
    pub fn configure(&self, folder: &Path) -> Result<[Program; 2]> {
        ensure!(
            Path::new(INTERNAL).exists(),
            "{INTERNAL} is missing: on Debian, install it with `tests/install pushpin zurl`"
        );
        let Self {
            public,
            control,
            routes,
            key,
            client_buffer,
            connections,
            log_level,
        } = self;
        let dir = folder.display();
        let pushpin = format!(
            "[global]
include={INTERNAL}
rundir={dir}
ipc_prefix=pushpin-

[runner]
services=condure,pushpin-proxy,pushpin-handler
http_port={public}
logdir={dir}
log_level={log_level}
client_buffer_size={client_buffer}
client_maxconn={connections}

[proxy]
zurl_out_specs=ipc://{dir}/zurl-in
zurl_out_stream_specs=ipc://{dir}/zurl-in-stream
zurl_in_specs=ipc://{dir}/zurl-out
routesfile=routes
sig_iss=pushpin
sig_key={key}
updates_check=off

[handler]
push_in_spec=ipc://{dir}/push-in
push_in_sub_specs=ipc://{dir}/push-in-sub
push_in_http_addr={}
push_in_http_port={}
stats_spec=ipc://{dir}/stats
command_spec=ipc://{dir}/command
message_rate=1000000000
message_hwm=1000000000
",
            control.ip(),
            control.port(),
        );
        let zurl = format!(
            "[General]
in_spec=ipc://{dir}/zurl-in
in_stream_spec=ipc://{dir}/zurl-in-stream
out_spec=ipc://{dir}/zurl-out
in_req_spec=ipc://{dir}/zurl-req
defpolicy=allow
allow=
deny=
max_open_requests=20000
buffer_size=200000
timeout=600
in_hwm=100000
out_hwm=100000
"
        );
        for (name, content) in [
            ("pushpin.conf", pushpin),
            ("zurl.conf", zurl),
            ("routes", (*routes).to_owned()),
        ] {
            let path = folder.join(name);
            std::fs::write(&path, content)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        let config_option = |name: &str| format!("--config={dir}/{name}.conf");
        Ok(["zurl", "pushpin"].map(|name| (name, config_option(name))))
    }
}

/// The processes of a running Pushpin. They are stopped on drop.
pub struct Processes {
    children: Vec<Child>,
    folder: TempDir,
}

impl Processes {
    /// Starts Pushpin. It does not serve yet, see [`Self::ensure_running`].
    ///
    /// # Errors
    /// If Pushpin is not installed.
    pub fn start(configuration: &Pushpin<'_>) -> Result<Self> {
        let folder = TempDir::with_prefix("pushpin-")?;
        let programs = configuration.configure(folder.path())?;
        let mut processes = Self {
            children: Vec::new(),
            folder,
        };
        for (program, argument) in programs {
            processes.spawn(program, &argument)?;
        }
        Ok(processes)
    }

    fn spawn(&mut self, program: &str, argument: &str) -> Result<()> {
        let log = File::create(self.folder.path().join(format!("{program}.log")))?;
        let child = Command::new(program)
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
        self.children.push(child);
        Ok(())
    }

    /// Fails with the log if a process has exited.
    pub fn ensure_running(&mut self) -> Result<()> {
        let mut exits = Vec::new();
        for child in &mut self.children {
            exits.extend(child.try_wait()?);
        }
        if let Some(status) = exits.first() {
            bail!("a process exited with {status}; {}", self.log());
        }
        Ok(())
    }

    /// Returns what the processes have logged.
    pub fn log(&self) -> String {
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

impl Drop for Processes {
    fn drop(&mut self) {
        // If killed, `pushpin` would leave its child processes behind.
        for child in &mut self.children {
            let _ = kill_process(Pid::from_child(child), Signal::TERM);
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        for child in &mut self.children {
            while !matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
                if Instant::now() > deadline {
                    eprintln!("a process of Pushpin does not exit: {}", child.id());
                    let _ = child.kill();
                }
                std::thread::sleep(POLL_INTERVAL);
            }
        }
    }
}
