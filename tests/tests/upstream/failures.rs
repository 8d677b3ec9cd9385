//! An upstream that is not there, late, or wrong.

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
use tests::{PATIENCE, Server, manifest_in_folder, request};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::Notify,
};

use super::backend::{Backend, data, mirror, pieces, read_head, send, text};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";

/// An address where nobody listens.
async fn nowhere() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    Ok(listener.local_addr()?.to_string())
}

#[tokio::test]
async fn an_upstream_that_is_not_there() -> Result<()> {
    let nowhere = nowhere().await?;
    for url in [
        format!("http://{nowhere}"),
        format!("h2c://{nowhere}"),
        format!("https://{nowhere}"),
        "http://does-not-exist.invalid".to_owned(),
    ] {
        let host = Server::in_front_of(&url, &[])?;
        for asked in [GET, POST] {
            let answer = request(host.address, asked).await?;
            ensure!(answer.status == 502, "{url}: {answer:?}");
            ensure!(
                answer.body == "upstream unreachable\n",
                "{url}: {answer:?}"
            );
        }
        host.logged(&["WARN", "upstream request failed", &url]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_upstream_without_the_promised_protocol() -> Result<()> {
    let plain = Backend::script(|_, mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            .await;
    })
    .await?;
    for scheme in ["h2c", "https"] {
        let host = Server::in_front_of(&plain.url(scheme), &[])?;
        let answer = request(host.address, GET).await?;
        ensure!(answer.status == 502, "{scheme}: {answer:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_upstream_that_is_late() -> Result<()> {
    let backend = Backend::serve(|request: Request<_>| async move {
        match request.uri().path() {
            "/late" => std::future::pending().await,
            _ => mirror(request).await,
        }
    })
    .await?;
    let in_front = async |scheme: &'static str| {
        let host = Server::in_front_of(&backend.url(scheme), &["--request-timeout", "3s"])?;
        let late = request(host.address, "GET /late HTTP/1.1\r\nHost: a\r\n\r\n").await?;
        ensure!(late.status == 504, "{scheme}: {late:?}");
        ensure!(
            late.body == "request timed out\n",
            "{scheme}: {late:?}"
        );
        // A request that takes longer to come than its answer may is not late.
        let (pieces, body) = pieces();
        let asked = Request::post("/").header("host", "a").body(body)?;
        let writing = tokio::spawn(async move {
            for _ in 0..9 {
                pieces.send(Ok(Frame::data(Bytes::from("piece ")))).await?;
                tokio::time::sleep(Duration::from_millis(400)).await;
            }
            anyhow::Ok(())
        });
        let answer = send(host.address, asked).await?;
        ensure!(answer.status() == 200, "{scheme}: {answer:?}");
        let seen: serde_json::Value = serde_json::from_str(&text(answer.into_body()).await?)?;
        ensure!(seen["body"] == "piece ".repeat(9), "{scheme}: {seen}");
        writing.await?
    };
    tokio::try_join!(in_front("http"), in_front("h2c"))?;
    Ok(())
}

#[tokio::test]
async fn a_connection_that_ends_under_a_request() -> Result<()> {
    // Each connection answers once, and ends when it is asked again.
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let backend = Backend::script(move |_, mut stream| {
        let count = count.clone();
        async move {
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            for _ in 0..2 {
                if read_head(&mut stream).await.is_empty() {
                    return;
                }
                if count.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) {
                    let _ = stream.write_all(answer).await;
                }
            }
        }
    })
    .await?;
    let host = Server::in_front_of(&backend.url("http"), &[])?;
    ensure!(request(host.address, GET).await?.status == 200);
    // Sent again on a new connection, since it changes nothing.
    let again = request(host.address, GET).await?;
    ensure!(again.status == 200, "{again:?}");
    ensure!(asked.load(Ordering::SeqCst) == 3 && backend.connections() == 2);
    // Not sent again, since it may have been acted on.
    let lost = request(host.address, POST).await?;
    ensure!(
        lost.status == 502 && lost.body == "upstream failed\n",
        "{lost:?}"
    );
    ensure!(asked.load(Ordering::SeqCst) == 4 && backend.connections() == 2);
    Ok(())
}

#[tokio::test]
async fn a_connection_that_has_ended_is_not_used_again() -> Result<()> {
    let backend = Backend::script(|_, mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await;
        // Ends without a word, as servers do with idle connections.
    })
    .await?;
    let host = Server::in_front_of(&backend.url("http"), &[])?;
    for _ in 0..20 {
        let answer = request(host.address, GET).await?;
        ensure!(answer.status == 200, "{answer:?}");
    }
    Ok(())
}

#[tokio::test]
async fn answers_that_are_none() -> Result<()> {
    for (answer, why) in [
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
            let _ = stream.write_all(answer.as_bytes()).await;
        })
        .await?;
        let host = Server::in_front_of(&backend.url("http"), &[])?;
        for asked in [GET, POST] {
            let got = request(host.address, asked).await?;
            ensure!(got.status == 502, "{answer:?}: {got:?}");
            ensure!(got.body == "upstream failed\n", "{answer:?}: {got:?}");
        }
        host.logged(&["WARN", "failed", why])
            .await
            .with_context(|| format!("{answer:?}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_taken_for_whole() -> Result<()> {
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let go = Arc::new(Notify::new());
        let broken = go.clone();
        let backend = Backend::script(move |_, mut stream| {
            let broken = broken.clone();
            async move {
                read_head(&mut stream).await;
                let _ = stream.write_all(head.as_bytes()).await;
                broken.notified().await;
            }
        })
        .await?;
        let host = Server::in_front_of(&backend.url("http"), &[])?;
        let asked = Request::get("/").header("host", "a").body(empty())?;
        let mut body = send(host.address, asked).await?.into_body();
        ensure!(data(&mut body).await? == "half", "{head:?}");
        go.notify_one();
        ensure!(
            text(body).await.is_err(),
            "{head:?}: the end looks like one"
        );
    }
    Ok(())
}

#[tokio::test]
async fn an_answer_before_the_request_has_ended() -> Result<()> {
    // It answers after the head, and reads no more.
    let backend = Backend::script(|_, mut stream| async move {
        read_head(&mut stream).await;
        let refusal = "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 8\r\n\r\ntoo much";
        let _ = stream.write_all(refusal.as_bytes()).await;
        // Not reset before the answer is read.
        let _ = stream.shutdown().await;
        let mut rest = vec![0; 64 * 1024];
        while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
    })
    .await?;
    let host = Server::in_front_of(&backend.url("http"), &[])?;
    let (pieces, body) = pieces();
    let asked = Request::post("/").header("host", "a").body(body)?;
    pieces
        .send(Ok(Frame::data(Bytes::from(vec![b'x'; 100_000]))))
        .await?;
    let answer = send(host.address, asked).await?;
    ensure!(answer.status() == 413, "{answer:?}");
    ensure!(text(answer.into_body()).await? == "too much");
    drop(pieces);
    // And the host serves on.
    ensure!(request(host.address, GET).await?.status == 413);
    Ok(())
}

#[tokio::test]
async fn a_request_that_breaks_off_is_not_taken_for_whole() -> Result<()> {
    let (seen, mut broken) = tokio::sync::mpsc::channel(1);
    let backend = Backend::serve(move |request: Request<hyper::body::Incoming>| {
        let seen = seen.clone();
        async move {
            let mut body = request.into_body();
            let first = data(&mut body).await;
            let rest = text(body).await;
            let _ = seen.send((first.ok(), rest.is_err())).await;
            Response::new(empty())
        }
    })
    .await?;
    for scheme in ["http", "h2c"] {
        let host = Server::in_front_of(&backend.url(scheme), &[])?;
        let mut client = tokio::net::TcpStream::connect(host.address).await?;
        let half = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n";
        client.write_all(half.as_bytes()).await?;
        drop(client);
        let seen = tokio::time::timeout(PATIENCE, broken.recv()).await?;
        // A reset overtakes what was sent before it.
        ensure!(matches!(seen, Some((_, true))), "{scheme}: {seen:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_circle_comes_to_its_end() -> Result<()> {
    let address = nowhere().await?;
    let host = Server::in_front_of(&format!("http://{address}"), &["--listen", &address])?;
    let answer = request(host.address, GET).await?;
    ensure!(answer.status == 502, "{answer:?}");
    host.logged(&["request loop detected"]).await?;
    Ok(())
}

#[tokio::test]
async fn requests_under_way_are_finished_at_the_end() -> Result<()> {
    let (asked, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (seen, answer) = (asked.clone(), go.clone());
    let backend = Backend::serve(move |_| {
        let (seen, answer) = (seen.clone(), answer.clone());
        async move {
            seen.notify_one();
            answer.notified().await;
            Response::new(full("in time"))
        }
    })
    .await?;
    let host = Server::in_front_of(&backend.url("http"), &[])?;
    let address = host.address;
    let request = tokio::spawn(async move { request(address, GET).await });
    asked.notified().await;
    host.signal(Signal::TERM)?;
    host.logged(&["Stopping"]).await?;
    go.notify_one();
    let answer = request.await??;
    ensure!(
        answer.status == 200 && answer.body == "in time",
        "{answer:?}"
    );
    ensure!(host.ended().await? == Some(0));
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_started_says_why() -> Result<()> {
    let manifest = "spin_manifest_version = 2\napplication.name = \"a\"\n[[trigger.http]]\nroute = \"/\"\nstatic_response = {}\n\
                    [[application.tool.socket-host.passthrough]]\nroute = \"/x\"\n";
    let folder = manifest_in_folder(manifest);
    let path = folder.path().to_string_lossy().into_owned();
    let refused = |started: Result<Server>| started.err().map(|error| error.to_string());
    let error = refused(Server::start(folder.path(), &[])).context("it starts")?;
    ensure!(error.contains("`upstream` is missing"), "{error}");
    for (url, options, why) in [
        ("127.0.0.1:80", &[][..], "expected a URL"),
        ("http://a/?b", &[], "without a query"),
        ("http://a", &["--build"], "cannot be used with"),
        ("http://a", &["--state-dir", "x"], "cannot be used with"),
        ("http://a", &["--from", "nowhere.toml"], "cannot be read"),
    ] {
        let error = refused(Server::in_front_of(url, options)).context("it starts")?;
        ensure!(error.contains(why), "{url} {options:?}: {error}");
    }
    // The same manifest, where there is a server behind it.
    Server::in_front_of("http://127.0.0.1:9", &["--from", &path])?;
    Ok(())
}
