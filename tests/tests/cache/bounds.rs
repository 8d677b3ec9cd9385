//! The bounds of the cache.

use anyhow::{Context as _, Result, ensure};

use super::{HIT, IMMUTABLE, PASSED, STORED, asset, ensure_status, get, start};

#[tokio::test]
async fn responses_that_are_not_used_are_dropped() -> Result<()> {
    let host = start("max-size = \"100KiB\"")?;
    let asset = |name: usize| format!("{}&length=20000&name={name}", asset(&[IMMUTABLE]));
    ensure_status(&get(&host, &asset(0)).await?, STORED)?;
    for name in 1..20 {
        ensure_status(&get(&host, &asset(name)).await?, STORED)?;
        // It is used all the time.
        ensure_status(&get(&host, &asset(0)).await?, HIT)?;
        let report = host.report("GET", "/cache/").await?;
        let bytes = report["bytes"].as_u64().context("bytes")?;
        ensure!(bytes <= 100 << 10, "{report}");
    }
    let report = host.report("GET", "/cache/").await?;
    ensure!(report["entries"] == 4, "{report}");
    host.wait_for_metric("socket_host_cache_evictions_total 16")
        .await?;
    host.wait_for_metric("socket_host_cache_entries 4").await?;
    let bytes = format!("socket_host_cache_bytes {}", report["bytes"]);
    host.wait_for_metric(&bytes).await?;
    ensure_status(&get(&host, &asset(19)).await?, HIT)?;
    ensure_status(&get(&host, &asset(1)).await?, STORED)
}

#[tokio::test]
async fn large_responses_are_passed_on() -> Result<()> {
    let host = start("max-response-size = \"100KiB\"")?;
    let path = asset(&[IMMUTABLE]);
    let large = format!("{path}&length=102401");
    // The length is not known until the end of the body.
    ensure_status(&get(&host, &large).await?, STORED)?;
    for _ in 0..2 {
        let response = get(&host, &large).await?;
        ensure!(response.body.len() == 102_401);
        ensure_status(&response, PASSED)?;
    }
    ensure!(host.report("GET", "/cache/").await?["entries"] == 0);
    let small = format!("{path}&length=102400");
    ensure_status(&get(&host, &small).await?, STORED)?;
    let response = get(&host, &small).await?;
    ensure_status(&response, HIT)?;
    ensure!(response.body.len() == 102_400);
    Ok(())
}
