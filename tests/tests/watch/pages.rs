//! The reload script in pages, and the requests that components receive.

use std::path::Path;

use anyhow::{Result, ensure};
use tests::{Client, Server, eventually, request};

use crate::{project::Project, reload_socket::ReloadSocket};

const PATH: &str = "/.socket-host/reload";
const EMPTY_MANIFEST: &str = r#"
spin_manifest_version = 2
application.name = "empty"
[[trigger.http]]
route = "/..."
static_response = { body = "from the application" }
"#;

#[tokio::test]
async fn only_pages_get_the_script() -> Result<()> {
    let page = r#"<!doctype html><html><head><title>x</title></head><body>y</body></html>"#;
    let manifest = format!(
        r#"
spin_manifest_version = 2
application.name = "static"
[[trigger.http]]
route = "/page"
static_response = {{ headers = {{ content-type = "text/html; charset=utf-8", etag = '"a"', content-length = "{}" }}, body = '{page}' }}
[[trigger.http]]
route = "/text"
static_response = {{ headers = {{ content-type = "text/plain" }}, body = '{page}' }}
[[trigger.http]]
route = "/..."
static_response = {{ status_code = 404, body = "from the application" }}
"#,
        page.len()
    );
    let project = Project::with_manifest(Path::new("none"), &manifest)?;
    let get = async |host: &Server, path: &str, headers: &str| {
        let host = host.address;
        request(
            host,
            &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n"),
        )
        .await
    };
    let document = "Accept: text/html,*/*;q=0.8\r\nSec-Fetch-Dest: document\r\n";
    let host = project.start()?;
    for accept in [document, "Accept: text/html\r\n"] {
        let response = get(&host, "/page", accept).await?;
        // The whole page, followed by one script.
        let script = response.body.strip_prefix(page);
        ensure!(
            script.is_some_and(|script| {
                script.starts_with("<script src=\"/.socket-host/reload.js\" data-state=\"")
                    && script.ends_with("></script>")
                    && script.matches("<script").count() == 1
            }),
            "{response:?}"
        );
        let head = response.head.to_ascii_lowercase();
        ensure!(
            head.contains(&format!("content-length: {}\r\n", response.body.len())),
            "{head}"
        );
        ensure!(
            !head.contains("etag") && head.contains("cache-control: no-store"),
            "{head}"
        );
    }
    for (path, accept) in [
        ("/page", ""),
        ("/page", "Accept: text/html\r\nSec-Fetch-Dest: empty\r\n"),
        ("/text", document),
    ] {
        let response = get(&host, path, accept).await?;
        ensure!(response.body == page, "{path} {accept}: {response:?}");
    }
    let script = get(&host, "/.socket-host/reload.js", "").await?;
    ensure!(
        script.status == 200 && script.head.contains("text/javascript"),
        "{script:?}"
    );
    let cross_site = get(
        &host,
        "/.socket-host/reload.js",
        "Sec-Fetch-Site: cross-site\r\n",
    );
    let cross_site = cross_site.await?;
    ensure!(cross_site.status == 403, "{cross_site:?}");

    // Without --watch, the application receives these requests.
    let host = Server::start(project.0.path(), &[])?;
    for path in ["/.socket-host/reload", "/.socket-host/reload.js"] {
        let response = get(&host, path, document).await?;
        ensure!(
            response.status == 404 && response.body == "from the application",
            "{response:?}"
        );
    }
    ensure!(get(&host, "/page", document).await?.body == page);
    Ok(())
}

#[tokio::test]
async fn only_pages_of_the_same_origin_can_open_the_reload_socket() -> Result<()> {
    let project = Project::with_manifest(Path::new("none"), EMPTY_MANIFEST)?;
    let host = project.start()?;
    let address = host.address;
    ReloadSocket::open(&host).await?;
    // A client without an origin is no page.
    let open = Client::open(address, PATH, &[]);
    open.await.map_err(|error| error.error)?;
    let other_port = format!("http://{}:{}", address.ip(), address.port() ^ 1);
    for origin in ["http://evil.example", "null", &other_port, "file://"] {
        let error = Client::open(address, PATH, &[("origin", origin)]).await;
        let status = error.err().and_then(|error| error.status);
        ensure!(status == Some(403), "{origin}: {status:?}");
    }
    let get = format!("GET {PATH} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let response = request(address, &get).await?;
    let head = response.head.to_ascii_lowercase();
    ensure!(
        response.status == 426 && head.contains("upgrade: websocket\r\n"),
        "{head}"
    );
    let post = format!("POST {PATH} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n");
    ensure!(request(address, &post).await?.status == 405);
    Ok(())
}

#[tokio::test]
async fn the_number_of_reload_sockets_is_limited() -> Result<()> {
    let project = Project::with_manifest(Path::new("none"), EMPTY_MANIFEST)?;
    let host = project.start()?;
    let mut pages = Vec::new();
    for _ in 0..256 {
        pages.push(ReloadSocket::open(&host).await?);
    }
    let error = Client::open(host.address, PATH, &[]).await.err();
    ensure!(error.and_then(|error| error.status) == Some(503));
    // Both an orderly close and a lost connection make room.
    pages[0].socket.0.close(None).await?;
    pages.pop();
    for _ in 0..2 {
        let open = async || ReloadSocket::open(&host).await.ok();
        pages.push(eventually("room for a page", open).await?);
    }
    Ok(())
}

#[tokio::test]
async fn accept_encoding_is_removed_only_with_watch() -> Result<()> {
    let project = Project::new("")?;
    for watch in [&["--watch"][..], &["--build"]] {
        let host = Server::start(project.0.path(), watch)?;
        let address = host.address;
        let get =
            format!("GET /headers HTTP/1.1\r\nHost: {address}\r\nAccept-Encoding: br\r\n\r\n");
        let headers = request(address, &get).await?.body;
        let is_forwarded = headers.contains("accept-encoding");
        ensure!(
            is_forwarded == watch.contains(&"--build"),
            "{watch:?}: {headers}"
        );
    }
    Ok(())
}
