//! Life cycle of the host: start, failures and shutdown.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use rustix::{
    fs::{Mode, OFlags},
    process::{Pid, Signal, kill_process},
};
use tempfile::TempDir;
use tests::{
    COMPONENT_PING, Server, TIMEOUT, burger, eventually, host_binary, probe, read_response,
    request, socket_host, without_terminal, workspace,
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

#[tokio::test]
async fn signals_close_sockets_with_1001_and_exit_with_0() -> Result<()> {
    for signal in [Signal::TERM, Signal::INT] {
        let folder = burger("20ms..40ms");
        let host = Server::start(folder.path(), &["--quiet"])?;
        let mut sockets = Vec::new();
        for _ in 0..20 {
            sockets.push(host.socket("/api/ws").await?);
        }
        host.signal(signal)?;
        for socket in &mut sockets {
            ensure!(socket.closed().await? == Some(1001), "{signal:?}");
        }
        let log = host.log();
        ensure!(host.wait().await? == Some(0), "{signal:?}");
        let log = log.text();
        ensure!(!log.contains("ERROR"), "{log}");
    }
    Ok(())
}

#[tokio::test]
async fn a_terminal_that_is_closed_drains_the_host() -> Result<()> {
    let folder = burger("20ms..40ms");
    // `script` opens a terminal, which is closed when it is killed. An ignored SIGHUP would be
    // inherited from the test's parent.
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            "exec env --default-signal=HUP script -qec \"$*\" /dev/null",
            "sh",
        ])
        .arg(host_binary())
        .args(["up", "--from"])
        .arg(folder.path());
    let host = Server::run(command, &["--quiet"])?;
    let mut socket = host.socket("/api/ws").await?;
    host.signal(Signal::KILL)?;
    ensure!(socket.closed().await? == Some(1001));
    Ok(())
}

#[tokio::test]
async fn a_hangup_without_a_terminal_changes_nothing() -> Result<()> {
    serves_after_a_hangup(without_terminal()).await
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn nohup_ignores_hangups() -> Result<()> {
    serves_after_a_hangup(Command::new("nohup")).await
}

/// Runs the host with a command, and checks that SIGHUP changes nothing for its sockets.
async fn serves_after_a_hangup(mut command: Command) -> Result<()> {
    let folder = burger("20ms..40ms");
    command
        .arg(host_binary())
        .args(["up", "--from"])
        .arg(folder.path());
    let host = Server::run(command, &["--quiet"])?;
    let mut socket = host.socket("/api/ws").await?;
    host.signal(Signal::HUP)?;
    for _ in 0..20 {
        socket.send(COMPONENT_PING).await?;
        socket.event_named("pong").await?;
    }
    host.signal(Signal::TERM)?;
    ensure!(host.wait().await? == Some(0));
    Ok(())
}

#[test]
fn check_rejects_an_invalid_key() -> Result<()> {
    let folder = burger("1h");
    let check = |key: &str| {
        Command::new(host_binary())
            .args(["check", "--from"])
            .arg(folder.path())
            .env("SPIN_VARIABLE_GRIP_KEY", key)
            .output()
    };
    let output = check("base64:!")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(1) && error.contains("grip_key"),
        "{error}"
    );
    ensure!(check("base64:a2V5")?.status.success());
    Ok(())
}

#[tokio::test]
async fn running_requests_complete_at_shutdown() -> Result<()> {
    for signal in [Signal::TERM, Signal::INT] {
        let folder = probe("");
        let host = Server::start(folder.path(), &[])?;
        let mut stream = TcpStream::connect(host.address).await?;
        stream
            .write_all(
                format!(
                    "GET /stream?chunks=10&ms=100 HTTP/1.1\r\nHost: {}\r\n\r\n",
                    host.address
                )
                .as_bytes(),
            )
            .await?;
        stream.readable().await?;
        let address = host.address;
        host.signal(signal)?;
        eventually("the listener to close", async || {
            TcpStream::connect(address).await.is_err().then_some(())
        })
        .await?;
        let ready = get(host.control, "/readyz").await?;
        ensure!(ready == (503, "stopping\n".to_owned()), "{ready:?}");
        let response = tokio::time::timeout(TIMEOUT, read_response(&mut stream, true)).await??;
        let expected = stream_body(folder.path()).await?;
        ensure!(
            response.status == 200 && response.body == expected,
            "{response:?}"
        );
        ensure!(host.wait().await? == Some(0));
    }
    Ok(())
}

/// Returns the complete body of `/stream`.
async fn stream_body(folder: &Path) -> Result<String> {
    let host = Server::start(folder, &[])?;
    Ok(host.get("/stream?chunks=10&ms=0").await?.1)
}

#[tokio::test]
async fn a_second_signal_exits_at_once() -> Result<()> {
    let folder = probe("");
    let host = Server::start(folder.path(), &[])?;
    let mut stream = TcpStream::connect(host.address).await?;
    stream
        .write_all(format!("GET /hang HTTP/1.1\r\nHost: {}\r\n\r\n", host.address).as_bytes())
        .await?;
    // Certainly running once a later request has completed.
    ensure!(host.get("/headers").await?.0 == 200);
    host.signal(Signal::TERM)?;
    host.wait_for_log(&["Shutting down"]).await?;
    host.signal(Signal::TERM)?;
    ensure!(host.wait().await? == Some(1));
    Ok(())
}

