//! The Autobahn test suite of WebSockets, over HTTP/1.1, with components that echo.

use std::{collections::BTreeMap, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tests::{Server, Upstream, probe, typed, workspace};

/// The cases that `tests/run` leaves out, since they take minutes: thousands of messages for each
/// parameter of compression.
const LONG: [&str; 2] = ["12.*", "13.*"];

/// The cases in which the suite accepts that a server is less strict than it recommends.
const NON_STRICT: [&str; 12] = [
    // A message before a violation is not echoed: the host closes at once, and does not wait for
    // the component.
    "3.2", "3.3", "3.4", "4.1.3", "4.1.4", "4.1.5", "4.2.3", "4.2.4", "4.2.5", "5.15",
    // Text that is not UTF-8 is refused when its frame is complete, not while it arrives.
    "6.4.3", "6.4.4",
];

/// Large enough for all cases.
const LIMITS: &str = "[application.tool.socket-host.websocket]\n\
     max-message-size = \"20MiB\"\nmax-outgoing-buffer = \"40MiB\"\n";

/// Runs the suite against a host, and checks every result. Returns the number of cases.
fn run(host: &Server, arguments: &[&str]) -> Result<usize> {
    let reports = TempDir::new()?;
    let python = workspace().join("target/interop-venv/bin/python");
    let output = Command::new(&python)
        .arg(workspace().join("tests/autobahn.py"))
        .args(["--parallelism", "4", "--outdir"])
        .arg(reports.path())
        .args(arguments)
        .arg(format!("ws://{}/websocket-echo", host.address))
        .output()
        .with_context(|| format!("{}: tests/run installs it", python.display()))?;
    let results = read_results(reports.path())
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let failed: Vec<_> = results
        .iter()
        .filter(|(case, behavior)| !is_passed(case, behavior))
        .collect();
    ensure!(failed.is_empty(), "{failed:?}");
    Ok(results.len())
}

/// Returns whether the behavior of the host in a case, and when the socket is closed, is correct.
fn is_passed(case: &str, [behavior, close]: &[String; 2]) -> bool {
    let is_correct = |behavior: &str| matches!(behavior, "OK" | "INFORMATIONAL");
    let is_accepted = behavior == "NON-STRICT" && NON_STRICT.contains(&case);
    (is_correct(behavior) || is_accepted) && is_correct(close)
}

/// Reads the behavior in each case, and when its socket is closed.
fn read_results(folder: &Path) -> Result<BTreeMap<String, [String; 2]>> {
    let text = std::fs::read_to_string(folder.join("index.json"))?;
    let index: Value = serde_json::from_str(&text)?;
    let agents = index.as_object().context("agents")?;
    let cases = agents.values().next().and_then(Value::as_object);
    let results = cases.context("cases")?.iter().map(|(case, result)| {
        let behavior = ["behavior", "behaviorClose"]
            .map(|key| result[key].as_str().unwrap_or_default().to_owned());
        (case.clone(), behavior)
    });
    Ok(results.collect())
}

fn excluded() -> Vec<&'static str> {
    LONG.iter().flat_map(|case| ["--exclude", case]).collect()
}

#[test]
fn short_cases_pass_in_the_embedded_runtime() -> Result<()> {
    let folder = probe(LIMITS);
    let host = Server::start(folder.path(), &[])?;
    ensure!(run(&host, &excluded())? == 301);
    Ok(())
}

#[test]
fn short_cases_pass_with_typed_frames() -> Result<()> {
    let folder = typed(LIMITS);
    let host = Server::start(folder.path(), &[])?;
    ensure!(run(&host, &excluded())? == 301);
    Ok(())
}

#[test]
#[ignore = "tests/full runs it"]
fn all_cases_pass_with_typed_frames() -> Result<()> {
    let folder = typed(LIMITS);
    let host = Server::start(folder.path(), &[])?;
    ensure!(run(&host, &[])? == 517);
    Ok(())
}

#[test]
#[ignore = "tests/full runs it"]
fn all_cases_pass_in_the_embedded_runtime() -> Result<()> {
    let folder = probe(LIMITS);
    let host = Server::start(folder.path(), &[])?;
    ensure!(run(&host, &[])? == 517);
    Ok(())
}

#[test]
#[ignore = "tests/full runs it"]
fn all_cases_pass_with_an_upstream() -> Result<()> {
    let folder = probe(LIMITS);
    let upstream = Upstream::start(folder.path(), &["--quiet"])?;
    let manifest = folder.path().to_str().context("a path")?;
    let url = format!("http://{}", upstream.address);
    let host = Server::in_front_of(&url, &["--from", manifest])?;
    ensure!(run(&host, &[])? == 517);
    Ok(())
}
