//! The supervisor of Spin: a process that ends Spin when the host is gone.

use std::{
    ffi::OsString,
    io,
    os::{
        fd::AsFd as _,
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, getppid, kill_process_group, test_kill_process_group,
    waitid,
};
use tokio::{
    io::AsyncReadExt as _,
    net::unix::pipe::Receiver,
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep},
};

use crate::{config::Limits, terminal::print_error_line};

/// The name of the hidden subcommand.
pub(crate) const SUPERVISE: &str = "supervise";

/// The option of the subcommand in the process that becomes the command.
const REPLACE: &str = "--replace";

/// Time between SIGTERM and SIGKILL.
const TERM_GRACE: Duration = Limits::DEFAULT.spin_stop_timeout;
/// Interval of the checks whether a terminated group has exited.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// The status of a shell for a command that it cannot run.
const CANNOT_RUN: u8 = 126;
/// A shell adds it to the number of the signal that has ended a command.
pub(super) const SIGNAL_STATUS: i32 = 128;

/// Runs a command in a process group of its own, and ends the group when stdin is closed or the
/// command has exited. Returns the command's status, as a shell would.
///
/// `command` is the program and its arguments. With the process id of a supervisor, this process
/// becomes the command.
pub(crate) fn supervise(command: Vec<OsString>, supervisor: Option<i32>) -> ExitCode {
    let result = if let Some(supervisor) = supervisor {
        Err(become_command(command, supervisor))
    } else {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the supervisor");
        runtime.and_then(|runtime| runtime.block_on(run(command)))
    };
    match result {
        Ok(status) => {
            let signal = status.signal().map(|signal| SIGNAL_STATUS + signal);
            let code = status.code().or(signal).unwrap_or(i32::from(CANNOT_RUN));
            ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
        }
        Err(error) => {
            print_error_line(format_args!("error: {error:#}"));
            ExitCode::from(CANNOT_RUN)
        }
    }
}

async fn run(command: Vec<OsString>) -> Result<ExitStatus> {
    // A signal to all processes of this name must not end Spin before the host has drained.
    let ignored = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ];
    let _ignored = ignored.map(signal);
    let mut sigchld = signal(SignalKind::child()).context("cannot listen for signals")?;
    let stdin = io::stdin().as_fd().try_clone_to_owned()?;
    let mut pipe = Receiver::from_owned_fd(stdin).context("stdin must be a pipe from the host")?;

    let program = std::env::current_exe().context("cannot find the path of this program")?;
    let child = Command::new(&program)
        .args([SUPERVISE, REPLACE, &std::process::id().to_string(), "--"])
        .args(command)
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let group = Pid::from_child(&child);
    let mut buffer = [0; 64];
    loop {
        tokio::select! {
            read = pipe.read(&mut buffer) => if !matches!(read, Ok(1..)) {
                break;
            },
            _ = sigchld.recv() => if has_exited(group) {
                break;
            },
        }
    }
    end_group(child, group).await
}

/// Turns this process into the command. On Linux, the system sends SIGTERM to the command if the
/// supervisor is killed. Spin then ends its own child processes. Returns an error if the command
/// cannot be run.
fn become_command(command: Vec<OsString>, supervisor: i32) -> anyhow::Error {
    let mut command = command.into_iter();
    let Some(program) = command.next() else {
        return anyhow!("no command to supervise");
    };
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::TERM)) {
        return anyhow!(error).context("cannot follow the supervisor");
    }
    // It may have been killed before the signal was set, which is then never sent.
    if getppid() != Pid::from_raw(supervisor) {
        return anyhow!("the supervisor has exited");
    }
    let error = Command::new(&program).args(command).exec();
    anyhow!(error).context(format!("cannot run {}", program.display()))
}

/// Returns whether a child process has exited. It is not waited for, so that its number and that of
/// its group are not reused yet.
fn has_exited(child: Pid) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    matches!(waitid(WaitId::Pid(child), options), Ok(Some(_)) | Err(_))
}

/// Sends SIGTERM to the group that a child process leads, and SIGKILL after [`TERM_GRACE`]. Waits
/// until the group has exited.
async fn end_group(mut child: Child, group: Pid) -> Result<ExitStatus> {
    // A stopped process handles SIGTERM once it continues. Both fail if the group has exited.
    let _ = kill_process_group(group, Signal::TERM);
    let _ = kill_process_group(group, Signal::CONT);
    let deadline = Instant::now() + TERM_GRACE;
    loop {
        // An exited leader counts as a member of the group until it is waited for.
        let _ = child.try_wait();
        if test_kill_process_group(group).is_err() {
            break;
        }
        if Instant::now() >= deadline {
            let _ = kill_process_group(group, Signal::KILL);
            break;
        }
        sleep(POLL_INTERVAL).await;
    }
    child.wait().context("cannot wait for the command")
}
