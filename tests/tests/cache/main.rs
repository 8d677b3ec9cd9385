//! The cache of responses that never change, in front of components and of an upstream.

mod bounds;
mod coalescing;
mod content;
mod purge;
mod reload;
mod settings;

use anyhow::{Context as _, Result, ensure};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tempfile::TempDir;
use tests::{Response, Server, probe, request};

/// What a component says about a response that never changes.
const IMMUTABLE: &str = "cache-control: public, max-age=1000, immutable";

/// The `Cache-Status` of a response that was fetched and stored.
const STORED: &str = "socket-host; fwd=uri-miss; stored";

/// The `Cache-Status` of a response that was fetched and not stored.
const PASSED: &str = "socket-host; fwd=uri-miss";

/// The `Cache-Status` of a stored response, without its remaining time.
const HIT: &str = "socket-host; hit";

/// Returns the probe component with a cache of these settings.
fn app(settings: &str) -> TempDir {
    probe(&format!(
        "[application.tool.socket-host.cache]\n{settings}\n"
    ))
}

/// Starts the probe component with a cache of these settings.
fn start(settings: &str) -> Result<Server> {
    Server::start(app(settings).path(), &[])
}

/// Returns a path at which the probe responds with these lines in its head, and a body that differs
/// for each call.
fn asset(head: &[&str]) -> String {
    let head = head.join("\n");
    format!(
        "/asset?head={}",
        utf8_percent_encode(&head, NON_ALPHANUMERIC)
    )
}

/// Sends a request without a body. `headers` are complete lines.
async fn send(host: &Server, method: &str, path: &str, headers: &str) -> Result<Response> {
    let bytes = format!("{method} {path} HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
    request(host.address, &bytes).await
}

async fn get(host: &Server, path: &str) -> Result<Response> {
    send(host, "GET", path, "").await
}

/// Returns a header of a response.
fn header<'r>(response: &'r Response, name: &str) -> Option<&'r str> {
    response.head.lines().find_map(|line| {
        let (field, value) = line.split_once(": ")?;
        field.eq_ignore_ascii_case(name).then_some(value)
    })
}

/// Returns how the cache has handled a request, without the remaining time of the response.
fn status(response: &Response) -> Result<&str> {
    let status = header(response, "cache-status").context("cache-status")?;
    Ok(status.split("; ttl=").next().unwrap_or(status))
}

/// Checks how the cache has handled a request.
#[track_caller]
fn ensure_status(response: &Response, expected: &str) -> Result<()> {
    ensure!(status(response)? == expected, "{expected}: {response:?}");
    Ok(())
}
