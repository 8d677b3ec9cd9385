//! Purging by the control port.

use anyhow::{Result, ensure};
use tests::{Server, probe, request};

use super::{HIT, IMMUTABLE, STORED, app, asset, ensure_status, get, start};

#[tokio::test]
async fn responses_are_purged_by_path_and_prefix() -> Result<()> {
    let host = start("")?;
    let path = asset(&[IMMUTABLE]);
    // The probe has the same paths below `/probe`.
    let (plain, query, below) = (path.clone(), format!("{path}&x"), format!("/probe{path}"));
    let fill = async || {
        for path in [&plain, &query, &below] {
            get(&host, path).await?;
            ensure_status(&get(&host, path).await?, HIT)?;
        }
        anyhow::Ok(())
    };
    let purge = async |target: &str| host.report("DELETE", target).await;
    fill().await?;
    ensure!(purge("/cache/?path=/asset").await?["purged"] == 2);
    ensure_status(&get(&host, &plain).await?, STORED)?;
    ensure_status(&get(&host, &below).await?, HIT)?;
    ensure!(purge("/cache/?prefix=/probe/").await?["purged"] == 1);
    ensure_status(&get(&host, &below).await?, STORED)?;
    fill().await?;
    ensure!(purge("/cache/").await?["purged"] == 3);
    ensure!(host.report("GET", "/cache/").await?["entries"] == 0);
    host.wait_for_log(&["cache purged", "purged=3"]).await?;
    Ok(())
}

#[tokio::test]
async fn invalid_purges_change_nothing() -> Result<()> {
    let host = start("")?;
    let path = asset(&[IMMUTABLE]);
    get(&host, &path).await?;
    for (method, target, status, text) in [
        (
            "DELETE",
            "/cache/?pth=/a",
            400,
            "expected `path` or `prefix`",
        ),
        ("DELETE", "/cache/?path=asset", 400, "starts with `/`"),
        ("POST", "/cache/", 405, "expected GET, HEAD, DELETE"),
        ("DELETE", "/cache/asset", 404, "/cache/"),
    ] {
        let response = host.control(method, target).await?;
        ensure!(response.status == status, "{target}: {response:?}");
        ensure!(response.body.contains(text), "{target}: {response:?}");
    }
    let foreign = "DELETE /cache/ HTTP/1.1\r\nHost: evil.example\r\n\r\n";
    ensure!(request(host.control, foreign).await?.status == 421);
    let page = "DELETE /cache/ HTTP/1.1\r\nHost: localhost\r\nOrigin: http://a\r\n\r\n";
    ensure!(request(host.control, page).await?.status == 401);
    ensure_status(&get(&host, &path).await?, HIT)
}

#[tokio::test]
async fn a_purge_needs_a_token_where_publishing_does() -> Result<()> {
    let folder = app("");
    let key = "a key that is long enough for tokens";
    let host = Server::start(folder.path(), &["--grip-key", key])?;
    ensure!(host.control("DELETE", "/cache/").await?.status == 401);
    ensure!(host.control("GET", "/cache/").await?.status == 401);
    let authorized = format!(
        "DELETE /cache/ HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\r\n"
    );
    let response = request(host.control, &authorized).await?;
    ensure!(response.status == 200, "{response:?}");
    Ok(())
}

#[tokio::test]
async fn a_host_without_a_cache_says_so() -> Result<()> {
    let host = Server::start(probe("").path(), &[])?;
    for method in ["GET", "DELETE"] {
        let response = host.control(method, "/cache/").await?;
        ensure!(response.status == 404, "{response:?}");
        ensure!(
            response
                .body
                .contains("[application.tool.socket-host.cache]"),
            "{response:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_response_from_before_a_purge_is_not_stored() -> Result<()> {
    let host = start("")?;
    let path = format!("{}&ms=1500", asset(&[IMMUTABLE]));
    let old = get(&host, &path);
    let purge = async {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        host.report("DELETE", "/cache/").await?;
        // This one does not wait for the earlier one.
        get(&host, &path).await
    };
    let (old, new) = tokio::try_join!(old, purge)?;
    ensure!(old.body != new.body);
    ensure_status(&new, STORED)?;
    let stored = get(&host, &path).await?;
    ensure_status(&stored, HIT)?;
    ensure!(stored.body == new.body);
    Ok(())
}
