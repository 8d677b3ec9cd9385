//! What pages get to listen with, and how requests reach components.

use std::path::Path;

use anyhow::{Result, ensure};
use tests::{Server, request};

use crate::project::Project;

#[tokio::test]
async fn pages_get_the_script_and_other_answers_do_not() -> Result<()> {
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
static_response = {{ status_code = 404, body = "of the application" }}
"#,
        page.len()
    );
    let project = Project::of(Path::new("none"), &manifest)?;
    let ask = async |host: &Server, path: &str, more: &str| {
        let host = host.address;
        request(
            host,
            &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n"),
        )
        .await
    };
    let document = "Accept: text/html,*/*;q=0.8\r\nSec-Fetch-Dest: document\r\n";
    let host = project.start()?;
    for accept in [document, "Accept: text/html\r\n"] {
        let answer = ask(&host, "/page", accept).await?;
        let script = answer
            .body
            .find("<script src=\"/.socket-host/reload.js\" data-state=\"");
        ensure!(
            script < answer.body.find("</head>") && script.is_some(),
            "{answer:?}"
        );
        let rest = answer.body.replace(
            &answer.body[script.unwrap_or(0)..answer.body.find("</head>").unwrap_or(0)],
            "",
        );
        ensure!(rest == page, "{answer:?}");
        let head = answer.head.to_ascii_lowercase();
        ensure!(
            head.contains(&format!("content-length: {}\r\n", answer.body.len())),
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
        let answer = ask(&host, path, accept).await?;
        ensure!(answer.body == page, "{path} {accept}: {answer:?}");
    }
    let script = ask(&host, "/.socket-host/reload.js", "").await?;
    ensure!(
        script.status == 200 && script.head.contains("text/javascript"),
        "{script:?}"
    );
    let elsewhere = ask(
        &host,
        "/.socket-host/reload",
        "Sec-Fetch-Site: cross-site\r\n",
    )
    .await?;
    ensure!(elsewhere.status == 403, "{elsewhere:?}");

    // Without --watch all of this is the application's.
    let host = Server::start(project.0.path(), &[])?;
    for path in ["/.socket-host/reload", "/.socket-host/reload.js"] {
        let answer = ask(&host, path, document).await?;
        ensure!(
            answer.status == 404 && answer.body == "of the application",
            "{answer:?}"
        );
    }
    ensure!(ask(&host, "/page", document).await?.body == page);
    Ok(())
}

#[tokio::test]
async fn components_are_not_asked_to_compress() -> Result<()> {
    let project = Project::new("")?;
    for watch in [&["--watch"][..], &["--build"]] {
        let host = Server::start(project.0.path(), watch)?;
        let address = host.address;
        let asked =
            format!("GET /headers HTTP/1.1\r\nHost: {address}\r\nAccept-Encoding: br\r\n\r\n");
        let headers = request(address, &asked).await?.body;
        let passed_on = headers.contains("accept-encoding");
        ensure!(
            passed_on == watch.contains(&"--build"),
            "{watch:?}: {headers}"
        );
    }
    Ok(())
}
