//! Errors in the settings.

use anyhow::{Result, ensure};
use tests::socket_host;

use super::app;

#[test]
fn errors_name_file_and_key() -> Result<()> {
    for (settings, problem) in [
        ("size = 1", "cache.size: unknown key"),
        (
            "max-size = \"big\"",
            "cache.max-size: expected a size from 1 byte to 1GiB",
        ),
        (
            "max-size = \"2GiB\"",
            "cache.max-size: expected a size from 1 byte to 1GiB",
        ),
        (
            "max-size = \"1KiB\"\nmax-response-size = \"1MiB\"",
            "cache.max-response-size: expected at most the size of the cache, which is `max-size`",
        ),
    ] {
        let folder = app(settings);
        let output = socket_host(&["check"], folder.path())?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success(), "{settings}");
        ensure!(error.contains("spin.toml:"), "{error}");
        ensure!(error.contains(problem), "{error}");
    }
    Ok(())
}
