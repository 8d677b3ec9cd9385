//! `socket-host publish`, `tail`, `sessions` and `close`.

use std::{
    process::Stdio,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use grip::{Key, signature::sign};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tests::{Server, burger_without_timer, eventually, free_address, workspace};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout},
    time::timeout,
};

use crate::{command, error, run, run_with_input, stdout};

/// What is published until a client follows the channel.
const READY: &str = "are you ready?";

/// A running `socket-host tail`.
struct Tail {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Tail {
    /// Starts the command, and waits until it follows the channel.
    async fn start(host: &Server, arguments: &[&str]) -> Result<Self> {
        let control = host.control.to_string();
        let mut child = command(&[&["tail", "--control", &control], arguments].concat())
            .stderr(Stdio::inherit())
            .spawn()?;
        let stdout = child.stdout.take().context("stdout")?;
        let mut lines = BufReader::new(stdout).lines();
        let item = json!({"channel": "news", "formats": {"ws-message": {"content": READY}}});
        let body = json!({"items": [item]}).to_string();
        eventually("a client that follows the channel", async || {
            host.publish("", &body).await.ok()?;
            let pause = Duration::from_millis(100);
            timeout(pause, lines.next_line()).await.ok()?.ok()?
        })
        .await?;
        Ok(Self { child, lines })
    }

    async fn next(&mut self) -> Result<String> {
        loop {
            let line = timeout(tests::TIMEOUT, self.lines.next_line()).await;
            let line = line.context("nothing is printed")??;
            let line = line.context("the command has ended")?;
            if !line.contains(READY) {
                return Ok(line);
            }
        }
    }
}

#[tokio::test]
async fn what_is_published_reaches_sockets_and_tails() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &[])?;
    let control = host.control.to_string();
    let publish = ["publish", "--control", &control];
    let with = |arguments: &[&'static str]| [&publish[..], arguments].concat();
    ensure!(stdout(&with(&["news", "nobody"])).await? == "Published to 0 subscribers\n");
    let mut socket = host.socket("/api/ws").await?;
    let text = r#"{"event":"a"}"#;
    ensure!(stdout(&with(&["orders", text])).await? == "Published to 1 subscriber\n");
    ensure!(socket.event().await? == json!({"event": "a"}));
    let report = stdout(&with(&["orders", text, "--json"])).await?;
    let report: Value = serde_json::from_str(&report)?;
    ensure!(report["subscribers"]["orders"] == 1, "{report}");
    socket.event().await?;

    let mut tail = Tail::start(&host, &["news"]).await?;
    let mut json_tail = Tail::start(&host, &["news", "--json"]).await?;
    stdout(&with(&["news", "hello", "--id", "7"])).await?;
    ensure!(tail.next().await? == "hello");
    let item: Value = serde_json::from_str(&json_tail.next().await?)?;
    ensure!(item["id"] == "7" && item["channel"] == "news", "{item}");
    stdout(&with(&["news", "event", "--as", "sse,response"])).await?;
    ensure!(tail.next().await? == "data: event");
    let item: Value = serde_json::from_str(&json_tail.next().await?)?;
    ensure!(
        item["formats"]["http-response"]["body"] == "event",
        "{item}"
    );
    ensure!(item["formats"]["ws-message"].is_null(), "{item}");
    // From stdin, also binary.
    for (arguments, input, shown) in [
        (&["news"][..], &b"piped"[..], "piped"),
        (&["news", "-"], b"\xff\xfe", "base64://4="),
    ] {
        let published = run_with_input(&with(arguments), input).await?;
        ensure!(published.status.success(), "{published:?}");
        ensure!(tail.next().await? == shown);
    }

    let pid = tail.child.id().context("running")?;
    let pid = Pid::from_raw(pid.cast_signed()).context("a process id")?;
    kill_process(pid, Signal::INT)?;
    let status = timeout(tests::TIMEOUT, tail.child.wait()).await??;
    ensure!(status.code() == Some(0), "{status}");
    host.signal(Signal::TERM)?;
    let status = timeout(tests::TIMEOUT, json_tail.child.wait()).await??;
    ensure!(status.code() == Some(1), "the host has ended: {status}");
    Ok(())
}

