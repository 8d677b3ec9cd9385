//! More requests than a component can serve.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tests::{Client, Server, eventually, probe, request};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

/// The instances of a component.
const INSTANCES: usize = 500;

/// The WebSockets that are open during the overload.
const SOCKETS: usize = 20;

/// A bound for what happens at once. Usually, it takes some milliseconds.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Sends a message and waits for its echo.
async fn echo(socket: &mut Client, text: &str) -> Result<()> {
    socket.send(text).await?;
    loop {
        let answer = socket.next().await?.context("the socket was closed")?;
        if !answer.is_ping() {
            ensure!(answer.to_text()? == text, "{answer:?}");
            return Ok(());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_beyond_the_bound_get_503_and_sockets_stay_open() -> Result<()> {
    /// As in the options.
    const WAITING: usize = 20;
    const EXCESS: usize = 100;
    let folder = probe("");
    let options = [
        "--max-instance-concurrent-reuse-count",
        "1",
        "--max-waiting-requests",
        "20",
    ];
    let host = Arc::new(Server::start(folder.path(), &options)?);
    let mut sockets = Vec::new();
    for _ in 0..10 {
        sockets.push(host.socket("/websocket-echo").await?);
    }
    let mut requests = JoinSet::new();
    let mut send = |count: usize| {
        for _ in 0..count {
            let response = request(
                host.address,
                "GET /sleep?ms=8000 HTTP/1.1\r\nHost: a\r\n\r\n",
            );
            let sent = Instant::now();
            requests.spawn(async move { (response.await, sent.elapsed()) });
        }
    };
    send(INSTANCES);
    host.wait_for_metric("socket_host_instances{component=\"probe\"} 500")
        .await?;
    send(WAITING + EXCESS);
    let mut slowest = Duration::ZERO;
    for _ in 0..EXCESS {
        let (response, elapsed) = requests.join_next().await.context("a response")??;
        let response = response?;
        ensure!(response.status == 503, "{response:?}");
        ensure!(response.head.contains("retry-after: "), "{response:?}");
        let text = "too many requests, try again later\n";
        ensure!(response.body == text, "{response:?}");
        slowest = slowest.max(elapsed);
    }
    println!("{EXCESS} requests refused, the slowest after {slowest:?}");
    ensure!(slowest < AT_ONCE, "{slowest:?}");
    let opening = Client::open(host.address, "/websocket-echo", &[]).await;
    let refused = opening.err().context("a WebSocket opens")?;
    ensure!(refused.status == Some(503), "{refused:?}");
    // The events of open WebSockets wait for an instance.
    for socket in &mut sockets {
        socket.send("during").await?;
    }
    let asked = Instant::now();
    ensure!(host.health().await?["status"] == "ok");
    ensure!(host.publish("", "{\"items\":[]}").await?.status == 200);
    ensure!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    let busy = "socket_host_backend_requests_total{component=\"probe\",status=\"busy\"} ";
    ensure!(host.metrics().await?.contains(busy));
    for socket in &mut sockets {
        let answer = socket.next().await?.context("the socket was closed")?;
        ensure!(answer.to_text()? == "during", "{answer:?}");
    }
    while let Some(response) = requests.join_next().await {
        let response = response?.0?;
        ensure!(response.status == 200, "{response:?}");
    }
    // Everything is normal again.
    ensure!(host.get("/").await?.0 == 200);
    sockets.push(host.socket("/websocket-echo").await?);
    for socket in &mut sockets {
        echo(socket, "after").await?;
    }
    let log = host.log_text();
    ensure!(log.contains("request refused: too many requests"), "{log}");
    ensure!(log.lines().count() < 50, "a flood of log lines: {log}");
    Ok(())
}

/// The latencies of one kind of request.
#[derive(Default)]
struct Latencies(Vec<Duration>);

impl Latencies {
    /// Returns the median, the 99th percentile and the maximum.
    fn summary(&mut self) -> String {
        self.0.sort();
        let at = |percent: usize| {
            let last = self.0.len().saturating_sub(1);
            self.0
                .get(last * percent / 100)
                .copied()
                .unwrap_or_default()
        };
        format!(
            "{} requests, median {:?}, 99 % {:?}, maximum {:?}",
            self.0.len(),
            at(50),
            at(99),
            at(100)
        )
    }

    fn percentile_99(&mut self) -> Duration {
        self.0.sort();
        let last = self.0.len().saturating_sub(1);
        self.0.get(last * 99 / 100).copied().unwrap_or_default()
    }
}

/// Sends twice as many requests as the processors can compute, for some time.
async fn overload(duration: Duration) -> Result<()> {
    let folder = probe("");
    // A short request in the instance of one that computes would have to wait for it.
    let options = ["--max-instance-concurrent-reuse-count", "1"];
    let host = Arc::new(Server::start(folder.path(), &options)?);
    let mut sockets = Vec::new();
    for _ in 0..SOCKETS {
        sockets.push(host.socket("/websocket-echo").await?);
    }
    // Finds out how much takes 50 ms.
    let mut steps = 1;
    let service_time = loop {
        let started = Instant::now();
        ensure!(host.get(&format!("/compute?steps={steps}")).await?.0 == 200);
        let elapsed = started.elapsed();
        if elapsed > Duration::from_millis(50) {
            break elapsed;
        }
        steps *= 2;
    };
    let processors = std::thread::available_parallelism()?.get() as u32;
    let pause = service_time / (2 * processors);
    println!("{processors} processors, {service_time:?} for a request, one sent each {pause:?}");

    let (done, mut responses) = mpsc::unbounded_channel();
    let send = {
        let host = host.clone();
        async move {
            let mut ticks = interval(pause);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let started = Instant::now();
            while started.elapsed() < duration {
                ticks.tick().await;
                let (host, done) = (host.clone(), done.clone());
                tokio::spawn(async move {
                    let started = Instant::now();
                    let response = host.get(&format!("/compute?steps={steps}")).await;
                    let _ = done.send((response, started.elapsed()));
                });
            }
        }
    };
    let watch_health = async {
        let mut health = Latencies::default();
        let started = Instant::now();
        while started.elapsed() < duration {
            let asked = Instant::now();
            ensure!(host.health().await?["status"] == "ok");
            health.0.push(asked.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(health)
    };
    let watched = &mut sockets;
    let watch_sockets = async {
        let mut echoes = Latencies::default();
        let started = Instant::now();
        while started.elapsed() < duration {
            // All of them, since each must answer pings.
            let socket = &mut watched[echoes.0.len() % SOCKETS];
            let asked = Instant::now();
            echo(socket, "during").await?;
            echoes.0.push(asked.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(echoes)
    };
    let send = async {
        send.await;
        anyhow::Ok(())
    };
    let ((), mut health, mut echoes) = tokio::try_join!(send, watch_health, watch_sockets)?;
    let ended = Instant::now();
    let (mut served, mut refused) = (Latencies::default(), Latencies::default());
    while let Some((response, latency)) = responses.recv().await {
        match response? {
            (200, _) => served.0.push(latency),
            (503, _) => refused.0.push(latency),
            other => anyhow::bail!("{other:?} after {latency:?}"),
        }
    }
    println!("served: {}", served.summary());
    println!("refused: {}", refused.summary());
    println!("health: {}", health.summary());
    println!("WebSockets: {}", echoes.summary());
    ensure!(!served.0.is_empty() && !refused.0.is_empty());
    for latencies in [&mut health, &mut refused, &mut echoes] {
        let slow = latencies.percentile_99();
        // Much more than usual, for machines that do other things too.
        ensure!(slow < Duration::from_secs(3), "{slow:?}");
    }

    // Everything is normal again, without a restart.
    timeout(Duration::from_secs(20), async {
        eventually("a response", async || {
            let response = host.get(&format!("/compute?steps={steps}")).await.ok()?;
            (response.0 == 200).then_some(())
        })
        .await
    })
    .await
    .context("still overloaded")??;
    println!("normal {:?} after the load", ended.elapsed());
    sockets.push(host.socket("/websocket-echo").await?);
    for socket in &mut sockets {
        echo(socket, "after").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_is_responsive_while_components_compute() -> Result<()> {
    overload(Duration::from_secs(8)).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute"]
async fn the_host_is_responsive_for_a_minute() -> Result<()> {
    overload(Duration::from_secs(60)).await
}
