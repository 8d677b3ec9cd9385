//! Clients that come and go, publications, hot swaps and faults, for a while: afterwards, nothing has
//! grown, and nothing was lost. `tests/soak` runs this for longer.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tempfile::TempDir;
use tests::{Client, Server, burger, eventually, wasm};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// The clients at the same time.
const WORKERS: u64 = 8;

/// What the host may have more of after the soak than after the first part of it.
const MORE_KIB: u64 = 48 << 10;
const MORE_FILES: usize = 4;
const MORE_TASKS: u64 = 8;

/// What grows if something leaks.
#[derive(Clone, Copy, Debug)]
struct Size {
    kib: u64,
    files: usize,
    tasks: u64,
}

/// Returns a number from the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Writes Socket Burger with the probe as another component, and without build commands.
fn application() -> Result<TempDir> {
    let folder = burger("100ms");
    let path = folder.path().join("spin.toml");
    let manifest = fs::read_to_string(&path)?;
    let tables = manifest.split("\n\n");
    let kept = tables.filter(|table| !table.contains(".build]"));
    let manifest = kept.collect::<Vec<_>>().join("\n\n");
    let probe = format!(
        "\n[[trigger.http]]\nroute = \"/probe/...\"\ncomponent = \"probe\"\n\
         [component.probe]\nsource = {:?}\nkey_value_stores = [\"default\"]\n\
         environment = {{ SWAP = \"0\" }}\n",
        wasm("probe")
    );
    fs::write(&path, manifest + &probe)?;
    Ok(folder)
}

/// Replaces the application again and again, until `stop`.
async fn swap(folder: &Path, mut random: StdRng, stop: &CancellationToken) -> Result<usize> {
    let path = folder.join("spin.toml");
    let manifest = fs::read_to_string(&path)?;
    let (start, _) = manifest
        .split_once("environment = { SWAP")
        .context("SWAP")?;
    for swaps in 0.. {
        let pause = Duration::from_millis(random.random_range(500..3000));
        if timeout(pause, stop.cancelled()).await.is_ok() {
            return Ok(swaps);
        }
        let new = folder.join("spin.toml~");
        let number = random.random::<u64>();
        fs::write(
            &new,
            format!("{start}environment = {{ SWAP = \"{number}\" }}\n"),
        )?;
        fs::rename(new, &path)?;
    }
    Ok(0)
}

/// Receives all orders, each once and in order, until `stop`.
async fn receive_all(host: &Server, stop: &CancellationToken) -> Result<u64> {
    let mut socket = host.socket("/api/ws").await?;
    let id = |order: serde_json::Value| order["id"].as_u64().context("an id");
    let first = id(socket.order().await?)?;
    let mut last = first;
    while let Some(order) = stop.run_until_cancelled(socket.order()).await {
        let next = id(order?)?;
        ensure!(next == last + 1, "order {next} after {last}");
        last = next;
    }
    Ok(last - first)
}

/// Performs a random action of a client, and returns its name.
async fn act(host: &Server, random: &mut StdRng) -> Result<&'static str> {
    Ok(match random.random_range(0..12) {
        0..3 => {
            let mut socket = host.socket("/probe/websocket-echo").await?;
            for _ in 0..random.random_range(1..5) {
                socket.send("hello").await?;
                ensure!(socket.next().await?.is_some(), "no echo");
            }
            if random.random() {
                socket.0.close(None).await?;
            }
            "echo"
        }
        3..5 => {
            let mut socket = host.socket("/api/ws").await?;
            for _ in 0..random.random_range(1..3) {
                socket.order().await?;
            }
            "orders"
        }
        5..7 => {
            let mut stream = TcpStream::connect(host.address).await?;
            let head = "GET /api/orders/stream HTTP/1.1\r\nHost: localhost\r\n\
                        Accept: text/event-stream\r\n\r\n";
            stream.write_all(head.as_bytes()).await?;
            let mut buffer = [0; 1 << 12];
            for _ in 0..random.random_range(1..4) {
                let read = timeout(tests::TIMEOUT, stream.read(&mut buffer));
                ensure!(read.await.context("no event")?? > 0, "the stream ends");
            }
            "stream"
        }
        7..9 => {
            for path in ["/", "/api/orders?limit=5", "/probe/seen"] {
                let (status, body) = host.get(path).await?;
                ensure!(status == 200, "{path}: {status} {body}");
            }
            "requests"
        }
        9 => {
            let item = r#"{"items":[{"channel":"soak","formats":{"ws-message":{"content":"x"}}}]}"#;
            // Requires a token, or succeeds.
            let response = host.publish("", item).await?;
            ensure!(response.status < 500, "{response:?}");
            "publish"
        }
        10 => {
            let kinds = [
                "framing",
                "content-type",
                "order",
                "trap",
                "endless",
                "control",
            ];
            let kind = kinds[random.random_range(0..kinds.len())];
            let path = format!("/probe/rubbish?kind={kind}");
            let mut socket = Client::open(host.address, &path, &[])
                .await
                .map_err(|it| it.error)?;
            socket.send("hello").await?;
            if kind != "control" {
                socket.closed().await?;
            }
            "rubbish"
        }
        _ => {
            let faults = [
                ("/probe/trap", 500),
                ("/probe/recurse", 500),
                ("/probe/alloc-without-end", 500),
                ("/probe/handles?kind=fields&number=10000", 500),
                ("/probe/after-response?then=trap", 200),
                ("/probe/hang", 504),
                ("/probe/spin", 504),
            ];
            let (path, expected) = faults[random.random_range(0..faults.len())];
            let (status, body) = host.get(path).await?;
            // The response was sent by an instance that trapped meanwhile.
            let is_expected = status == expected || status == 500;
            ensure!(is_expected, "{path}: {status} {body}");
            "fault"
        }
    })
}

