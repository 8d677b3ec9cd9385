//! The host as a library: shutdown and drop.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use http::Response;
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use socket_host::{Host, HostOptions};
use tests::{Client, TIMEOUT, app_with_manifest, eventually};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

/// Starts a server that opens WebSockets and never responds to other requests. `waiting` counts those.
async fn backend(waiting: Arc<AtomicUsize>) -> Result<SocketAddr> {
    struct Waiting(Arc<AtomicUsize>);
    impl Drop for Waiting {
        fn drop(&mut self) {
            self.0.fetch_sub(1, SeqCst);
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let waiting = waiting.clone();
            let service = service_fn(move |request: http::Request<Incoming>| {
                let waiting = waiting.clone();
                async move {
                    let body = request.into_body().collect().await?.to_bytes();
                    if body != "OPEN\r\n" {
                        waiting.fetch_add(1, SeqCst);
                        let _guard = Waiting(waiting);
                        std::future::pending::<()>().await;
                    }
                    let events = http::HeaderValue::from_static("application/websocket-events");
                    let mut response = Response::new(Full::new(body));
                    response.headers_mut().insert("content-type", events);
                    Ok::<_, hyper::Error>(response)
                }
            });
            tokio::spawn(async move {
                let builder = auto::Builder::new(TokioExecutor::new());
                let stream = TokioIo::new(stream);
                let _ = builder.serve_connection(stream, service).await;
            });
        }
    });
    Ok(address)
}

/// A host with all kinds of work in progress: a request, a WebSocket whose message waits for a reply,
/// and a timer call.
struct Busy {
    host: Host,
    request: TcpStream,
    socket: Client,
    waiting: Arc<AtomicUsize>,
}

impl Busy {
    async fn start() -> Result<Self> {
        let waiting = Arc::<AtomicUsize>::default();
        let upstream = backend(waiting.clone()).await?;
        let folder = app_with_manifest(
            "spin_manifest_version = 2\napplication.name = \"embedded\"\n\
             [[trigger.http]]\nroute = \"/...\"\nstatic_response = {}\n\
             [[application.tool.socket-host.timer]]\nrequest = \"POST /tick\"\nevery = \"1h\"\n",
        );
        let host = Host::start(HostOptions {
            from: Some(folder.path().to_owned()),
            upstream: Some(
                format!("http://{upstream}")
                    .parse()
                    .map_err(anyhow::Error::msg)?,
            ),
            listen: ([127, 0, 0, 1], 0).into(),
            control: ([127, 0, 0, 1], 0).into(),
            request_timeout: Duration::from_secs(3600),
            ..HostOptions::default()
        })
        .await?;
        let mut request = TcpStream::connect(host.address()).await?;
        request
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .await?;
        let mut socket = Client::open(host.address(), "/", &[])
            .await
            .map_err(|failed| failed.error)?;
        socket.send("hello").await?;
        wait_for_requests(&waiting, 3).await?;
        Ok(Self {
            host,
            request,
            socket,
            waiting,
        })
    }
}

async fn wait_for_requests(waiting: &AtomicUsize, count: usize) -> Result<()> {
    eventually(&format!("{count} requests at the backend"), async || {
        (waiting.load(SeqCst) == count).then_some(())
    })
    .await
}

/// Waits until a host has closed its ports and connections.
async fn ensure_stopped(
    addresses: [SocketAddr; 2],
    mut request: TcpStream,
    mut socket: Client,
    waiting: &AtomicUsize,
) -> Result<()> {
    wait_for_requests(waiting, 0).await?;
    let rest = timeout(TIMEOUT, request.read_to_end(&mut Vec::new())).await;
    // Either reset or closed.
    let _ = rest.context("the request's connection stays open")?;
    while let Ok(Some(message)) = socket.next().await {
        ensure!(message.is_close(), "{message:?}");
    }
    for address in addresses {
        eventually("the ports to be closed", async || {
            TcpStream::connect(address).await.is_err().then_some(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_dropped_host_closes_everything() -> Result<()> {
    let busy = Busy::start().await?;
    let addresses = [busy.host.address(), busy.host.control_address()];
    drop(busy.host);
    ensure_stopped(addresses, busy.request, busy.socket, &busy.waiting).await
}

#[tokio::test]
async fn work_is_aborted_after_the_shutdown_timeout() -> Result<()> {
    let busy = Busy::start().await?;
    let addresses = [busy.host.address(), busy.host.control_address()];
    // The paused clock advances whenever all tasks are idle.
    tokio::time::pause();
    let in_time = busy.host.stop().await;
    tokio::time::resume();
    ensure!(!in_time, "the host reports a clean shutdown");
    ensure_stopped(addresses, busy.request, busy.socket, &busy.waiting).await
}