/// Replaces a component's file with a pipe, so that reading it blocks.
fn block_reads(path: &Path) -> Result<()> {
    let pipe = path.with_extension("pipe");
    let status = Command::new("mkfifo").arg(&pipe).status()?;
    ensure!(status.success(), "mkfifo: {status}");
    Ok(std::fs::rename(pipe, path)?)
}

/// Waits until the pipe is being read. The read blocks until the result is dropped.
async fn wait_for_reader(path: &Path) -> Result<OwnedFd> {
    eventually("a reader of the component's file", async || {
        // Fails unless the pipe has a reader.
        let flags = OFlags::WRONLY | OFlags::NONBLOCK;
        rustix::fs::open(path, flags, Mode::empty()).ok()
    })
    .await
}

/// Sends a GET request and returns the status and the body.
async fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let bytes = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let response = request(address, &bytes).await?;
    Ok((response.status, response.body))
}

/// Writes the probe application with a copy of its component and returns the copy's path.
fn probe_with_copy() -> Result<(TempDir, PathBuf)> {
    let folder = probe("");
    let manifest = folder.path().join("spin.toml");
    let text = std::fs::read_to_string(&manifest)?;
    let built = text.split('"').find(|part| part.ends_with(".wasm"));
    let built = built.context("no source in the manifest")?;
    let copy = folder.path().join("probe.wasm");
    std::fs::copy(built, &copy)?;
    std::fs::write(&manifest, text.replace(built, "probe.wasm"))?;
    Ok((folder, copy))
}

#[tokio::test]
async fn a_signal_during_startup_exits_with_0() -> Result<()> {
    let (folder, wasm) = probe_with_copy()?;
    block_reads(&wasm)?;
    // A fixed port, since the host prints its addresses only once it serves.
    let control = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let mut child = Command::new(host_binary())
        .args(["up", "--listen", "127.0.0.1:0", "--control"])
        .arg(control.to_string())
        .arg("--from")
        .arg(folder.path())
        .spawn()?;
    let _reading = wait_for_reader(&wasm).await?;
    let ready = get(control, "/readyz").await?;
    ensure!(ready == (503, "starting\n".to_owned()), "{ready:?}");
    let health = get(control, "/healthz").await?;
    ensure!(
        health.0 == 200 && health.1.contains("starting"),
        "{health:?}"
    );
    kill_process(Pid::from_child(&child), Signal::TERM)?;
    let status = eventually("the exit", async || child.try_wait().ok().flatten()).await;
    child.kill()?;
    ensure!(status?.code() == Some(0));
    Ok(())
}

#[tokio::test]
async fn shutdown_does_not_wait_for_a_reload() -> Result<()> {
    let (folder, wasm) = probe_with_copy()?;
    let host = Server::start(folder.path(), &["--watch"])?;
    block_reads(&wasm)?;
    let _reading = wait_for_reader(&wasm).await?;
    ensure!(host.get("/headers").await?.0 == 200);
    host.signal(Signal::TERM)?;
    ensure!(host.wait().await? == Some(0));
    Ok(())
}

