//! A running `spin up`.

use std::{
    io::IsTerminal as _,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use parking_lot::Mutex;
use spin_runtime::Manifest;
use tokio::{sync::watch, time::sleep};

use super::{
    arguments::arguments,
    output::Output,
    readiness,
    supervisor::{SIGNAL_STATUS, SUPERVISE},
    variables::SpinVariables,
};
use crate::{
    config::UpstreamUrl,
    options::{HostOptions, SpinOptions, applicable_variables},
    systemd,
};

/// How long the file with the values of variables is kept once Spin serves. Triggers other than
/// HTTP are processes of their own, which may read it later.
const VARIABLES_GRACE: Duration = Duration::from_secs(5);

/// Threads that wait for supervisors.
static WAITERS: Mutex<Vec<JoinHandle<()>>> = Mutex::new(Vec::new());

/// Waits until every Spin that this process has started and stopped has exited.
///
/// A process that exits without calling this leaves that to the supervisors.
pub(crate) fn wait_for_exit() {
    let waiters = std::mem::take(&mut *WAITERS.lock());
    for waiter in waiters {
        let _ = waiter.join();
    }
}

/// A running `spin up`. Dropping this ends it in the background.
pub(crate) struct SpinProcess {
    address: SocketAddr,
    grip_key: String,
    /// The writing end of the pipe to the supervisor, which ends Spin when it closes.
    lifeline: Option<ChildStdin>,
    exited: Exited,
}

impl SpinProcess {
    /// Starts `spin up` for a manifest on a free port, and waits until it serves.
    ///
    /// `grip_url` is the URL of the control port, and `grip_key` the key of the host.
    ///
    /// # Errors
    /// Fails with the end of Spin's output if it exits before it serves.
    pub(crate) async fn start(
        spin: &SpinOptions,
        options: &HostOptions,
        manifest: &Manifest,
        grip_url: String,
        grip_key: String,
    ) -> Result<Self> {
        let variables = SpinVariables::resolve(
            manifest,
            &applicable_variables(&options.variables, &options.optional_variables, manifest),
            grip_url,
            grip_key,
            |name| std::env::var(name).ok(),
        )?;
        // Deleted when this returns an error or is cancelled.
        let file = variables.write()?;
        let address = free_address().context("cannot find a free port for Spin")?;
        let (output, [stdout, stderr]) = Output::start().context("cannot create a pipe")?;
        let mut command = Command::new(&spin.supervisor);
        command
            .arg(SUPERVISE)
            .arg("--")
            .arg(&spin.executable)
            .args(arguments(
                options,
                spin,
                &manifest.path,
                address,
                file.as_ref().map(|file| file.path()),
            )?)
            // The host connects without TLS.
            .env_remove("SPIN_TLS_CERT")
            .env_remove("SPIN_TLS_KEY")
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(stderr)
            .process_group(0);
        // Cargo sees a pipe, although its output ends up in a terminal.
        if std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
            command.env("CARGO_TERM_COLOR", "always");
        }
        systemd::hide_from(&mut command);
        let supervisor = command.spawn();
        // Closes our copies of the writing ends, so that reading comes to an end.
        drop(command);
        let mut supervisor =
            supervisor.with_context(|| format!("cannot run {}", spin.supervisor.display()))?;
        let mut process = Self {
            address,
            grip_key: variables.grip_key,
            lifeline: supervisor.stdin.take(),
            exited: Exited::of(supervisor)?,
        };
        let status = tokio::select! {
            () = readiness::wait_until_ready(address) => {
                output.forget();
                tokio::spawn(async move {
                    sleep(VARIABLES_GRACE).await;
                    drop(file);
                });
                return Ok(process);
            }
            status = process.exited.wait() => status,
        };
        let tail = output.into_tail().await;
        let error = describe(status);
        Err(if tail.is_empty() {
            anyhow!("`spin up` {error} before it served, and printed nothing")
        } else {
            anyhow!("`spin up` {error} before it served:\n{tail}")
        })
    }

    /// Returns the URL at which Spin serves.
    pub(crate) fn url(&self) -> Result<UpstreamUrl> {
        let url = format!("http://{}", self.address);
        url.parse().map_err(|error| anyhow!("{url}: {error}"))
    }

    /// Returns the key that the components verify signatures with.
    pub(crate) fn grip_key(&self) -> &str {
        &self.grip_key
    }

    /// Waits until Spin has exited, and returns an error that says how.
    pub(crate) async fn exited(&mut self) -> anyhow::Error {
        anyhow!("`spin up` {}", describe(self.exited.wait().await))
    }

    /// Ends Spin and its child processes, and waits until they have exited.
    pub(crate) async fn stop(mut self) {
        drop(self.lifeline.take());
        self.exited.wait().await;
    }
}

/// The status of a supervisor that has exited, which is that of Spin.
struct Exited(watch::Receiver<Option<ExitStatus>>);

impl Exited {
    fn of(mut supervisor: Child) -> Result<Self> {
        let (sender, receiver) = watch::channel(None);
        let thread = std::thread::Builder::new().name("spin".into());
        let waiter = thread.spawn(move || {
            // The sender is dropped if this fails.
            if let Ok(status) = supervisor.wait() {
                sender.send_replace(Some(status));
            }
        })?;
        let mut waiters = WAITERS.lock();
        waiters.retain(|waiter| !waiter.is_finished());
        waiters.push(waiter);
        Ok(Self(receiver))
    }

    /// Waits until Spin has exited. Returns `None` if its status is not known.
    async fn wait(&mut self) -> Option<ExitStatus> {
        let status = self.0.wait_for(Option::is_some).await.ok()?;
        *status
    }
}

/// Returns how Spin exited, for errors.
fn describe(status: Option<ExitStatus>) -> String {
    let signal = status.and_then(|status| status.signal());
    match status.and_then(|status| status.code()) {
        Some(code) if code > SIGNAL_STATUS => {
            format!("was ended by signal {}", code - SIGNAL_STATUS)
        }
        Some(code) => format!("exited with status {code}"),
        None => match signal {
            Some(signal) => format!("lost its supervisor to signal {signal}"),
            None => "exited with an unknown status".into(),
        },
    }
}

/// Returns an address that is free now. Spin can only be given a port, and another process may take
/// it first. Spin then exits with an error that says so.
fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
