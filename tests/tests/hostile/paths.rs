//! Spellings of private paths, over both protocols and in all forms of targets. None reaches an
//! upstream.

use anyhow::{Result, ensure};
use tests::{Server, app_with_manifest};

use crate::{
    fixture::{Upstream, exchange},
    http2::{self, Outcome},
};

/// Spellings of paths below `/internal`, and of `/dev/secret`, which is within a passthrough.
const PRIVATE: [&str; 34] = [
    "/internal",
    "/internal/x",
    "/internal/x?y",
    "//internal/x",
    "/./internal/x",
    "/x/../internal/x",
    "/x/%2e%2e/internal/x",
    "/x/%252e%252e/internal/x",
    "/x/..%2finternal/x",
    "/x/..;/internal/x",
    "/dev/../internal/x",
    "/dev/%2e%2e/internal/x",
    "/internal/../internal/x",
    "/%69nternal/x",
    "/%2569nternal/x",
    "/%u0069nternal/x",
    "/%2finternal/x",
    "/internal%2fx",
    "/internal%5cx",
    "/\\internal\\x",
    "/internal;a=b/x",
    "/;/internal/x",
    "/internal%00/x",
    "/internal%20/x",
    "/internal./x",
    "/INTERNAL/x",
    "/%ef%bd%89nternal/x",
    "/%c0%afinternal/x",
    "/%e2%88%95internal/x",
    "/dev/secret",
    "/dev//secret",
    "/dev/./%73ecret",
    "/dev/x/../SECRET;a",
    "/%64ev/secret",
];

#[tokio::test]
async fn private_paths_reach_no_upstream() -> Result<()> {
    let (mut upstream, mut tool) = (Upstream::start().await?, Upstream::start().await?);
    let folder = app_with_manifest(&format!(
        "spin_manifest_version = 2\napplication.name = \"paths\"\n\
         [[trigger.http]]\nroute = \"/...\"\nstatic_response = {{}}\n\
         [application.tool.socket-host]\nprivate = [\"/internal/...\", \"/dev/secret\"]\n\
         [[application.tool.socket-host.passthrough]]\nroute = \"/dev/...\"\n\
         upstream = \"http://{}\"\n",
        tool.address
    ));
    let folder = folder.path().to_string_lossy().into_owned();
    let host = Server::in_front_of(
        &format!("http://{}", upstream.address),
        &["--from", &folder],
    )?;
    for path in PRIVATE {
        for (target, fields) in [
            (path.to_owned(), "Connection: close"),
            (format!("http://a{path}"), "Connection: close"),
            (
                path.to_owned(),
                "Connection: close, upgrade\r\nUpgrade: websocket",
            ),
        ] {
            let bytes = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
            let responses = exchange(host.address, bytes.as_bytes()).await?;
            ensure!(responses.statuses == [404], "{bytes:?}: {responses:?}");
        }
        let request = http2::replaced(":path", path);
        let outcome = http2::send(host.address, &request).await?;
        ensure!(outcome == Outcome::NotFound, "{path}: {outcome:?}");
        for received in [upstream.take(), tool.take()] {
            ensure!(received.is_empty(), "{path}: {received:?}");
        }
    }
    // The paths beside them are served.
    for (path, server) in [("/internals", &mut upstream), ("/dev/secrets", &mut tool)] {
        let outcome = http2::send(host.address, &http2::replaced(":path", path)).await?;
        ensure!(outcome == Outcome::Served, "{path}: {outcome:?}");
        ensure!(server.take().len() == 1, "{path}");
    }
    Ok(())
}