#[tokio::test]
async fn a_tail_begins_with_recent_items_and_ends_with_its_reader() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &[])?;
    let control = host.control.to_string();
    for text in ["a", "b", "c"] {
        stdout(&["publish", "--control", &control, "orders", text]).await?;
    }
    let shell = format!(
        "{} tail --control {control} orders -n 2 | head -n 1",
        tests::host_binary().display()
    );
    let child = tokio::process::Command::new("sh")
        .args(["-c", &shell])
        .stdout(Stdio::piped())
        .spawn()?;
    // The command detects the closed pipe when it writes the next item.
    let publishing = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if let Err(error) = stdout(&["publish", "--control", &control, "orders", "d"]).await {
                return error;
            }
        }
    };
    let output = tokio::select! {
        output = timeout(tests::TIMEOUT, child.wait_with_output()) => output??,
        error = publishing => return Err(error),
    };
    ensure!(output.stdout == b"b\n", "{output:?}");
    Ok(())
}

#[tokio::test]
async fn sessions_are_printed_and_closed() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &[])?;
    let control = host.control.to_string();
    let empty = stdout(&["sessions", "--control", &control]).await?;
    ensure!(
        empty.lines().count() == 1 && empty.starts_with("CONNECTION "),
        "{empty}"
    );
    let mut sockets = Vec::new();
    for _ in 0..3 {
        sockets.push(host.socket("/api/ws").await?);
    }
    let table = stdout(&["sessions", "--control", &control]).await?;
    let rows: Vec<Vec<&str>> = table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect())
        .collect();
    ensure!(
        rows.len() == 3
            && rows
                .iter()
                .all(|row| row[1..4] == ["/api/ws", "127.0.0.1", "open"]),
        "{table}"
    );
    ensure!(!table.contains('\u{1b}'), "{table}");
    let json = stdout(&["sessions", "--control", &control, "--json"]).await?;
    let newest: Value = serde_json::from_str(json.lines().next().context("a line")?)?;
    ensure!(newest["connection"] == rows[0][0], "{json}");
    let limited = run(&["sessions", "--control", &control, "--limit", "2"]).await?;
    ensure!(limited.status.success());
    let hint = String::from_utf8(limited.stderr)?;
    ensure!(
        hint == "not shown: 1. Raise --limit to see more\n",
        "{hint}"
    );

    let (newest, oldest) = (rows[0][0], rows[2][0]);
    let arguments = [
        "close",
        "--control",
        &control,
        newest,
        "--code",
        "4001",
        "--reason",
        "a b",
    ];
    let closed = stdout(&arguments);
    ensure!(closed.await? == format!("Closed {newest}\n"));
    ensure!(sockets[2].closed().await? == Some(4001));
    // The others are closed if one has gone.
    let output = run(&["close", "--control", &control, newest, oldest]).await?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    ensure!(
        output.stdout == format!("Closed {oldest}\n").as_bytes(),
        "{output:?}"
    );
    let text = String::from_utf8(output.stderr)?;
    ensure!(
        text.contains(newest) && text.contains("no WebSocket has this id"),
        "{text}"
    );
    ensure!(sockets[0].closed().await? == Some(1008));
    let invalid = error(&["close", "--control", &control, oldest, "--code", "1005"]).await?;
    ensure!(invalid.contains("code: expected a close code"), "{invalid}");
    Ok(())
}

