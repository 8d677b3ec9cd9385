//! A clock that jumps.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::Value;
use tests::{Server, eventually, host_binary, probe};

/// The offset of a host's clock, as Debian's `faketime` reads it from a file.
struct Clock(PathBuf);

impl Clock {
    /// Sets the offset in hours.
    fn set(&self, hours: i64) -> Result<()> {
        // Replaced as a whole, since the host reads it at any time.
        let new = self.0.with_extension("new");
        fs::write(&new, format!("{hours:+}h\n"))?;
        Ok(fs::rename(new, &self.0)?)
    }

    /// Makes a program use this clock.
    fn apply(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", "/usr/$LIB/faketime/libfaketimeMT.so.1")
            .env("FAKETIME_TIMESTAMP_FILE", &self.0)
            .env("FAKETIME_NO_CACHE", "1")
            // Timeouts are right.
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }
}

/// Returns how often a component has printed a line.
fn count(folder: &Path, line: &str) -> usize {
    let file = folder.join(".spin/logs/probe_stdout.txt");
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().filter(|printed| *printed == line).count()
}

/// Returns the time at which the token of a request to the component expires.
async fn token_expiry(host: &Server) -> Result<i64> {
    let headers = host.get_json("/headers").await?;
    let token = headers["grip-sig"].as_str().context("a token")?;
    let claims = token.split('.').nth(1).context("claims")?;
    let claims: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims)?)?;
    claims["exp"].as_i64().context("a time")
}

#[tokio::test]
async fn timers_tokens_and_sockets_survive_a_clock_that_jumps() -> Result<()> {
    let timer = |when: &str, line: &str| {
        format!(
            "[[application.tool.socket-host.timer]]\nrequest = \"GET /print?line={line}\"\n{when}\n"
        )
    };
    let folder = probe(&format!(
        "{}{}",
        timer("every = \"100ms\"", "tick"),
        timer("cron = \"* * * * * *\"", "cron")
    ));
    let clock = Clock(folder.path().join("clock"));
    clock.set(0)?;
    let mut command = Command::new(host_binary());
    command.args(["up", "--quiet", "--from"]).arg(folder.path());
    clock.apply(&mut command);
    let host = Server::run(command, &[])?;
    let mut socket = host.socket("/websocket-echo").await?;
    for hours in [0, 2, -2, 24 * 365, 0] {
        clock.set(hours)?;
        for line in ["tick", "cron"] {
            let before = count(folder.path(), line);
            eventually(&format!("{line} at {hours} h"), async || {
                (count(folder.path(), line) >= before + 3).then_some(())
            })
            .await?;
        }
        socket.send("hello").await?;
        let echo = socket.next().await?.context("the socket was closed")?;
        ensure!(echo.to_text()? == "hello");
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let now = i64::try_from(now)? + hours * 3600;
        let expiry = token_expiry(&host).await?;
        ensure!(
            (now + 60..now + 2 * 3600).contains(&expiry),
            "at {hours} h, a token expires {} s from now",
            expiry - now
        );
        ensure!(host.health().await?["sessions"] == 1);
    }
    // Nothing was caught up on.
    let (ticks, crons) = (count(folder.path(), "tick"), count(folder.path(), "cron"));
    ensure!(ticks < 2000 && crons < 300, "{ticks} ticks, {crons} crons");
    Ok(())
}
