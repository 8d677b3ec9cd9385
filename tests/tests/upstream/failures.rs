//! Upstreams that are unreachable, slow or broken.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Frame;
use rustix::process::Signal;
use spin_runtime::backend::{empty, full};
use tests::{Server, TIMEOUT, app_with_manifest, request};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::Notify,
};

use super::backend::{Backend, data, mirror, pieces, read_head, send, text};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";

/// Returns a free address.
async fn free_address() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    Ok(listener.local_addr()?.to_string())
}

#[tokio::test]
async fn an_unreachable_upstream_is_a_502() -> Result<()> {
    let address = free_address().await?;
    for url in [
        format!("http://{address}"),
        format!("h2c://{address}"),
        format!("https://{address}"),
        "http://does-not-exist.invalid".to_owned(),
    ] {
        let host = Server::in_front_of(&url, &[])?;
        for bytes in [GET, POST] {
            let response = request(host.address, bytes).await?;
            ensure!(response.status == 502, "{url}: {response:?}");
            ensure!(
                response.body == "upstream unreachable\n",
                "{url}: {response:?}"
            );
        }
        host.wait_for_log(&["WARN", "upstream request failed", &url])
            .await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_upstream_with_another_protocol_is_a_502() -> Result<()> {
    let plain = Backend::script(|_, mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            .await;
    })
    .await?;
    for scheme in ["h2c", "https"] {
        let host = Server::in_front_of(&plain.url(scheme), &[])?;
        let response = request(host.address, GET).await?;
        ensure!(response.status == 502, "{scheme}: {response:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_slow_upstream_is_a_504() -> Result<()> {
    let backend = Backend::serve(|request: Request<_>| async move {
        match request.uri().path() {
            "/late" => std::future::pending().await,
            _ => mirror(request).await,
        }
    })
    .await?;
    let check = async |scheme: &'static str| {
        let host = Server::in_front_of(&backend.url(scheme), &["--request-timeout", "3s"])?;
        let late = request(host.address, "GET /late HTTP/1.1\r\nHost: a\r\n\r\n").await?;
        ensure!(late.status == 504, "{scheme}: {late:?}");
        ensure!(late.body == "request timed out\n", "{scheme}: {late:?}");
        // The timeout does not include the time to receive the request.
        let (pieces, body) = pieces();
        let post = Request::post("/").header("host", "a").body(body)?;
        let writing = tokio::spawn(async move {
            for _ in 0..9 {
                pieces.send(Ok(Frame::data(Bytes::from("piece ")))).await?;
                tokio::time::sleep(Duration::from_millis(400)).await;
            }
            anyhow::Ok(())
        });
        let response = send(host.address, post).await?;
        ensure!(response.status() == 200, "{scheme}: {response:?}");
        let seen: serde_json::Value = serde_json::from_str(&text(response.into_body()).await?)?;
        ensure!(seen["body"] == "piece ".repeat(9), "{scheme}: {seen}");
        writing.await?
    };
    tokio::try_join!(check("http"), check("h2c"))?;
    Ok(())
}

#[tokio::test]
async fn idempotent_requests_are_retried_when_the_connection_closes() -> Result<()> {
    // Each connection serves one request and closes at the second.
    let received = Arc::new(AtomicUsize::new(0));
    let count = received.clone();
    let backend = Backend::script(move |_, mut stream| {
        let count = count.clone();
        async move {
            let response = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            for _ in 0..2 {
                if read_head(&mut stream).await.is_empty() {
                    return;
                }
                if count.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) {
                    let _ = stream.write_all(response).await;
                }
            }
        }
    })
    .await?;
    let host = Server::in_front_of(&backend.url("http"), &[])?;
    ensure!(request(host.address, GET).await?.status == 200);
    // Retried on a new connection, as a GET is idempotent.
    let retried = request(host.address, GET).await?;
    ensure!(retried.status == 200, "{retried:?}");
    ensure!(received.load(Ordering::SeqCst) == 3 && backend.connections() == 2);
    // Not retried, as the upstream may have processed the POST.
    let lost = request(host.address, POST).await?;
    ensure!(
        lost.status == 502 && lost.body == "upstream failed\n",
        "{lost:?}"
    );
    ensure!(received.load(Ordering::SeqCst) == 4 && backend.connections() == 2);
    Ok(())
}

#[tokio::test]
async fn closed_connections_are_not_reused() -> Result<()> {
    let backend = Backend::script(|_, mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await;
        // Closes without notice, as servers do with idle connections.
    })
    .await?;
    let host = Server::in_front_of(&backend.url("http"), &[])?;
    for _ in 0..20 {
        let response = request(host.address, GET).await?;
        ensure!(response.status == 200, "{response:?}");
    }
    Ok(())
}

