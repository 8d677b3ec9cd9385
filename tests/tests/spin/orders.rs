//! Orders of an application that moves between the host's own runtime and Spin.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use tests::{Server, burger};

use crate::fixture::Spin;

#[tokio::test]
async fn orders_continue_when_an_application_moves_to_spin_and_back() -> Result<()> {
    let (spin, folder) = (Spin::new(), burger("20ms..40ms"));
    let mut last = 99;
    for (with_spin, signal) in [
        (false, Signal::TERM),
        (true, Signal::TERM),
        (false, Signal::KILL),
        (true, Signal::KILL),
        (false, Signal::INT),
        (true, Signal::INT),
    ] {
        let host = if with_spin {
            spin.serve(folder.path(), &["--quiet"])?
        } else {
            Server::start(folder.path(), &["--quiet"])?
        };
        let mut socket = host.socket("/api/ws").await?;
        let first = id(&socket.order().await?)?;
        ensure!(first > last, "{first} after {last}");
        let mut live = first;
        for _ in 0..10 {
            let next = id(&socket.order().await?)?;
            ensure!(next == live + 1, "{next} after {live}");
            live = next;
        }
        // The orders from the end of the previous run to the first one on the socket.
        for expected in last + 1..=live {
            let stored = host.get_json(&format!("/api/orders/{expected}")).await?;
            let stored = stored.get("order").unwrap_or(&stored);
            ensure!(id(stored)? == expected, "{stored}");
        }
        last = live;
        // The host would wait for its answer to the close.
        drop(socket);
        host.signal(signal)?;
        let status = host.wait().await?;
        ensure!(
            status == (signal != Signal::KILL).then_some(0),
            "{status:?}"
        );
        if with_spin {
            spin.record()?.wait_for_exit().await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn sockets_are_closed_when_spin_ends() -> Result<()> {
    let (spin, folder) = (Spin::new(), burger("20ms..40ms"));
    let host = spin.serve(folder.path(), &["--quiet"])?;
    let mut sockets = Vec::new();
    for _ in 0..10 {
        let mut socket = host.socket("/api/ws").await?;
        socket.order().await?;
        sockets.push(socket);
    }
    let [parent, _] = spin.record()?.processes()?;
    parent.signal(Signal::KILL)?;
    for socket in &mut sockets {
        ensure!(socket.closed().await? == Some(1001));
    }
    // Events of the sockets are not retried for as long as a drain may take.
    let started = Instant::now();
    ensure!(host.wait().await? == Some(1));
    ensure!(started.elapsed() < Duration::from_secs(20));
    spin.record()?.wait_for_exit().await
}

fn id(order: &serde_json::Value) -> Result<i64> {
    let id = order["id"].as_i64();
    id.with_context(|| format!("no id in {order}"))
}
