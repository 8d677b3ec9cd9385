//! A reload of the application empties the cache.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use tests::{Server, eventually};

use super::{HIT, IMMUTABLE, PASSED, STORED, app, asset, ensure_status, get, header};

/// Returns the number of reloads in the log.
fn reloads(host: &Server) -> usize {
    host.log_text().matches("application reloaded").count()
}

#[tokio::test]
async fn responses_of_the_previous_version_are_dropped() -> Result<()> {
    let folder = app("");
    let manifest = folder.path().join("spin.toml");
    let host = Server::start(folder.path(), &["--watch"])?;
    let path = asset(&[IMMUTABLE]);
    let slow = format!("{path}&ms=3000");
    let old = get(&host, &path).await?;
    ensure_status(&get(&host, &path).await?, HIT)?;

    // A request is in progress while the application is replaced.
    let in_progress = get(&host, &slow);
    let reload = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let text = fs::read_to_string(&manifest)?;
        let text = text.replace(
            "[component.probe]",
            "[component.probe]\nenvironment = { A = \"1\" }",
        );
        fs::write(&manifest, text)?;
        eventually("the reload", async || (reloads(&host) == 1).then_some(())).await?;
        let new = get(&host, &path).await?;
        ensure_status(&new, STORED)?;
        ensure!(new.body != old.body);
        Ok(())
    };
    let (in_progress, ()) = tokio::try_join!(in_progress, reload)?;
    ensure!(in_progress.status == 200, "{in_progress:?}");
    let after = get(&host, &slow).await?;
    ensure_status(&after, STORED)?;
    ensure!(after.body != in_progress.body);
    Ok(())
}

#[tokio::test]
async fn the_settings_can_change() -> Result<()> {
    let folder = app("max-size = \"1MiB\"");
    let manifest = folder.path().join("spin.toml");
    let host = Server::start(folder.path(), &["--watch"])?;
    let path = format!("{}&length=3000", asset(&[IMMUTABLE]));
    get(&host, &path).await?;
    ensure_status(&get(&host, &path).await?, HIT)?;
    let rewrite = |old: &str, new: &str| {
        let text = fs::read_to_string(&manifest)?;
        ensure!(text.contains(old), "{text}");
        Ok(fs::write(&manifest, text.replace(old, new))?)
    };
    rewrite("max-size = \"1MiB\"", "max-response-size = 2000")?;
    eventually("the first reload", async || {
        (reloads(&host) == 1).then_some(())
    })
    .await?;
    get(&host, &path).await?;
    ensure_status(&get(&host, &path).await?, PASSED)?;
    rewrite(
        "[application.tool.socket-host.cache]\nmax-response-size = 2000",
        "",
    )?;
    eventually("the second reload", async || {
        (reloads(&host) == 2).then_some(())
    })
    .await?;
    let response = get(&host, &path).await?;
    ensure!(header(&response, "cache-status").is_none(), "{response:?}");
    ensure!(host.control("GET", "/cache/").await?.status == 404);
    Ok(())
}
