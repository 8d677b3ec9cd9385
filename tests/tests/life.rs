//! The host's life: what it says when it cannot start, what it survives, and how it ends.

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
    PATIENCE, Server, burger, eventually, probe, program, read_answer, request, workspace,
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

#[tokio::test]
async fn a_signal_closes_sockets_with_1001_and_the_exit_code_is_0() -> Result<()> {
    for signal in [Signal::TERM, Signal::HUP] {
        let folder = burger("20ms..40ms");
        // Whoever runs the tests may ignore SIGHUP, and what is ignored is inherited.
        let mut command = Command::new("env");
        command
            .arg("--default-signal=HUP")
            .arg(program())
            .args(["up", "--from"])
            .arg(folder.path());
        let host = Server::run(command, &["--quiet"])?;
        let mut sockets = Vec::new();
        for _ in 0..20 {
            sockets.push(host.socket("/api/ws").await?);
        }
        host.signal(signal)?;
        for socket in &mut sockets {
            ensure!(socket.closed().await? == Some(1001), "{signal:?}");
        }
        let log = host.log();
        ensure!(host.ended().await? == Some(0), "{signal:?}");
        let log = log.lock().map(|log| log.clone()).unwrap_or_default();
        ensure!(!log.contains("ERROR"), "{log}");
    }
    Ok(())
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_host_that_is_to_outlive_its_terminal_does() -> Result<()> {
    let folder = burger("20ms..40ms");
    let mut command = Command::new("nohup");
    command
        .arg(program())
        .arg("up")
        .arg("--from")
        .arg(folder.path());
    let host = Server::run(command, &["--quiet"])?;
    let mut socket = host.socket("/api/ws").await?;
    host.signal(Signal::HUP)?;
    for _ in 0..20 {
        socket.send(r#"{"event":"ping"}"#).await?;
        socket.event_named("pong").await?;
    }
    host.signal(Signal::TERM)?;
    ensure!(host.ended().await? == Some(0));
    Ok(())
}

#[test]
fn check_finds_a_key_that_is_none() -> Result<()> {
    let folder = burger("1h");
    let check = |key: &str| {
        Command::new(program())
            .args(["check", "--from"])
            .arg(folder.path())
            .env("SPIN_VARIABLE_GRIP_KEY", key)
            .output()
    };
    let wrong = check("base64:!")?;
    let told = String::from_utf8_lossy(&wrong.stderr);
    ensure!(
        wrong.status.code() == Some(1) && told.contains("grip_key"),
        "{told}"
    );
    ensure!(check("base64:a2V5")?.status.success());
    Ok(())
}

#[tokio::test]
async fn a_request_under_way_is_finished_when_the_host_stops() -> Result<()> {
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
        let ready = asked(host.control, "/readyz").await?;
        ensure!(ready == (503, "stopping\n".to_owned()), "{ready:?}");
        let answer = tokio::time::timeout(PATIENCE, read_answer(&mut stream, true)).await??;
        let whole = request_whole(folder.path()).await?;
        ensure!(answer.status == 200 && answer.body == whole, "{answer:?}");
        ensure!(host.ended().await? == Some(0));
    }
    Ok(())
}

/// What `/stream` answers when nothing comes between.
async fn request_whole(folder: &Path) -> Result<String> {
    let host = Server::start(folder, &[])?;
    Ok(host.get("/stream?chunks=10&ms=0").await?.1)
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() -> Result<()> {
    let folder = probe("");
    let host = Server::start(folder.path(), &[])?;
    let mut stream = TcpStream::connect(host.address).await?;
    stream
        .write_all(format!("GET /hang HTTP/1.1\r\nHost: {}\r\n\r\n", host.address).as_bytes())
        .await?;
    // Under way for sure once another request was answered after it.
    ensure!(host.get("/headers").await?.0 == 200);
    host.signal(Signal::TERM)?;
    host.logged(&["Stopping"]).await?;
    host.signal(Signal::TERM)?;
    ensure!(host.ended().await? == Some(1));
    Ok(())
}

/// Makes `path` a component's file that is never read to its end.
fn endless(path: &Path) -> Result<()> {
    let pipe = path.with_extension("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status()?;
    ensure!(made.success(), "mkfifo: {made}");
    Ok(std::fs::rename(pipe, path)?)
}

/// Waits until it is being read; that goes on until this is dropped.
async fn is_read(path: &Path) -> Result<OwnedFd> {
    eventually("a reader of the component's file", async || {
        // Without one, a pipe cannot be opened in this way.
        let flags = OFlags::WRONLY | OFlags::NONBLOCK;
        rustix::fs::open(path, flags, Mode::empty()).ok()
    })
    .await
}

/// What a port answers to a GET.
async fn asked(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let asked = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let answer = request(address, &asked).await?;
    Ok((answer.status, answer.body))
}

/// The probe, and its wasm in the application's own folder.
fn probe_beside() -> Result<(TempDir, PathBuf)> {
    let folder = probe("");
    let manifest = folder.path().join("spin.toml");
    let text = std::fs::read_to_string(&manifest)?;
    let built = text.split('"').find(|part| part.ends_with(".wasm"));
    let built = built.context("a source")?;
    let own = folder.path().join("probe.wasm");
    std::fs::copy(built, &own)?;
    std::fs::write(&manifest, text.replace(built, "probe.wasm"))?;
    Ok((folder, own))
}

#[tokio::test]
async fn a_signal_ends_it_while_components_are_compiled() -> Result<()> {
    let (folder, wasm) = probe_beside()?;
    endless(&wasm)?;
    // One that is free, since it says its addresses only when it serves.
    let control = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let mut child = Command::new(program())
        .args(["up", "--listen", "127.0.0.1:0", "--control"])
        .arg(control.to_string())
        .arg("--from")
        .arg(folder.path())
        .spawn()?;
    let _reading = is_read(&wasm).await?;
    let ready = asked(control, "/readyz").await?;
    ensure!(ready == (503, "starting\n".to_owned()), "{ready:?}");
    let health = asked(control, "/healthz").await?;
    ensure!(
        health.0 == 200 && health.1.contains("starting"),
        "{health:?}"
    );
    kill_process(Pid::from_child(&child), Signal::TERM)?;
    let ended = eventually("its end", async || child.try_wait().ok().flatten()).await;
    child.kill()?;
    ensure!(ended?.code() == Some(0));
    Ok(())
}

#[tokio::test]
async fn a_component_that_is_being_exchanged_is_not_waited_for() -> Result<()> {
    let (folder, wasm) = probe_beside()?;
    let host = Server::start(folder.path(), &["--watch"])?;
    endless(&wasm)?;
    let _reading = is_read(&wasm).await?;
    ensure!(host.get("/headers").await?.0 == 200);
    host.signal(Signal::TERM)?;
    ensure!(host.ended().await? == Some(0));
    Ok(())
}

#[tokio::test]
async fn whoever_reads_its_output_may_be_gone() -> Result<()> {
    let closed = || std::io::pipe().map(|(_, writer)| writer);
    let folder = probe("");
    let mut child = Command::new(program())
        .env("RUST_LOG", "debug")
        .args(["up", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"])
        .arg("--from")
        .arg(folder.path())
        .stdout(Stdio::piped())
        .stderr(closed()?)
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
    let first = lines.next().context("its first line")??;
    drop(lines);
    let address = first
        .strip_prefix("Serving http://")
        .context("an address")?;
    for (path, status) in [
        ("/print?line=x", 200),
        ("/trap", 500),
        ("/print?line=x", 200),
    ] {
        let asked = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
        let answer = request(address.parse()?, &asked).await?;
        ensure!(answer.status == status, "{path}: {answer:?}");
    }
    kill_process(Pid::from_child(&child), Signal::TERM)?;
    let ended = eventually("its end", async || child.try_wait().ok().flatten()).await;
    child.kill()?;
    ensure!(ended?.code() == Some(0));

    for command in [&["check"][..], &["up", "--control", "127.0.0.1:0"]] {
        let ended = Command::new(program())
            .args(command)
            .args(["--from", "/nowhere"])
            .stdout(closed()?)
            .stderr(closed()?)
            .status()?;
        ensure!(ended.code() == Some(1), "{command:?}: {ended}");
    }
    Ok(())
}

#[tokio::test]
async fn a_trap_is_a_500_and_the_host_lives_on() -> Result<()> {
    let folder = probe("");
    let host = Server::start(folder.path(), &[])?;
    for _ in 0..3 {
        let (status, body) = host.get("/trap").await?;
        ensure!(status == 500 && !body.contains("wasm"), "{status} {body}");
        ensure!(host.get("/headers").await?.0 == 200);
    }
    host.logged(&["component", "probe", "/..."]).await?;
    host.logged(&["unreachable"]).await?;
    Ok(())
}

#[tokio::test]
async fn a_component_that_never_answers_is_cut_at_its_deadline() -> Result<()> {
    let folder = probe("");
    // Also the deadline of what is answered at once, on a machine that may stall.
    let host = Server::start(folder.path(), &["--request-timeout", "3s"])?;
    for path in ["/hang", "/spin"] {
        ensure!(host.get(path).await?.0 == 504, "{path}");
        ensure!(host.get("/headers").await?.0 == 200, "after {path}");
    }
    Ok(())
}

#[tokio::test]
async fn http_is_served_as_http() -> Result<()> {
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
        ensure!(read_answer(&mut stream, true).await?.status == 200);
    }
    // HEAD has no body, and the connection goes on.
    stream
        .write_all(format!("HEAD /headers HTTP/1.1\r\nHost: {}\r\n\r\n", host.address).as_bytes())
        .await?;
    ensure!(read_answer(&mut stream, false).await?.status == 200);
    // A body is asked for before it is sent.
    let head = format!(
        "POST /echo HTTP/1.1\r\nHost: {}\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        host.address
    );
    stream.write_all(head.as_bytes()).await?;
    ensure!(read_answer(&mut stream, false).await?.status == 100);
    stream.write_all(b"hello").await?;
    let echoed = read_answer(&mut stream, true).await?;
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
async fn what_keeps_it_from_starting_is_said() -> Result<()> {
    let fails = async |folder: &Path, options: &[&str], words: &[&str]| -> Result<()> {
        let error = match Server::start(folder, options) {
            Ok(_) => anyhow::bail!("it starts, without {words:?}"),
            Err(error) => error.to_string(),
        };
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
fn check_says_what_would_be_served() -> Result<()> {
    let check = |folder: &Path| {
        Command::new(program())
            .args(["check", "--from"])
            .arg(folder)
            .output()
            .context("socket-host check")
    };
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
