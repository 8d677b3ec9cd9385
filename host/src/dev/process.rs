//! A build command that runs, with all that it started, and how they are ended.

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

/// How long what is asked to end may take: a package manager cut off has to be mended by hand.
const GRACE: Duration = Duration::from_secs(2);
/// How often it is looked whether it has ended.
const LOOK: Duration = Duration::from_millis(10);

/// The threads that end what was asked to.
static ENDINGS: Mutex<Vec<JoinHandle<()>>> = Mutex::new(Vec::new());
/// What was asked to end is killed instead.
static AT_ONCE: AtomicBool = AtomicBool::new(false);

/// Waits for the end of build commands that were dropped, and of all that they started: 2 s at most,
/// or no time when they are to end `at_once`, and they are killed. A process whose end comes before
/// leaves them running.
pub fn ended(at_once: bool) {
    AT_ONCE.fetch_or(at_once, SeqCst);
    let mut endings = ENDINGS.lock();
    for ending in std::mem::take(&mut *endings) {
        // A thread that panicked has nothing left to say.
        let _ = ending.join();
    }
}

/// A command that runs, and what it started, in a process group of their own. Dropping this asks
/// them all to end, unless the command has ended, and kills them when they do not; see [`ended`].
pub(crate) struct Running {
    /// `None` when this is dropped.
    child: Option<Child>,
    /// The number is the group's for as long as nobody has waited for the command.
    group: Option<Pid>,
    /// Tells when a process that was started has ended, or was stopped.
    children: Signal,
}

impl Running {
    /// Without anything to read, and without the terminal: that stops a group that is not in its
    /// foreground.
    pub(crate) fn start(command: &mut Command) -> io::Result<Self> {
        let children = signal(SignalKind::child())?;
        let child = command.stdin(Stdio::null()).process_group(0).spawn()?;
        let group = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        Ok(Self {
            child: Some(child),
            group,
            children,
        })
    }

    /// Waits for the end of the command, not of what it left running.
    ///
    /// # Errors
    /// Also when it waits for the terminal, which it would do for ever.
    pub(crate) async fn ended(&mut self) -> io::Result<ExitStatus> {
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
                _ = self.children.recv() => if self.group.is_some_and(waits_for_terminal) {
                    return Err(io::Error::other(
                        "it was stopped when it asked something at the terminal, which builds do not have: \
                         run it there by hand first",
                    ));
                }
            }
        }
    }
}

/// Whether a command was stopped because the terminal is not its own.
fn waits_for_terminal(command: Pid) -> bool {
    let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let status = waitid(WaitId::Pid(command), options).ok().flatten();
    let signal = status.and_then(|status| status.stopping_signal());
    let terminal = [rustix::process::Signal::TTIN, rustix::process::Signal::TTOU];
    signal.is_some_and(|signal| terminal.iter().any(|other| other.as_raw() == signal))
}

impl Drop for Running {
    fn drop(&mut self) {
        let (Some(child), Some(group)) = (self.child.take(), self.group) else {
            return;
        };
        // What is stopped hears of it when it goes on. Both fail when there is nobody left.
        let _ = kill_process_group(group, rustix::process::Signal::TERM);
        let _ = kill_process_group(group, rustix::process::Signal::CONT);
        let thread = std::thread::Builder::new().name("build".into());
        match thread.spawn(move || end(child, group)) {
            Ok(ending) => {
                let mut endings = ENDINGS.lock();
                endings.retain(|ending| !ending.is_finished());
                endings.push(ending);
            }
            Err(_) => drop(kill_process_group(group, rustix::process::Signal::KILL)),
        }
    }
}

/// Waits for the end of a group that was asked to end, and kills it when that takes too long.
fn end(mut command: Child, group: Pid) {
    let late = Instant::now() + GRACE;
    loop {
        // As long as it is not waited for, it is there.
        let _ = command.try_wait();
        if test_kill_process_group(group).is_err() {
            return;
        }
        if AT_ONCE.load(SeqCst) || Instant::now() >= late {
            let _ = kill_process_group(group, rustix::process::Signal::KILL);
            return;
        }
        std::thread::sleep(LOOK);
    }
}
