//! Shutdown of Spin and of the host.

use anyhow::{Result, ensure};
use rustix::process::Signal;
use tests::{Server, TIMEOUT, read_response};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::fixture::{Spin, app};

/// Sends a request whose response takes a second, and returns once the component responds.
async fn slow_request(host: &Server) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(host.address).await?;
    let request = format!(
        "GET /stream?chunks=10&ms=100 HTTP/1.1\r\nHost: {}\r\n\r\n",
        host.address
    );
    stream.write_all(request.as_bytes()).await?;
    stream.readable().await?;
    Ok(stream)
}

#[tokio::test]
async fn spin_ends_after_the_host_has_drained() -> Result<()> {
    for signal in [Signal::TERM, Signal::INT] {
        let (spin, app) = (Spin::new(), app(""));
        let host = spin.serve(app.path(), &[])?;
        let mut stream = slow_request(&host).await?;
        host.signal(signal)?;
        host.wait_for_log(&["Shutting down"]).await?;
        let response = tokio::time::timeout(TIMEOUT, read_response(&mut stream, true)).await??;
        ensure!(response.status == 200, "{signal:?}: {response:?}");
        ensure!(host.wait().await? == Some(0), "{signal:?}");
        spin.record()?.expect_exited()?;
    }
    Ok(())
}

/// Ctrl-C in a terminal sends SIGINT to the foreground process group.
#[tokio::test]
async fn a_signal_to_the_group_reaches_only_the_host() -> Result<()> {
    use std::os::unix::process::CommandExt as _;
    let (spin, app) = (Spin::new(), app(""));
    let mut command = spin.command(app.path());
    command.process_group(0);
    let host = Server::run(command, &[])?;
    let [parent, _] = spin.record()?.processes()?;
    let supervisor = parent.parent()?;
    let mut stream = slow_request(&host).await?;
    rustix::process::kill_process_group(supervisor.parent()?.0, Signal::INT)?;
    // As would `killall socket-host`.
    supervisor.signal(Signal::INT)?;
    supervisor.signal(Signal::TERM)?;
    let response = tokio::time::timeout(TIMEOUT, read_response(&mut stream, true)).await??;
    ensure!(response.status == 200, "{response:?}");
    ensure!(host.wait().await? == Some(0));
    spin.record()?.expect_exited()
}

#[tokio::test]
async fn a_killed_host_takes_spin_with_it() -> Result<()> {
    let (spin, app) = (Spin::new(), app(""));
    let host = spin.serve(app.path(), &[])?;
    host.signal(Signal::KILL)?;
    ensure!(host.wait().await?.is_none());
    spin.record()?.wait_for_exit().await?;

    let (spin, app) = (Spin::new(), crate::fixture::app(""));
    let (mut starting, record) = spin.start_without_waiting(app.path(), "wait").await?;
    starting.kill()?;
    starting.wait()?;
    record.wait_for_exit().await
}

/// `killall -KILL socket-host` also kills the supervisor.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn spin_ends_without_host_and_supervisor() -> Result<()> {
    let (spin, app) = (Spin::new(), app(""));
    let host = spin.serve(app.path(), &[])?;
    let record = spin.record()?;
    let [parent, _] = record.processes()?;
    parent.parent()?.signal(Signal::KILL)?;
    host.signal(Signal::KILL)?;
    record.wait_for_exit().await
}

#[tokio::test]
async fn the_host_ends_when_spin_does() -> Result<()> {
    // SIGKILL of the parent leaves the child, which owns the port.
    for (name, signal) in [
        ("child", Signal::KILL),
        ("parent", Signal::KILL),
        ("parent", Signal::TERM),
        ("supervisor", Signal::KILL),
    ] {
        let (spin, app) = (Spin::new(), app(""));
        let host = spin.serve(app.path(), &[])?;
        ensure!(host.get("/").await?.0 == 200);
        let record = spin.record()?;
        let [parent, child] = record.processes()?;
        let process = match name {
            "child" => child,
            "parent" => parent,
            _ => parent.parent()?,
        };
        process.signal(signal)?;
        let error = host.wait_for_log(&["`spin up`"]).await?;
        ensure!(error.starts_with("error: `spin up` "), "{error}");
        ensure!(
            name != "supervisor" || error.ends_with("lost its supervisor to signal 9"),
            "{error}"
        );
        let log = host.log();
        ensure!(host.wait().await? == Some(1), "{name} {signal:?}");
        record.wait_for_exit().await?;
        // The failure is not printed again at the exit.
        let log = log.text();
        ensure!(log.matches("`spin up`").count() == 1, "{log}");
    }
    Ok(())
}

#[tokio::test]
async fn a_spin_that_does_not_end_is_killed() -> Result<()> {
    let (spin, app) = (Spin::new(), app(""));
    let mut command = spin.command(app.path());
    command.env("STAND_IN_MODE", "stubborn");
    let host = Server::run(command, &[])?;
    let record = spin.record()?;
    host.signal(Signal::TERM)?;
    ensure!(host.wait().await? == Some(0));
    record.expect_exited()
}
