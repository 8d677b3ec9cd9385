//! Runs a build command in a process group of its own, and terminates the group.

use std::{
    io,
    process::{ExitStatus, Stdio},
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rustix::process::{
    Pid, WaitId, WaitIdOptions, kill_process_group, test_kill_process_group, waitid,
};
use tokio::{
    process::{Child, Command},
    signal::unix::{Signal, SignalKind, signal},
};

use crate::{config::Limits, systemd};

/// Time between SIGTERM and SIGKILL. A package manager that is killed may leave a broken cache.
const TERM_GRACE: Duration = Limits::DEFAULT.build_stop_timeout;
/// Interval of the checks whether a terminated group has exited.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Threads that wait for terminated groups.
static REAPERS: Mutex<Vec<JoinHandle<()>>> = Mutex::new(Vec::new());
/// Set when terminated groups are killed without waiting for [`TERM_GRACE`].
static KILL: AtomicBool = AtomicBool::new(false);

/// Waits until cancelled builds and their child processes have exited.
///
/// This takes 2 seconds at most, after which they are killed. With `kill`, they are killed at once.
/// A process that exits without calling this leaves them running.
pub(crate) fn wait_for_builds(kill: bool) {
    KILL.fetch_or(kill, SeqCst);
    let mut reapers = REAPERS.lock();
    for reaper in std::mem::take(&mut *reapers) {
        let _ = reaper.join();
    }
}

/// A running command and its child processes, in a process group of their own.
///
/// If this is dropped before the command exits, the group gets SIGTERM, and later SIGKILL: see
/// [`wait_for_builds`].
pub(crate) struct BuildProcess {
    /// `Some` until this is dropped.
    child: Option<Child>,
    /// `None` once the command has been waited for, since its number may be reused then.
    group: Option<Pid>,
    sigchld: Signal,
}

impl BuildProcess {
    /// Starts a command with an empty stdin.
    pub(crate) fn spawn(command: &mut Command) -> io::Result<Self> {
        let sigchld = signal(SignalKind::child())?;
        systemd::hide_from(command.as_std_mut());
        let child = command.stdin(Stdio::null()).process_group(0).spawn()?;
        let group = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        Ok(Self {
            child: Some(child),
            group,
            sigchld,
        })
    }

    /// Waits until the command exits. Its background processes may still run.
    ///
    /// # Errors
    /// Fails if the command is stopped because it uses the terminal: it would never continue.
    pub(crate) async fn wait(&mut self) -> io::Result<ExitStatus> {
        let Some(child) = &mut self.child else {
            return Err(io::ErrorKind::NotFound.into());
        };
        loop {
            tokio::select! {
                status = child.wait() => {
                    let status = status?;
                    self.group = None;
                    return Ok(status);
                }
                _ = self.sigchld.recv() => if self.group.is_some_and(is_stopped_by_terminal) {
                    return Err(io::Error::other(
                        "the command was stopped because it tried to use the terminal, \
                         which is not available to builds: run it by hand first",
                    ));
                }
            }
        }
    }
}

/// Returns whether a command was stopped because it used the terminal from the background.
fn is_stopped_by_terminal(command: Pid) -> bool {
    let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let status = waitid(WaitId::Pid(command), options).ok().flatten();
    let signal = status.and_then(|status| status.stopping_signal());
    let terminal = [rustix::process::Signal::TTIN, rustix::process::Signal::TTOU];
    signal.is_some_and(|signal| terminal.iter().any(|other| other.as_raw() == signal))
}

impl Drop for BuildProcess {
    fn drop(&mut self) {
        let (Some(child), Some(group)) = (self.child.take(), self.group) else {
            return;
        };
        // A stopped process handles SIGTERM once it continues. Both fail if the group has exited.
        let _ = kill_process_group(group, rustix::process::Signal::TERM);
        let _ = kill_process_group(group, rustix::process::Signal::CONT);
        let thread = std::thread::Builder::new().name("build".into());
        match thread.spawn(move || reap(child, group)) {
            Ok(reaper) => {
                let mut reapers = REAPERS.lock();
                reapers.retain(|reaper| !reaper.is_finished());
                reapers.push(reaper);
            }
            Err(_) => drop(kill_process_group(group, rustix::process::Signal::KILL)),
        }
    }
}

/// Waits for a terminated group to exit, and kills it after [`TERM_GRACE`].
fn reap(mut command: Child, group: Pid) {
    let deadline = Instant::now() + TERM_GRACE;
    loop {
        // An exited command counts as a member of the group until it is waited for.
        let _ = command.try_wait();
        if test_kill_process_group(group).is_err() {
            return;
        }
        if KILL.load(SeqCst) || Instant::now() >= deadline {
            let _ = kill_process_group(group, rustix::process::Signal::KILL);
            return;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}
