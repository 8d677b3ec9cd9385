//! Components are replaced while sockets are open and requests are served.

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
use tests::{COMPONENT_PING, Response, Server, TIMEOUT, eventually, read_response, wasm};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

use crate::reload_socket::ReloadSocket;

/// Number of open sockets.
const SOCKETS: usize = 200;
/// How often the component is replaced.
const REPLACEMENTS: usize = 10;
/// Paths that are requested continuously.
const PATHS: [&str; 4] = [
    "/api/orders",
    "/api/orders?limit=1",
    "/",
    "/static/kitchen.svg",
];

/// Sends a GET request on a connection that may be reused.
async fn get(connection: &mut TcpStream, path: &str) -> Result<Response> {
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n",
        connection.peer_addr()?
    );
    connection.write_all(head.as_bytes()).await?;
    read_response(connection, true).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replacing_a_component_under_load_disturbs_no_client() -> Result<()> {
    // Each build changes the error message of the order service, so that it can be recognised.
    const MESSAGE: &str = "unknown event: ";
    let code = fs::read(wasm("orders"))?;
    let offsets: Vec<_> = (0..code.len() - MESSAGE.len())
        .filter(|&at| &code[at..at + MESSAGE.len()] == MESSAGE.as_bytes())
        .collect();
    ensure!(
        offsets.len() == 1,
        "{MESSAGE:?} is in the component at {offsets:?}"
    );
    let message = |build: usize| format!("unknown ev{build:03}: ");
    let folder = tests::burger_without_timer();
    let built = |build: usize| -> Result<PathBuf> {
        let mut code = code.clone();
        code[offsets[0]..offsets[0] + MESSAGE.len()].copy_from_slice(message(build).as_bytes());
        let file = folder.path().join(format!("{build}.built"));
        fs::write(&file, code)?;
        Ok(file)
    };
    let manifest = folder.path().join("spin.toml");
    let text = fs::read_to_string(&manifest)?;
    let source = wasm("orders").display().to_string();
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
    // Most editors save by replacing the file.
    let save = |build: usize| -> Result<()> {
        let new = folder.path().join("next~");
        fs::write(&new, built(build)?.display().to_string())?;
        Ok(fs::rename(new, folder.path().join("next"))?)
    };
    save(0)?;
    let host = Arc::new(Server::start(folder.path(), &["--watch", "--quiet"])?);
    let mut page = ReloadSocket::open(&host).await?;

    let mut sockets = Vec::new();
    for _ in 0..SOCKETS {
        sockets.push(host.socket("/api/ws").await?);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let requests = Arc::new(AtomicUsize::new(0));
    let mut load = tokio::task::JoinSet::new();
    // Continuous requests, with and without reuse of the connection. Every response must be 200.
    for path in PATHS {
        for reuse in [false, true] {
            let (host, stop, requests) = (host.clone(), stop.clone(), requests.clone());
            load.spawn(async move {
                let mut connection = TcpStream::connect(host.address).await?;
                while !stop.load(SeqCst) {
                    if !reuse {
                        connection = TcpStream::connect(host.address).await?;
                    }
                    let response = get(&mut connection, path);
                    let response = timeout(TIMEOUT, response).await.context("no response")??;
                    ensure!(
                        response.status == 200,
                        "{path}, reuse {reuse}: {response:?}"
                    );
                    requests.fetch_add(1, SeqCst);
                }
                Ok(())
            });
        }
    }
    // Continuous pings on every socket.
    for mut socket in sockets {
        let stop = stop.clone();
        load.spawn(async move {
            while !stop.load(SeqCst) {
                socket.send(COMPONENT_PING).await?;
                let pong = socket.event().await?;
                ensure!(pong["event"] == "pong", "{pong}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Ok(())
        });
    }

    let mut socket = host.socket("/api/ws").await?;
    for build in 1..=REPLACEMENTS {
        let before = requests.load(SeqCst);
        save(build)?;
        page.page_reload().await?;
        ensure!(page.problems() == "[]", "{}", page.state);
        // This socket has been open since before the first replacement.
        socket.send(r#"{"event":"dance"}"#).await?;
        let error = socket.event_named("error").await?.to_string();
        ensure!(
            error.contains(&message(build)),
            "after build {build}: {error}"
        );
        let load = &mut load;
        eventually("more requests", async || match load.try_join_next() {
            Some(task) => Some(
                task.context("a task panicked")
                    .flatten()
                    .and_then(|()| bail!("a task ended before it was stopped")),
            ),
            None => (requests.load(SeqCst) > before + 20).then_some(Ok(())),
        })
        .await??;
    }
    stop.store(true, SeqCst);
    let mut finished = 0;
    while let Some(task) = load.join_next().await {
        task??;
        finished += 1;
    }
    ensure!(finished == SOCKETS + 2 * PATHS.len());
    ensure!(host.count("sessions").await? <= 201);
    let log = host.log_text();
    ensure!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");
    Ok(())
}
