//! Components are replaced while sockets and requests go on.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tests::{Response, Server, TIMEOUT, eventually, read_response, workspace};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

use crate::{project::wasm, stream::Stream};

/// Sockets that are open while components are replaced.
const SOCKETS: usize = 200;
/// How often one is replaced.
const SWAPS: usize = 10;
/// What is asked for all the time.
const PATHS: [&str; 4] = [
    "/api/orders",
    "/api/orders?limit=1",
    "/",
    "/static/kitchen.svg",
];

/// A GET on a connection that may have been used before.
async fn get(connection: &mut TcpStream, path: &str) -> Result<Response> {
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n",
        connection.peer_addr()?
    );
    connection.write_all(head.as_bytes()).await?;
    read_response(connection, true).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_is_replaced_under_load_and_nobody_is_disturbed() -> Result<()> {
    // The order service says what it makes of nonsense; each build says it in other words.
    const WORDS: &str = "unknown event: ";
    let code = fs::read(wasm("orders"))?;
    let places: Vec<_> = (0..code.len() - WORDS.len())
        .filter(|&at| &code[at..at + WORDS.len()] == WORDS.as_bytes())
        .collect();
    ensure!(
        places.len() == 1,
        "{WORDS:?} is in the component at {places:?}"
    );
    let words = |build: usize| format!("unknown ev{build:03}: ");
    let folder = tests::burger_without_timer();
    let built = |build: usize| -> Result<PathBuf> {
        let mut code = code.clone();
        code[places[0]..places[0] + WORDS.len()].copy_from_slice(words(build).as_bytes());
        let file = folder.path().join(format!("{build}.built"));
        fs::write(&file, code)?;
        Ok(file)
    };
    let manifest = folder.path().join("spin.toml");
    let text = fs::read_to_string(&manifest)?;
    let source = format!(
        "{}/target/wasm32-wasip2/component/orders.wasm",
        workspace().display()
    );
    ensure!(text.contains(&source) && text.contains("components/build orders"));
    fs::write(
        &manifest,
        text.replace(&source, "orders.wasm")
            .replace(
                "components/build orders",
                "cp $(cat next) orders.new && mv orders.new orders.wasm",
            )
            .replace("components/build page", "true")
            .replace("components/orders/**/*.rs", "next"),
    )?;
    // As most editors save: another file takes its place.
    let save = |build: usize| -> Result<()> {
        let new = folder.path().join("next~");
        fs::write(&new, built(build)?.display().to_string())?;
        Ok(fs::rename(new, folder.path().join("next"))?)
    };
    save(0)?;
    let host = Arc::new(Server::start(folder.path(), &["--watch", "--quiet"])?);
    let mut page = Stream::open(&host).await?;

    let mut sockets = Vec::new();
    for _ in 0..SOCKETS {
        sockets.push(host.socket("/api/ws").await?);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicUsize::new(0));
    let mut load = tokio::task::JoinSet::new();
    // Steady requests, each on a connection of its own, or all on one: every answer must be right.
    for path in PATHS {
        for kept in [false, true] {
            let (host, stop, asked) = (host.clone(), stop.clone(), asked.clone());
            load.spawn(async move {
                let mut connection = TcpStream::connect(host.address).await?;
                while !stop.load(SeqCst) {
                    if !kept {
                        connection = TcpStream::connect(host.address).await?;
                    }
                    let answer = get(&mut connection, path);
                    let answer = timeout(TIMEOUT, answer).await.context("no answer")??;
                    ensure!(answer.status == 200, "{path}, kept {kept}: {answer:?}");
                    asked.fetch_add(1, SeqCst);
                }
                Ok(())
            });
        }
    }
    // And a talk on every socket.
    for mut socket in sockets {
        let stop = stop.clone();
        load.spawn(async move {
            while !stop.load(SeqCst) {
                socket.send(r#"{"event":"ping"}"#).await?;
                let pong = socket.event().await?;
                ensure!(pong["event"] == "pong", "{pong}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Ok(())
        });
    }

    let mut witness = host.socket("/api/ws").await?;
    for build in 1..=SWAPS {
        let before = asked.load(SeqCst);
        save(build)?;
        page.pages().await?;
        ensure!(page.problems() == "[]", "{}", page.state);
        // On the socket that was open all the time.
        witness.send(r#"{"event":"dance"}"#).await?;
        let error = witness.event_named("error").await?.to_string();
        ensure!(
            error.contains(&words(build)),
            "after build {build}: {error}"
        );
        let load = &mut load;
        eventually("requests in between", async || match load.try_join_next() {
            Some(task) => Some(
                task.context("a task panicked")
                    .flatten()
                    .and_then(|()| bail!("a task ended although nobody stopped it")),
            ),
            None => (asked.load(SeqCst) > before + 20).then_some(Ok(())),
        })
        .await??;
    }
    stop.store(true, SeqCst);
    let mut ended = 0;
    while let Some(task) = load.join_next().await {
        task??;
        ended += 1;
    }
    ensure!(ended == SOCKETS + 2 * PATHS.len());
    ensure!(host.count("sessions").await? <= 201);
    let log = host.log().lock().map(|log| log.clone()).unwrap_or_default();
    ensure!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");
    Ok(())
}
