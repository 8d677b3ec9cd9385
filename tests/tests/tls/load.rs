//! Many requests over TLS.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::authority::serve;

#[tokio::test]
async fn h2load_finds_no_error() -> Result<()> {
    let (host, _authority, _folder) = serve(&[])?;
    for (protocol, option) in [("h2", "--max-concurrent-streams=20"), ("http/1.1", "--h1")] {
        let output = Command::new("h2load")
            .args(["--requests", "10000", "--clients", "20", option])
            .arg(format!("https://localhost:{}/", host.address.port()))
            .output()
            .context("cannot run h2load: on Debian, install nghttp2-client")?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{output:?}");
        ensure!(
            text.contains(&format!("Application protocol: {protocol}")),
            "{text}"
        );
        let none_failed = "10000 succeeded, 0 failed, 0 errored, 0 timeout";
        ensure!(text.contains(none_failed), "{text}");
        ensure!(text.contains("10000 2xx, 0 3xx, 0 4xx, 0 5xx"), "{text}");
    }
    Ok(())
}
