//! Many clients that lose their connections at once and return: nothing is lost.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::{Server, burger_without_timer, eventually, storm::Storm};

const CLIENTS: usize = 200;
const ROUNDS: usize = 3;

/// The time over which the clients spread out.
const JITTER: Duration = Duration::from_millis(300);

#[tokio::test]
async fn clients_that_return_at_once_lose_nothing() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &[])?;
    let mut storm = Storm::start(host.address, host.control, CLIENTS).await?;
    for jitter in [Duration::ZERO, JITTER] {
        for round in 0..ROUNDS {
            let outcome = storm.round(jitter).await?;
            ensure!(outcome.lost == 0, "round {round}: {outcome:?}");
            ensure!(
                outcome.connected.len() == CLIENTS,
                "round {round}: {outcome:?}"
            );
        }
    }
    // The connections that were cut leave nothing behind.
    eventually("the end of the other sessions", async || {
        (host.count("sessions").await.ok()? == CLIENTS as u64).then_some(())
    })
    .await?;
    drop(storm);
    eventually("the end of all sessions", async || {
        (host.count("sessions").await.ok()? == 0).then_some(())
    })
    .await
}