#[tokio::test]
async fn commands_need_the_key_of_a_host_that_has_one() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &["--grip-key", "secret"])?;
    let control = host.control.to_string();
    let sessions = ["sessions", "--control", &control];
    let missing = error(&sessions).await?;
    ensure!(
        missing.contains("missing token") && missing.contains("--grip-key"),
        "{missing}"
    );
    let wrong = error(&[&sessions[..], &["--grip-key", "other"]].concat()).await?;
    ensure!(wrong.contains("invalid token"), "{wrong}");
    stdout(&[&sessions[..], &["--grip-key", "secret"]].concat()).await?;
    let token = sign(
        &Key::parse("secret")?,
        "tests",
        SystemTime::now(),
        Duration::from_secs(60),
    );
    stdout(&[&sessions[..], &["--token", &token]].concat()).await?;
    let by_environment = command(&["sessions"])
        .env("SOCKET_HOST_CONTROL", format!("http://{control}"))
        .env("SOCKET_HOST_GRIP_KEY", "secret")
        .output()
        .await?;
    ensure!(by_environment.status.success(), "{by_environment:?}");
    Ok(())
}

#[tokio::test]
async fn errors_say_what_to_do() -> Result<()> {
    let nowhere = free_address()?.to_string();
    for arguments in [
        &["sessions"][..],
        &["publish", "a", "b"],
        &["tail", "a"],
        &["close", "0f0f0f0f-0f0f-4f0f-8f0f-0f0f0f0f0f0f"],
    ] {
        let text = error(&[arguments, &["--control", &nowhere]].concat()).await?;
        ensure!(
            text.starts_with("error: ") && text.contains("no host at"),
            "{text}"
        );
        ensure!(text.contains("set --control"), "{text}");
    }
    let invalid = run(&["sessions", "--control", "nowhere"]).await?;
    ensure!(invalid.status.code() == Some(2), "{invalid:?}");
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &[])?;
    // The public port is no control port.
    let public = error(&["sessions", "--control", &host.address.to_string()]).await?;
    ensure!(public.contains("404"), "{public}");
    Ok(())
}

#[tokio::test]
async fn completions_and_manuals_are_complete() -> Result<()> {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = stdout(&["completions", shell]).await?;
        for word in ["socket-host", "publish", "doctor", "recent"] {
            ensure!(script.contains(word), "{shell}: {word}");
        }
    }
    let bash = stdout(&["completions", "bash"]).await?;
    let checked = run_shell("bash -n", &bash).await?;
    ensure!(checked.status.success(), "{checked:?}");
    let page = stdout(&["man"]).await?;
    ensure!(
        page.contains(".TH socket-host 1") && page.contains("doctor"),
        "{page}"
    );
    let folder = tempfile::tempdir()?;
    let path = folder.path().to_str().context("a path")?;
    stdout(&["man", "--dir", path]).await?;
    for name in [
        "socket-host.1",
        "socket-host-up.1",
        "socket-host-publish.1",
        "socket-host-doctor.1",
    ] {
        let page = std::fs::read_to_string(folder.path().join(name)).context(name)?;
        ensure!(page.contains(".SH DESCRIPTION"), "{page}");
    }
    ensure!(
        !folder.path().join("socket-host-supervise.1").exists(),
        "hidden commands have no page"
    );
    Ok(())
}

async fn run_shell(command: &str, input: &str) -> Result<std::process::Output> {
    let mut child = tokio::process::Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("stdin")?;
    tokio::io::AsyncWriteExt::write_all(&mut stdin, input.as_bytes()).await?;
    drop(stdin);
    Ok(child.wait_with_output().await?)
}

#[tokio::test]
async fn commands_use_a_control_port_with_tls() -> Result<()> {
    let folder = burger_without_timer();
    let files = workspace().join("tests/fixtures/tls");
    let file = |name: &str| files.join(name).display().to_string();
    let (certificate, key) = (file("localhost.pem"), file("localhost.key"));
    let options = [
        "--control-tls-cert",
        &certificate,
        "--control-tls-key",
        &key,
        "--grip-key",
        "secret",
    ];
    let host = Server::start(folder.path(), &options)?;
    let control = format!("https://localhost:{}", host.control.port());
    let sessions = ["sessions", "--control", &control, "--grip-key", "secret"];
    let listed = command(&sessions)
        .env("SSL_CERT_FILE", file("ca.pem"))
        .output()
        .await?;
    ensure!(listed.status.success(), "{listed:?}");
    let untrusted = error(&sessions).await?;
    ensure!(untrusted.contains("certificate"), "{untrusted}");
    Ok(())
}
