//! Requests that wait for the response to another one. The backend is an upstream.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures_util::future::try_join_all;
use http::{HeaderValue, Response, StatusCode};
use hyper::body::Frame;
use tempfile::TempDir;
use tests::{
    Server, app_with_manifest,
    backend::{Backend, Body, full, pieces},
    eventually,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
};

use super::{HIT, PASSED, STORED, ensure_status, get, header, status};

/// An upstream whose responses wait for the test.
struct Slow {
    backend: Backend,
    /// The requests so far.
    requests: Arc<AtomicUsize>,
    /// The responses that are permitted.
    permits: Arc<Semaphore>,
}

impl Slow {
    /// Starts an upstream. `respond` gets the number of the request, starting at 1.
    async fn start(
        respond: impl Fn(usize) -> Response<Body> + Clone + Send + Sync + 'static,
    ) -> Result<Self> {
        let requests = Arc::<AtomicUsize>::default();
        let permits = Arc::new(Semaphore::new(0));
        let (counter, gate) = (requests.clone(), permits.clone());
        let backend = Backend::serve(move |_| {
            let number = counter.fetch_add(1, SeqCst) + 1;
            let (gate, respond) = (gate.clone(), respond.clone());
            async move {
                if let Ok(permit) = gate.acquire().await {
                    permit.forget();
                }
                respond(number)
            }
        })
        .await?;
        Ok(Self {
            backend,
            requests,
            permits,
        })
    }

    /// Starts a host in front of it, with a cache.
    fn host(&self) -> Result<(TempDir, Server)> {
        let folder = app_with_manifest(
            "spin_manifest_version = 2\napplication.name = \"cached\"\n\
             [application.tool.socket-host.cache]\n",
        );
        let manifest = folder.path().join("spin.toml");
        let options = ["--from", manifest.to_str().unwrap_or_default()];
        let host = Server::in_front_of(&self.backend.url("http"), &options)?;
        Ok((folder, host))
    }

    /// Waits until the upstream has received this many requests.
    async fn received(&self, number: usize) -> Result<()> {
        eventually(&format!("{number} requests"), async || {
            (self.requests.load(SeqCst) == number).then_some(())
        })
        .await
    }
}

fn immutable(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let value = HeaderValue::from_static("public, max-age=1000, immutable");
    response.headers_mut().insert("cache-control", value);
    response
}