#[tokio::test]
async fn invalid_responses_are_a_502() -> Result<()> {
    for (response, error) in [
        ("", "connection closed"),
        ("HTTP/1.1 200", "connection closed"),
        ("nonsense\r\n\r\n", "invalid HTTP"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            "content-length",
        ),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            "switched",
        ),
    ] {
        let backend = Backend::script(move |_, mut stream| async move {
            read_head(&mut stream).await;
            let _ = stream.write_all(response.as_bytes()).await;
        })
        .await?;
        let host = Server::in_front_of(&backend.url("http"), &[])?;
        for bytes in [GET, POST] {
            let got = request(host.address, bytes).await?;
            ensure!(got.status == 502, "{response:?}: {got:?}");
            ensure!(got.body == "upstream failed\n", "{response:?}: {got:?}");
        }
        host.wait_for_log(&["WARN", "failed", error])
            .await
            .with_context(|| format!("{response:?}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn an_interrupted_response_is_not_completed() -> Result<()> {
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let close = Arc::new(Notify::new());
        let closing = close.clone();
        let backend = Backend::script(move |_, mut stream| {
            let closing = closing.clone();
            async move {
                read_head(&mut stream).await;
                let _ = stream.write_all(head.as_bytes()).await;
                closing.notified().await;
            }
        })
        .await?;
        let host = Server::in_front_of(&backend.url("http"), &[])?;
        let get = Request::get("/").header("host", "a").body(empty())?;
        let mut body = send(host.address, get).await?.into_body();
        ensure!(data(&mut body).await? == "half", "{head:?}");
        close.notify_one();
        ensure!(
            text(body).await.is_err(),
            "{head:?}: the body looks complete"
        );
    }
    Ok(())
}

#[tokio::test]
async fn an_early_response_is_forwarded() -> Result<()> {
    // Responds after the head.
    let backend = Backend::script(|_, mut stream| async move {
        read_head(&mut stream).await;
        let response = "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 8\r\n\r\ntoo much";
        let _ = stream.write_all(response.as_bytes()).await;
        // Keeps reading, so that the connection is not reset before the response is read.
        let _ = stream.shutdown().await;
        let mut rest = vec![0; 64 * 1024];
        while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
    })
    .await?;
    let host = Server::in_front_of(&backend.url("http"), &[])?;
    let (pieces, body) = pieces();
    let post = Request::post("/").header("host", "a").body(body)?;
    pieces
        .send(Ok(Frame::data(Bytes::from(vec![b'x'; 100_000]))))
        .await?;
    let response = send(host.address, post).await?;
    ensure!(response.status() == 413, "{response:?}");
    ensure!(text(response.into_body()).await? == "too much");
    drop(pieces);
    // The host still serves.
    ensure!(request(host.address, GET).await?.status == 413);
    Ok(())
}

#[tokio::test]
async fn an_interrupted_request_is_not_completed() -> Result<()> {
    let (sender, mut results) = tokio::sync::mpsc::channel(1);
    let received = Arc::new(Notify::new());
    let on_receive = received.clone();
    let backend = Backend::serve(move |request: Request<hyper::body::Incoming>| {
        let (sender, on_receive) = (sender.clone(), on_receive.clone());
        async move {
            let mut body = request.into_body();
            let first = data(&mut body).await;
            on_receive.notify_one();
            let rest = text(body).await;
            let _ = sender.send((first.ok(), rest.is_err())).await;
            Response::new(empty())
        }
    })
    .await?;
    for scheme in ["http", "h2c"] {
        let host = Server::in_front_of(&backend.url(scheme), &[])?;
        let mut client = tokio::net::TcpStream::connect(host.address).await?;
        let half = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n";
        client.write_all(half.as_bytes()).await?;
        received.notified().await;
        drop(client);
        let seen = tokio::time::timeout(TIMEOUT, results.recv()).await?;
        ensure!(
            seen == Some((Some("half".to_owned()), true)),
            "{scheme}: {seen:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn proxy_loops_are_detected() -> Result<()> {
    let address = free_address().await?;
    let host = Server::in_front_of(&format!("http://{address}"), &["--listen", &address])?;
    let response = request(host.address, GET).await?;
    ensure!(response.status == 502, "{response:?}");
    host.wait_for_log(&["request loop detected"]).await?;
    Ok(())
}

#[tokio::test]
async fn running_requests_complete_at_shutdown() -> Result<()> {
    let (received, proceed) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (on_receive, may_respond) = (received.clone(), proceed.clone());
    let backend = Backend::serve(move |_| {
        let (on_receive, may_respond) = (on_receive.clone(), may_respond.clone());
        async move {
            on_receive.notify_one();
            may_respond.notified().await;
            Response::new(full("in time"))
        }
    })
    .await?;
    let host = Server::in_front_of(&backend.url("http"), &[])?;
    let address = host.address;
    let request = tokio::spawn(async move { request(address, GET).await });
    received.notified().await;
    host.signal(Signal::TERM)?;
    host.wait_for_log(&["Shutting down"]).await?;
    proceed.notify_one();
    let response = request.await??;
    ensure!(
        response.status == 200 && response.body == "in time",
        "{response:?}"
    );
    ensure!(host.wait().await? == Some(0));
    Ok(())
}

#[tokio::test]
async fn start_errors_name_their_cause() -> Result<()> {
    let manifest = "spin_manifest_version = 2\napplication.name = \"a\"\n[[trigger.http]]\nroute = \"/\"\nstatic_response = {}\n\
                    [[application.tool.socket-host.passthrough]]\nroute = \"/x\"\n";
    let folder = app_with_manifest(manifest);
    let path = folder.path().to_string_lossy().into_owned();
    let start_error = |started: Result<Server>| started.err().map(|error| error.to_string());
    let error = start_error(Server::start(folder.path(), &[])).context("the host starts")?;
    ensure!(error.contains("`upstream` is missing"), "{error}");
    for (url, options, message) in [
        ("127.0.0.1:80", &[][..], "expected a URL"),
        ("http://a/?b", &[], "without a query"),
        ("http://a", &["--build"], "cannot be used with"),
        ("http://a", &["--state-dir", "x"], "cannot be used with"),
        (
            "http://a",
            &["--from", "nowhere.toml"],
            "cannot read the manifest",
        ),
    ] {
        let error = start_error(Server::in_front_of(url, options)).context("the host starts")?;
        ensure!(error.contains(message), "{url} {options:?}: {error}");
    }
    // The same manifest with an upstream.
    Server::in_front_of("http://127.0.0.1:9", &["--from", &path])?;
    Ok(())
}