#[tokio::test]
async fn closed_output_pipes_are_ignored() -> Result<()> {
    let closed = || std::io::pipe().map(|(_, writer)| writer);
    let folder = probe("");
    let mut child = Command::new(host_binary())
        .env("RUST_LOG", "debug")
        .args(["up", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"])
        .arg("--from")
        .arg(folder.path())
        .stdout(Stdio::piped())
        .stderr(closed()?)
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
    let first = lines.next().context("no output")??;
    drop(lines);
    let address = first
        .strip_prefix("Serving http://")
        .context("no address in the output")?;
    for (path, status) in [
        ("/print?line=x", 200),
        ("/trap", 500),
        ("/print?line=x", 200),
    ] {
        let bytes = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
        let response = request(address.parse()?, &bytes).await?;
        ensure!(response.status == status, "{path}: {response:?}");
    }
    kill_process(Pid::from_child(&child), Signal::TERM)?;
    let status = eventually("the exit", async || child.try_wait().ok().flatten()).await;
    child.kill()?;
    ensure!(status?.code() == Some(0));

    for command in [&["check"][..], &["up", "--control", "127.0.0.1:0"]] {
        let status = Command::new(host_binary())
            .args(command)
            .args(["--from", "/nowhere"])
            .stdout(closed()?)
            .stderr(closed()?)
            .status()?;
        ensure!(status.code() == Some(1), "{command:?}: {status}");
    }
    Ok(())
}

#[tokio::test]
async fn a_trap_is_a_500_and_the_host_keeps_serving() -> Result<()> {
    let folder = probe("");
    let host = Server::start(folder.path(), &[])?;
    for _ in 0..3 {
        let (status, body) = host.get("/trap").await?;
        ensure!(status == 500 && !body.contains("wasm"), "{status} {body}");
        ensure!(host.get("/headers").await?.0 == 200);
    }
    host.wait_for_log(&["component", "probe", "/..."]).await?;
    host.wait_for_log(&["unreachable"]).await?;
    Ok(())
}

#[tokio::test]
async fn a_component_without_a_response_is_a_504() -> Result<()> {
    let folder = probe("");
    // Applies to fast requests too: long enough for a machine that stalls.
    let host = Server::start(folder.path(), &["--request-timeout", "3s"])?;
    for path in ["/hang", "/spin"] {
        ensure!(host.get(path).await?.0 == 504, "{path}");
        ensure!(host.get("/headers").await?.0 == 200, "after {path}");
    }
    Ok(())
}

#[tokio::test]
async fn http_1_1_is_supported() -> Result<()> {
    let folder = probe("");
    let host = Server::start(folder.path(), &[])?;
    // Two requests on one connection.
    let mut stream = TcpStream::connect(host.address).await?;
    for _ in 0..2 {
        stream
            .write_all(
                format!("GET /headers HTTP/1.1\r\nHost: {}\r\n\r\n", host.address).as_bytes(),
            )
            .await?;
        ensure!(read_response(&mut stream, true).await?.status == 200);
    }
    // HEAD has no body, and the connection is kept.
    stream
        .write_all(format!("HEAD /headers HTTP/1.1\r\nHost: {}\r\n\r\n", host.address).as_bytes())
        .await?;
    ensure!(read_response(&mut stream, false).await?.status == 200);
    // `100 Continue` requests the body.
    let head = format!(
        "POST /echo HTTP/1.1\r\nHost: {}\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        host.address
    );
    stream.write_all(head.as_bytes()).await?;
    ensure!(read_response(&mut stream, false).await?.status == 100);
    stream.write_all(b"hello").await?;
    let echoed = read_response(&mut stream, true).await?;
    ensure!(
        echoed.status == 200 && echoed.body.contains("hello"),
        "{echoed:?}"
    );
    ensure!(
        request(host.address, "GET / HTTP/1.1\r\n\r\n")
            .await?
            .status
            == 400,
        "no Host"
    );
    ensure!(
        request(host.address, "nonsense\r\n\r\n").await?.status == 400,
        "nonsense"
    );
    Ok(())
}

#[tokio::test]
async fn start_errors_name_their_cause() -> Result<()> {
    let fails = async |folder: &Path, options: &[&str], words: &[&str]| -> Result<()> {
        let error = Server::start_error(folder, options)?;
        for word in words {
            ensure!(error.contains(word), "no {word:?} in {error}");
        }
        ensure!(!error.contains("panicked"), "{error}");
        Ok(())
    };
    let folder = probe("");
    let host = Server::start(folder.path(), &[])?;
    let taken = host.address.to_string();
    fails(
        folder.path(),
        &["--listen", &taken],
        &[&taken, "in use", "--listen"],
    )
    .await?;
    fails(
        folder.path(),
        &["--control", &taken],
        &[&taken, "in use", "--control"],
    )
    .await?;
    fails(folder.path(), &["--control", "0.0.0.0:0"], &["--grip-key"]).await?;
    fails(
        folder.path(),
        &["--upstream", "127.0.0.1:1"],
        &["--upstream", "http://"],
    )
    .await?;
    for timeout in ["1000years", "1ms", "soon"] {
        fails(
            folder.path(),
            &["--request-timeout", timeout],
            &["--request-timeout", timeout],
        )
        .await?;
    }
    fails(folder.path(), &["--variable", "nothing=1"], &["nothing"]).await?;
    fails(
        probe("sauce = 1").path(),
        &[],
        &["spin.toml", "component.probe.sauce"],
    )
    .await?;
    fails(
        probe("[application.tool.socket-host]\nprivat = []").path(),
        &[],
        &["application.tool.socket-host.privat"],
    )
    .await?;
    fails(
        probe("[[trigger.redis]]\nchannel = \"x\"").path(),
        &[],
        &["redis"],
    )
    .await?;
    let missing = probe("");
    let manifest = missing.path().join("spin.toml");
    let text = std::fs::read_to_string(&manifest)?.replace("probe.wasm", "missing.wasm");
    std::fs::write(
        &manifest,
        text + "[component.probe.build]\ncommand = \"make it\"\n",
    )?;
    fails(missing.path(), &[], &["missing.wasm", "make it"]).await?;
    fails(Path::new("/nowhere"), &[], &["/nowhere"]).await?;
    Ok(())
}

#[test]
fn check_prints_the_routes_and_timers() -> Result<()> {
    let check = |folder: &Path| socket_host(&["check"], folder);
    let output = check(workspace())?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for line in [
        "/api/... → orders",
        "/internal/... → orders (private)",
        "POST /internal/orders every 2s to 6s",
    ] {
        ensure!(text.contains(line), "no {line:?} in {text}");
    }
    let broken = check(probe("sauce = 1").path())?;
    ensure!(!broken.status.success() && String::from_utf8(broken.stderr)?.contains("sauce"));
    Ok(())
}
