//! Paths with dot segments, which an upstream may resolve.

use anyhow::{Result, ensure};
use tests::{Server, app_with_manifest, request};

use super::backend::{Backend, mirror};

#[tokio::test]
async fn paths_cannot_escape_the_upstreams_path() -> Result<()> {
    let backend = Backend::serve(mirror).await?;
    let tool = backend.url("http") + "/tool";
    let folder = app_with_manifest(&format!(
        "spin_manifest_version = 2\napplication.name = \"paths\"\n\
         [[trigger.http]]\nroute = \"/...\"\nstatic_response = {{}}\n\
         [application.tool.socket-host]\nprivate = [\"/internal/...\"]\n\
         [[application.tool.socket-host.passthrough]]\nroute = \"/dev/...\"\nupstream = \"{tool}\"\n\
         [[application.tool.socket-host.passthrough]]\nroute = \"/own/...\"\n"
    ));
    let path = folder.path().to_string_lossy().into_owned();
    let app = backend.url("http") + "/app";
    let host = Server::in_front_of(&app, &["--from", &path])?;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    for (path, status, forwarded) in [
        ("/orders", 200, "/app/orders"),
        ("/a/../orders", 200, "/app/a/../orders"),
        ("/dev/x", 200, "/tool/dev/x"),
        ("/internal/orders", 404, ""),
        ("/a/../Internal/orders", 404, ""),
        ("/../app/internal/orders", 400, ""),
        ("/%2e%2e/app/internal/orders", 400, ""),
        ("/.%252E/app/internal/orders", 400, ""),
        ("/a/..%2f../app/internal/orders", 400, ""),
        ("/..;/app/internal/orders", 400, ""),
        ("/dev/../../app/internal/orders", 400, ""),
        ("/own/%2E%2e/..%5capp/internal/orders", 400, ""),
    ] {
        let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\n");
        let response = request(host.address, &format!("{head}\r\n")).await?;
        ensure!(response.status == status, "{path}: {response:?}");
        if status == 200 {
            let seen: serde_json::Value = serde_json::from_str(&response.body)?;
            ensure!(seen["uri"] == forwarded, "{path}: {seen}");
        } else {
            let response = request(host.address, &format!("{head}{upgrade}\r\n")).await?;
            ensure!(response.status == status, "{path}, upgraded: {response:?}");
        }
    }
    Ok(())
}
