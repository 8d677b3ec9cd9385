//! Requests through nginx: what the host learns about the client, and bodies.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use socket_host::Limits;
use tests::{
    Server,
    backend::{Backend, header, mirror},
    probe,
};

use crate::site::{NAME, Site, directive};

/// nginx's own limit, which the documentation raises.
const NGINX_BODY_BYTES: usize = 1 << 20;

/// The headers of a client that pretends to be a proxy.
const FORGED: &str = "X-Test-Client: 192.0.2.7\r\nX-Forwarded-For: 198.51.100.1\r\n\
                      X-Forwarded-Proto: gopher\r\nX-Forwarded-Host: forged.example\r\n\
                      Forwarded: for=198.51.100.1;proto=gopher\r\n";

#[tokio::test]
async fn an_upstream_learns_the_client() -> Result<()> {
    let backend = Backend::serve(mirror).await?;
    let host = Server::in_front_of(&backend.url("http"), &[])?;
    let site = Site::start(host.address)?;
    let response = site.request("GET /", FORGED, b"").await?;
    let seen: Value = serde_json::from_str(&response.body)?;
    for (name, expected) in [
        ("host", NAME),
        ("x-forwarded-for", "192.0.2.7, 127.0.0.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", NAME),
    ] {
        let values = header(&seen, name);
        ensure!(values == [expected], "{name}: {values:?}");
    }
    let forwarded = header(&seen, "forwarded").concat();
    ensure!(!forwarded.contains("198.51.100.1"), "{forwarded}");
    ensure!(!forwarded.contains("gopher"), "{forwarded}");
    Ok(())
}

#[tokio::test]
async fn a_component_learns_the_client() -> Result<()> {
    let folder = probe("");
    let host = Server::start(folder.path(), &["--access-log"])?;
    let site = Site::start(host.address)?;
    let response = site.request("GET /headers", FORGED, b"").await?;
    let seen: Value = serde_json::from_str(&response.body)?;
    for (name, expected) in [
        ("host", NAME),
        ("x-forwarded-for", "192.0.2.7"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", NAME),
    ] {
        ensure!(seen[name] == expected, "{name}: {seen}");
    }
    ensure!(seen.get("forwarded").is_none(), "{seen}");
    host.wait_for_log(&["/headers", "192.0.2.7"]).await?;
    Ok(())
}

#[tokio::test]
async fn bodies_may_be_as_large_as_the_host_allows() -> Result<()> {
    let limit = directive("client_max_body_size")?;
    let gibibytes: u64 = limit.strip_suffix('g').context("a unit")?.parse()?;
    let default = u64::try_from(Limits::DEFAULT.max_request_body_bytes)?;
    ensure!(gibibytes << 30 == default, "{limit}");

    let folder = probe("[application.tool.socket-host.http]\nmax-request-body = \"3MiB\"\n");
    let host = Server::start(folder.path(), &[])?;
    let site = Site::start(host.address)?;
    let body = b"burger ".repeat(2 * NGINX_BODY_BYTES / 7);
    let response = site.request("POST /echo", "", &body).await?;
    ensure!(response.status == 200, "{response:?}");
    ensure!(response.body.as_bytes() == body);
    // The host's own response.
    let response = site.request("POST /echo", "", &body.repeat(2)).await?;
    ensure!(response.status == 413, "{response:?}");
    ensure!(!response.body.contains("nginx"), "{response:?}");
    host.wait_for_metric("socket_host_dropped_total{reason=\"large-body\"} 1")
        .await
}