/// Lets clients and faults come and go for some time. Returns the number of actions.
async fn churn(
    host: &Server,
    folder: &Path,
    seed: u64,
    duration: Duration,
) -> Result<(usize, usize, u64)> {
    let stop = CancellationToken::new();
    let random = |index: u64| StdRng::seed_from_u64(seed.wrapping_mul(1000).wrapping_add(index));
    let workers = (0..WORKERS).map(|index| {
        let mut random = random(index);
        async move {
            let started = Instant::now();
            let mut actions = 0;
            while started.elapsed() < duration {
                let acted = act(host, &mut random).await;
                // A component that is replaced or fails ends the requests that share its instance.
                if let Err(error) = acted {
                    tolerate(&error).with_context(|| format!("{error:#}"))?;
                }
                actions += 1;
            }
            anyhow::Ok(actions)
        }
    });
    let workers = async {
        let actions = futures_util::future::try_join_all(workers).await;
        stop.cancel();
        actions
    };
    let (actions, swaps, orders) = tokio::try_join!(
        workers,
        swap(folder, random(WORKERS), &stop),
        receive_all(host, &stop)
    )?;
    Ok((actions.iter().sum(), swaps, orders))
}

/// Accepts failures of requests that share an instance with one that traps.
fn tolerate(error: &anyhow::Error) -> Result<()> {
    let text = format!("{error:#}");
    let is_expected = [
        "500",
        "502",
        "504",
        "closed",
        "closing",
        "no echo",
        "connection",
        "reset",
    ]
    .iter()
    .any(|part| text.contains(part));
    ensure!(is_expected, "a failure that no fault explains");
    Ok(())
}

/// Waits until no client is left, and returns the size of the host.
async fn settle(host: &Server) -> Result<Size> {
    eventually("the end of all clients", async || {
        let health = host.health().await.ok()?;
        let is_gone = health["sessions"] == 0 && health["holds"].as_u64().unwrap_or(0) == 0;
        is_gone.then_some(())
    })
    .await?;
    // Idle instances and connections end.
    let mut size = measure(host).await?;
    let settled = Instant::now();
    while settled.elapsed() < Duration::from_secs(6) {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = measure(host).await?;
        size = Size {
            kib: size.kib.min(now.kib),
            files: size.files.min(now.files),
            tasks: size.tasks.min(now.tasks),
        };
    }
    Ok(size)
}

async fn measure(host: &Server) -> Result<Size> {
    let metrics = host.metrics().await?;
    let tasks = metrics
        .lines()
        .find_map(|line| line.strip_prefix("socket_host_tasks "));
    Ok(Size {
        kib: host.resident_kib()?,
        files: host.open_files()?,
        tasks: tasks.context("socket_host_tasks")?.parse()?,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_grows_and_nothing_is_lost() -> Result<()> {
    let seconds = number("SOAK_SECONDS").unwrap_or(12);
    let seed = number("SOAK_SEED").unwrap_or_else(|| rand::rng().random_range(0..1_000_000));
    println!("SOAK_SEED={seed} SOAK_SECONDS={seconds}");
    let folder = application()?;
    let options = [
        "--watch",
        "--quiet",
        "--request-timeout",
        "2s",
        "--max-instance-memory",
        "67108864",
    ];
    let host = Server::start(folder.path(), &options)?;
    let warm_up = Duration::from_secs((seconds / 3).clamp(5, 60));
    churn(&host, folder.path(), seed, warm_up).await?;
    let before = settle(&host).await?;
    println!("before: {before:?}");
    let duration = Duration::from_secs(seconds);
    let (actions, swaps, orders) = churn(&host, folder.path(), seed + 1, duration).await?;
    println!("{actions} actions, {swaps} swaps, {orders} orders");
    let after = settle(&host).await?;
    println!("after: {after:?}");
    ensure!(actions > 0 && orders > 0);
    ensure!(after.kib < before.kib + MORE_KIB, "{before:?} {after:?}");
    ensure!(
        after.files <= before.files + MORE_FILES,
        "{before:?} {after:?}"
    );
    ensure!(
        after.tasks <= before.tasks + MORE_TASKS,
        "{before:?} {after:?}"
    );
    Ok(())
}
