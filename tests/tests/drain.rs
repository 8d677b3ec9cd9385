//! A shutdown that closes connections one by one: `--drain-over`.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::future::join_all;
use rustix::process::Signal;
use tests::{Client, Server, burger, burger_without_timer, eventually, probe, request};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

/// The time over which the hosts drain.
const DRAIN: Duration = Duration::from_secs(4);

const OPTIONS: [&str; 3] = ["--quiet", "--drain-over", "4s"];

/// Opens WebSockets.
async fn open(host: &Server, count: usize) -> Result<Vec<Client>> {
    let mut sockets = Vec::new();
    for _ in 0..count {
        sockets.push(host.socket("/api/ws").await?);
    }
    Ok(sockets)
}

#[tokio::test]
async fn sockets_are_closed_one_by_one_with_1012() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &OPTIONS)?;
    let sockets = open(&host, 60).await?;
    let since = Instant::now();
    host.signal(Signal::TERM)?;
    let closed = sockets.into_iter().map(|mut socket| async move {
        let code = socket.closed().await?;
        Ok::<_, anyhow::Error>((code, since.elapsed()))
    });
    let mut quarters = [0; 4];
    for closed in join_all(closed).await {
        let (code, time) = closed?;
        ensure!(code == Some(1012), "{code:?}");
        let quarter = (time.as_secs_f64() / DRAIN.as_secs_f64() * 4.0) as usize;
        quarters[quarter.min(3)] += 1;
    }
    // A quarter in each of them, and some more on a machine that is busy.
    ensure!(quarters.iter().all(|count| *count >= 5), "{quarters:?}");
    ensure!(host.wait().await? == Some(0));
    Ok(())
}

#[tokio::test]
async fn a_draining_host_serves_the_clients_that_still_come() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &OPTIONS)?;
    // Balancers keep connections open.
    let mut idle = TcpStream::connect(host.address).await?;
    let get = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", host.address);
    let mut get_on_idle = async || {
        idle.write_all(get.as_bytes()).await?;
        tests::read_response(&mut idle, true).await
    };
    let response = get_on_idle().await?;
    ensure!(!response.head.contains("connection: close"), "{response:?}");
    let mut sockets = open(&host, 20).await?;
    host.signal(Signal::TERM)?;
    eventually("the host to be unready", async || {
        let ready = host.control("GET", "/readyz").await.ok()?;
        (ready.status == 503).then_some(())
    })
    .await?;
    ensure!(host.get("/.well-known/spin/health").await?.0 == 503);
    let response = get_on_idle().await?;
    ensure!(response.status == 200, "{response:?}");
    ensure!(
        response.head.matches("connection: close").count() == 1,
        "{response:?}"
    );
    let response = request(host.address, &get).await?;
    ensure!(response.status == 200, "{response:?}");
    // A client that was sent away may come back before the balancer knows.
    sockets.extend(open(&host, 1).await?);
    for socket in &mut sockets {
        ensure!(socket.closed().await? == Some(1012));
    }
    let address = host.address;
    eventually("the listener to close", async || {
        TcpStream::connect(address).await.is_err().then_some(())
    })
    .await?;
    ensure!(host.wait().await? == Some(0));
    Ok(())
}

#[tokio::test]
async fn timers_stop_before_sockets_are_closed() -> Result<()> {
    let folder = burger("20ms..40ms");
    let host = Server::start(folder.path(), &OPTIONS)?;
    let mut socket = host.socket("/api/ws").await?;
    socket.order().await?;
    host.signal(Signal::TERM)?;
    host.wait_for_log(&["draining gradually"]).await?;
    let runs = async || {
        let metrics = host.metrics().await?;
        let line = metrics.lines().find(|line| {
            line.starts_with("socket_host_timer_runs_total") && line.contains("success")
        });
        Ok::<_, anyhow::Error>(line.context("a timer")?.to_owned())
    };
    // The call in progress still ends.
    let mut previous = runs().await?;
    eventually("the timer to stop", async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let current = runs().await.ok()?;
        let has_stopped = current == previous;
        previous = current;
        has_stopped.then_some(())
    })
    .await?;
    ensure!(socket.closed().await? == Some(1012));
    Ok(())
}

#[tokio::test]
async fn a_second_signal_ends_a_gradual_shutdown() -> Result<()> {
    let folder = probe("");
    let host = Server::start(folder.path(), &["--drain-over", "10min"])?;
    host.signal(Signal::TERM)?;
    host.wait_for_log(&["Shutting down"]).await?;
    host.signal(Signal::TERM)?;
    ensure!(host.wait().await? == Some(1));
    Ok(())
}