/// Sends a request and returns the connection, without waiting for the response.
async fn open(host: &Server, path: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(host.address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    Ok(stream)
}

#[tokio::test]
async fn many_clients_cause_one_request() -> Result<()> {
    let upstream = Slow::start(|number| immutable(full(number.to_string()))).await?;
    let (_folder, host) = upstream.host()?;
    let clients = try_join_all((0..200).map(|_| get(&host, "/a")));
    let permit = async {
        upstream.received(1).await?;
        // The others have time to ask the upstream too.
        tokio::time::sleep(Duration::from_millis(300)).await;
        upstream.permits.add_permits(1000);
        Ok(())
    };
    let (responses, ()) = tokio::try_join!(clients, permit)?;
    ensure!(upstream.requests.load(SeqCst) == 1);
    let mut collapsed = 0;
    for response in &responses {
        ensure!(
            response.status == 200 && response.body == "1",
            "{response:?}"
        );
        match status(response)? {
            STORED | HIT => {}
            other => {
                ensure!(other == "socket-host; fwd=uri-miss; collapsed", "{other}");
                collapsed += 1;
            }
        }
    }
    ensure!(collapsed > 100, "{collapsed}");
    let line = format!("socket_host_cache_requests_total{{result=\"collapsed\"}} {collapsed}");
    host.wait_for_metric(&line).await?;
    ensure_status(&get(&host, "/a").await?, HIT)
}

#[tokio::test]
async fn private_and_failed_responses_are_for_one_client() -> Result<()> {
    for is_failure in [false, true] {
        let upstream = Slow::start(move |number| {
            let mut response = immutable(full(number.to_string()));
            let headers = response.headers_mut();
            headers.append("cache-control", HeaderValue::from_static("private"));
            if is_failure {
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            }
            response
        })
        .await?;
        let (_folder, host) = upstream.host()?;
        let clients = try_join_all((0..20).map(|_| get(&host, "/a")));
        let permit = async {
            upstream.received(1).await?;
            tokio::time::sleep(Duration::from_millis(300)).await;
            ensure!(upstream.requests.load(SeqCst) == 1);
            upstream.permits.add_permits(1);
            // All of the others ask at the same time.
            upstream.received(20).await?;
            upstream.permits.add_permits(1000);
            Ok(())
        };
        let (responses, ()) = tokio::try_join!(clients, permit)?;
        let mut bodies: Vec<_> = responses.iter().map(|response| &response.body).collect();
        bodies.sort_unstable();
        bodies.dedup();
        ensure!(bodies.len() == 20, "{bodies:?}");
        for response in &responses {
            ensure_status(response, PASSED)?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn another_client_takes_the_place_of_one_that_disconnects() -> Result<()> {
    let upstream = Slow::start(|number| immutable(full(number.to_string()))).await?;
    let (_folder, host) = upstream.host()?;
    let first = open(&host, "/a").await?;
    upstream.received(1).await?;
    let clients = try_join_all((0..20).map(|_| get(&host, "/a")));
    let disconnect = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        ensure!(upstream.requests.load(SeqCst) == 1);
        drop(first);
        upstream.received(2).await?;
        upstream.permits.add_permits(1000);
        Ok(())
    };
    let (responses, ()) = tokio::try_join!(clients, disconnect)?;
    ensure!(upstream.requests.load(SeqCst) == 2);
    for response in responses {
        ensure!(response.body == "2", "{response:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_client_that_does_not_read_keeps_nobody_waiting() -> Result<()> {
    // More than the buffers of a connection.
    let content = Bytes::from(vec![b'x'; 7 << 20]);
    let body = content.clone();
    let upstream = Slow::start(move |_| immutable(full(body.clone()))).await?;
    upstream.permits.add_permits(1000);
    let (_folder, host) = upstream.host()?;
    let mut first = open(&host, "/a").await?;
    // The head, and the start of the body.
    ensure!(first.read(&mut [0; 1000]).await? > 0);
    let second = get(&host, "/a").await?;
    ensure!(second.body.len() == content.len());
    ensure!(upstream.requests.load(SeqCst) == 1);
    // A client that disconnects while it reads changes nothing.
    drop(first);
    ensure_status(&get(&host, "/a").await?, HIT)
}

#[tokio::test]
async fn the_first_client_gets_the_body_as_it_arrives() -> Result<()> {
    let (sender, body) = pieces();
    let body = Arc::new(std::sync::Mutex::new(Some(body)));
    let upstream = Slow::start(move |_| {
        let body = body.lock().ok().and_then(|mut body| body.take());
        immutable(body.unwrap_or_else(|| full("second")))
    })
    .await?;
    upstream.permits.add_permits(1000);
    let (_folder, host) = upstream.host()?;
    let mut first = open(&host, "/a").await?;
    sender.send(Ok(Frame::data("one".into()))).await?;
    let mut received = Vec::new();
    while !received.ends_with(b"one\r\n") {
        ensure!(first.read_buf(&mut received).await? > 0);
    }
    // The second client waits for the whole body.
    let second = get(&host, "/a");
    let rest = async {
        sender.send(Ok(Frame::data("two".into()))).await?;
        drop(sender);
        Ok(())
    };
    let (second, ()) = tokio::try_join!(second, rest)?;
    ensure!(second.body == "onetwo", "{second:?}");
    ensure!(header(&second, "content-length") == Some("6"));
    while !received.ends_with(b"\r\n0\r\n\r\n") {
        ensure!(first.read_buf(&mut received).await? > 0);
    }
    ensure!(upstream.requests.load(SeqCst) == 1);
    Ok(())
}

#[tokio::test]
async fn a_body_that_ends_early_is_not_stored() -> Result<()> {
    let upstream = Slow::start(|number| {
        if number > 1 {
            return immutable(full("whole"));
        }
        let (sender, body) = pieces();
        tokio::spawn(async move {
            let _ = sender.send(Ok(Frame::data("part".into()))).await;
            let _ = sender.send(Err("failed".into())).await;
        });
        immutable(body)
    })
    .await?;
    upstream.permits.add_permits(1000);
    let (_folder, host) = upstream.host()?;
    ensure!(get(&host, "/a").await.is_err());
    let second = get(&host, "/a").await?;
    ensure!(second.body == "whole", "{second:?}");
    ensure_status(&second, STORED)?;
    ensure_status(&get(&host, "/a").await?, HIT)
}

#[tokio::test]
async fn nobody_waits_for_long() -> Result<()> {
    let upstream = Slow::start(|number| immutable(full(number.to_string()))).await?;
    let (_folder, host) = upstream.host()?;
    let first = open(&host, "/a").await?;
    upstream.received(1).await?;
    let second = open(&host, "/a").await?;
    // After 5 s, the second one is forwarded too.
    upstream.received(2).await?;
    drop((first, second));
    Ok(())
}
