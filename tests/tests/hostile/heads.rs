//! Heads that are too large or endless. `refusals.rs` has those just over the limits.

use anyhow::{Result, ensure};

use crate::fixture::{GET, Hosts, NEXT, Outcome, case, exchange};
use Outcome::{Refused, Served};

/// More memory than the host may take for the heads of a test.
const MAX_GROWTH_KIB: u64 = 16 << 10;

#[tokio::test]
async fn heads_are_bounded() -> Result<()> {
    let fields = |count: usize| "X: a\r\n".repeat(count);
    let cases = [
        case(format!("{GET}{}\r\n", fields(99)), Served("")),
        case(format!("{GET}{}\r\n", fields(100)), Refused(431)),
        case(format!("{GET}{}\r\n", fields(10_000)), Refused(431)),
        case(
            format!("{GET}X: {}\r\n\r\n", "a".repeat(30_000)),
            Served(""),
        ),
        case(
            format!("{GET}X: {}\r\n\r\n", "a".repeat(33_000)),
            Refused(431),
        ),
        case(
            format!("{GET}{}: a\r\n\r\n", "X".repeat(33_000)),
            Refused(431),
        ),
        case(
            format!("{GET}{}: a\r\n\r\n", "X".repeat(66_000)),
            Refused(431),
        ),
        case(format!("{}{GET}\r\n", "\r\n".repeat(50_000)), Refused(431)),
    ];
    Hosts::start().await?.check(cases).await
}

#[tokio::test]
async fn endless_heads_are_cut_off() -> Result<()> {
    const BYTES: usize = 5 << 20;
    let hosts = Hosts::start().await?;
    for host in [&hosts.embedded, &hosts.proxy] {
        exchange(host.address, NEXT.as_bytes()).await?;
        let before = host.resident_kib()?;
        for (start, piece) in [
            ("GET /", "a"),
            ("G", "E"),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: ", "a"),
            ("GET / HTTP/1.1\r\nHost: a\r\n", "X"),
            ("GET / HTTP/1.1\r\nHost: a\r\n", "X: a\r\n"),
        ] {
            let bytes = format!("{start}{}", piece.repeat(BYTES / piece.len()));
            let responses = exchange(host.address, bytes.as_bytes()).await?;
            ensure!(responses.statuses == [431], "{start:?}: {responses:?}");
        }
        let growth = host.resident_kib()?.saturating_sub(before);
        ensure!(growth < MAX_GROWTH_KIB, "{growth} KiB");
    }
    Ok(())
}
