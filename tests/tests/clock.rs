//! Two hosts of one kitchen, one of whose clocks is an hour fast.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tests::{Client, Redis, Server, eventually, kitchen, kitchen_command, request};

/// Makes the clock of a program an hour fast, as Debian's `faketime` does.
fn set_clock(command: &mut Command) -> &mut Command {
    command
        .env("LD_PRELOAD", "/usr/$LIB/faketime/libfaketimeMT.so.1")
        .env("FAKETIME", "+1h")
        // Timeouts are right.
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
}

/// Returns the hour of the host's clock.
async fn hour(host: &Server) -> Result<u32> {
    let bytes = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let head = request(host.address, bytes).await?.head;
    let date = head.lines().find_map(|line| line.strip_prefix("date: "));
    // As in: Thu, 01 Jan 2026 12:34:56 GMT
    let time = date.and_then(|date| date.split(' ').nth(4));
    let hour = time.and_then(|time| time.split(':').next());
    Ok(hour
        .with_context(|| format!("no date in {head}"))?
        .parse()?)
}

/// Returns the id of an order, and that of its message.
fn ids(order: &Value) -> Result<(u64, String)> {
    let id = order["id"].as_u64().context("an id")?;
    let timestamp = order["timestamp"].as_str().context("a timestamp")?;
    Ok((id, format!("{id}-{timestamp}")))
}

/// Receives orders that follow `last`. Returns the last one.
async fn receive(
    client: &mut Client,
    mut last: (u64, String),
    count: usize,
) -> Result<(u64, String)> {
    for _ in 0..count {
        let (id, message) = ids(&client.order().await?)?;
        ensure!(id == last.0 + 1, "{id} after {}", last.0);
        last = (id, message);
    }
    Ok(last)
}

#[tokio::test]
async fn a_wrong_clock_changes_nothing() -> Result<()> {
    let redis = Redis::start()?;
    let bus = |command: &[&str]| redis.bus_command(command);
    let folders = [
        kitchen(redis.address, "50ms")?,
        kitchen(redis.address, "50ms")?,
    ];
    let start_fast = || {
        let mut command = kitchen_command(folders[0].path(), redis.address);
        Server::run(set_clock(&mut command), &[])
    };
    let holder = || bus(&["GET", "socket-host:{timers}:lease"]);
    let fast = start_fast()?;
    let fast_holder = eventually("the lease", async || {
        holder().ok().filter(|it| !it.is_empty())
    });
    let fast_holder = fast_holder.await?;
    let right = Server::run(kitchen_command(folders[1].path(), redis.address), &[])?;
    let right_hour = hour(&right).await?;
    let hours = (hour(&fast).await? + 24 - right_hour) % 24;
    // It may be the next hour by now.
    ensure!(matches!(hours, 1 | 2), "the clocks differ by {hours} h");

    // Clients of both get each order once.
    let mut clients = [
        fast.socket("/api/ws").await?,
        right.socket("/api/ws").await?,
    ];
    let mut lasts = Vec::new();
    for client in &mut clients {
        let first = ids(&client.order().await?)?;
        lasts.push(receive(client, first, 40).await?);
    }
    // Only one of them calls the timer, and each call creates an order.
    ensure!(holder()? == fast_holder);
    let calls = "socket_host_timer_runs_total{timer=\"/internal/orders\",outcome=\"success\"} ";
    ensure!(
        fast.metrics().await?.contains(calls),
        "the calls are not counted"
    );
    ensure!(
        !right.metrics().await?.contains(calls),
        "both call the timer"
    );
    let runs: u64 = bus(&["GET", "socket-host:{timers}:runs:/internal/orders"])?.parse()?;
    let orders = right.get_json("/api/orders?limit=1").await?;
    let newest = ids(&orders["orders"][0])?.0;
    ensure!(
        newest - 99 >= runs.saturating_sub(1),
        "{runs} calls, but order {newest}"
    );

    // Each continues at the other host.
    let [of_fast, of_right] = [lasts[0].clone(), lasts[1].clone()];
    for (host, last) in [(&right, of_fast), (&fast, of_right)] {
        let mut client = host.socket(&format!("/api/ws?after={}", last.1)).await?;
        receive(&mut client, last, 40).await?;
    }

    // Each takes the lease when the other one dies or stops.
    fast.signal(Signal::KILL)?;
    let right_holder = eventually("another holder", async || {
        holder()
            .ok()
            .filter(|it| !it.is_empty() && *it != fast_holder)
    });
    let right_holder = right_holder.await?;
    let fast = start_fast()?;
    let mut client = fast.socket("/api/ws").await?;
    let first = ids(&client.order().await?)?;
    let last = receive(&mut client, first, 20).await?;
    ensure!(holder()? == right_holder);
    right.signal(Signal::TERM)?;
    ensure!(right.wait().await? == Some(0));
    eventually("the first holder's successor", async || {
        let holder = holder().ok()?;
        (!holder.is_empty() && holder != right_holder).then_some(())
    })
    .await?;
    receive(&mut client, last, 20).await?;
    Ok(())
}
