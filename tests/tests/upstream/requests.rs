//! Requests and responses pass the proxy unchanged, except for hop-by-hop headers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use grip::signature::{Key, verify};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use serde_json::Value;
use spin_runtime::backend::{Body, empty, full};
use tests::{Server, TIMEOUT, eventually, request};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Barrier,
    time::timeout,
};

use super::backend::{
    Backend, data, frame, header, mirror, pieces, read_head, send, send_h2, text,
};

async fn seen(host: &Server, request: Request<Body>) -> Result<Value> {
    let response = send(host.address, request).await?;
    ensure!(response.status() == 200, "{response:?}");
    Ok(serde_json::from_str(&text(response.into_body()).await?)?)
}

#[tokio::test]
async fn requests_are_forwarded_unchanged() -> Result<()> {
    let backend = Backend::serve(mirror).await?;
    for scheme in ["http", "h2c"] {
        let before = backend.connections();
        let url = backend.url(scheme) + "/base/";
        let host = Server::in_front_of(&url, &["--grip-key", "secret"])?;
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"] {
            let target = "/a%2Fb/.././c//d;e?x=1&y=%20?z";
            let body = match method {
                "GET" => String::new(),
                _ => "content".repeat(10_000),
            };
            let request = Request::builder()
                .method(method)
                .uri(target)
                .header("host", "burger.example:81")
                .header("x-twice", "1")
                .header("x-twice", "2")
                .header("cookie", "a=1")
                .header("cookie", "b=2")
                .header("x-bytes", HeaderValue::from_bytes(b"\xff\xe9")?)
                .body(full(body.clone()))?;
            let seen = seen(&host, request).await?;
            ensure!(seen["method"] == method, "{seen}");
            let uri = match scheme {
                "http" => format!("/base{target}"),
                _ => format!("http://burger.example:81/base{target}"),
            };
            ensure!(seen["uri"] == uri, "{} instead of {uri}", seen["uri"]);
            ensure!(seen["body"] == body, "{method}: the body differs");
            ensure!(header(&seen, "x-twice") == ["1", "2"], "{seen}");
            ensure!(header(&seen, "cookie") == ["a=1; b=2"], "{seen}");
            ensure!(header(&seen, "x-bytes") == ["\u{fffd}\u{fffd}"], "{seen}");
            ensure!(header(&seen, "via") == ["1.1 socket-host"], "{seen}");
            ensure!(header(&seen, "x-forwarded-for") == ["127.0.0.1"], "{seen}");
            ensure!(header(&seen, "x-forwarded-host") == ["burger.example:81"]);
            ensure!(header(&seen, "x-forwarded-proto") == ["http"]);
            ensure!(
                header(&seen, "forwarded")
                    == ["for=127.0.0.1;host=\"burger.example:81\";proto=http"],
                "{seen}"
            );
            let token = header(&seen, "grip-sig");
            ensure!(token.len() == 1, "{seen}");
            verify(&Key::parse("secret")?, token[0], SystemTime::now()).context("Grip-Sig")?;
            if scheme == "http" {
                ensure!(header(&seen, "host") == ["burger.example:81"], "{seen}");
                ensure!(seen["version"] == "HTTP/1.1", "{seen}");
            } else {
                ensure!(header(&seen, "host").is_empty(), "{seen}");
                ensure!(seen["version"] == "HTTP/2.0", "{seen}");
            }
        }
        // A request may arrive just before the last one has returned its connection.
        let max = if scheme == "http" { 4 } else { 1 };
        let opened = backend.connections() - before;
        ensure!(opened <= max, "{scheme}: {opened} connections");
    }
    Ok(())
}

#[tokio::test]
async fn responses_are_forwarded_unchanged() -> Result<()> {
    async fn teapot(request: Request<Incoming>) -> Response<Body> {
        let mut response = Response::new(match *request.method() {
            Method::HEAD => empty(),
            _ => full("short and stout"),
        });
        *response.status_mut() = StatusCode::IM_A_TEAPOT;
        let headers = response.headers_mut();
        headers.append("content-length", HeaderValue::from_static("15"));
        headers.append("set-cookie", HeaderValue::from_static("a=1"));
        headers.append("set-cookie", HeaderValue::from_static("b=2"));
        headers.append("server", HeaderValue::from_static("kettle"));
        response
    }
    let backend = Backend::serve(teapot).await?;
    for scheme in ["http", "h2c"] {
        let host = Server::in_front_of(&backend.url(scheme), &[])?;
        for method in ["GET", "HEAD"] {
            let plain = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
            let response = request(host.address, &plain).await?;
            ensure!(response.status == 418, "{response:?}");
            ensure!(
                response.head.starts_with("HTTP/1.1 418 I'm a teapot\r\n"),
                "{response:?}"
            );
            for line in [
                "content-length: 15",
                "set-cookie: a=1",
                "set-cookie: b=2",
                "server: kettle",
            ] {
                ensure!(response.head.contains(line), "{line}: {response:?}");
            }
            let body = if method == "GET" {
                "short and stout"
            } else {
                ""
            };
            ensure!(response.body == body, "{response:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn hop_by_hop_headers_are_removed() -> Result<()> {
    let backend = Backend::serve(mirror).await?;
    let host = Server::in_front_of(&backend.url("http"), &[])?;
    let hops = "Connection: x-hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
                Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eDp5\r\nTE: trailers, deflate\r\n\
                Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nExpect: 100-continue\r\nX-End: 2\r\n";
    let bytes = format!("GET / HTTP/1.1\r\nHost: a\r\n{hops}\r\n");
    let response = request(host.address, &bytes).await?;
    let seen: Value = serde_json::from_str(&response.body)?;
    for name in [
        "x-hop",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "upgrade",
        "http2-settings",
        "expect",
        "transfer-encoding",
    ] {
        ensure!(header(&seen, name).is_empty(), "{name}: {seen}");
    }
    ensure!(
        header(&seen, "x-end") == ["2"] && header(&seen, "te") == ["trailers"],
        "{seen}"
    );

    let raw = Backend::script(|_, mut stream| async move {
        read_head(&mut stream).await;
        let response = "HTTP/1.1 200 OK\r\nConnection: close, X-Secret\r\nX-Secret: 1\r\nKeep-Alive: timeout=9\r\n\
                      Proxy-Authenticate: Basic\r\nUpgrade: h2c\r\nX-End: 2\r\nContent-Length: 2\r\n\r\nok";
        let _ = stream.write_all(response.as_bytes()).await;
    })
    .await?;
    let host = Server::in_front_of(&raw.url("http"), &[])?;
    let response = request(host.address, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await?;
    ensure!(
        response.status == 200 && response.body == "ok",
        "{response:?}"
    );
    ensure!(response.head.contains("x-end: 2"), "{response:?}");
    for name in [
        "x-secret",
        "keep-alive",
        "proxy-authenticate",
        "upgrade",
        "close",
    ] {
        ensure!(
            !response.head.to_ascii_lowercase().contains(name),
            "{name}: {response:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn forwarded_headers_of_an_outer_proxy_are_extended() -> Result<()> {
    let backend = Backend::serve(mirror).await?;
    let host = Server::in_front_of(&backend.url("http"), &[])?;
    let request = Request::get("/")
        .header("host", "inner")
        .header("x-forwarded-for", "203.0.113.9")
        .header("x-forwarded-host", "burger.example")
        .header("x-forwarded-proto", "https")
        .header("grip-sig", "forged")
        .header("meta-user", "forged")
        .body(empty())?;
    let seen = seen(&host, request).await?;
    ensure!(
        header(&seen, "x-forwarded-for") == ["203.0.113.9, 127.0.0.1"],
        "{seen}"
    );
    ensure!(
        header(&seen, "x-forwarded-host") == ["burger.example"],
        "{seen}"
    );
    ensure!(header(&seen, "x-forwarded-proto") == ["https"], "{seen}");
    ensure!(
        header(&seen, "forwarded")
            == ["for=203.0.113.9, for=127.0.0.1;host=burger.example;proto=https"],
        "{seen}"
    );
    ensure!(header(&seen, "meta-user").is_empty(), "{seen}");
    ensure!(header(&seen, "grip-sig") != ["forged"], "{seen}");
    Ok(())
}

/// Streams the request's body and trailers back.
async fn echo(request: Request<Incoming>) -> Response<Body> {
    let mut response = Response::new(request.into_body().map_err(Into::into).boxed_unsync());
    response
        .headers_mut()
        .insert("trailer", HeaderValue::from_static("x-sum"));
    response
}

#[tokio::test]
async fn bodies_and_trailers_are_streamed_both_ways() -> Result<()> {
    let backend = Backend::serve(echo).await?;
    for (scheme, client) in [("http", "h1"), ("h2c", "h1"), ("http", "h2"), ("h2c", "h2")] {
        let what = format!("{client} before {scheme}");
        let host = Server::in_front_of(&backend.url(scheme), &[])?;
        let (pieces, body) = pieces();
        let request = Request::post(format!("http://{}/echo", host.address))
            .header("host", host.address.to_string())
            .header("te", "trailers")
            .header("trailer", "x-sum")
            .body(body)?;
        let response = match client {
            "h1" => send(host.address, request).await,
            _ => send_h2(host.address, request).await,
        };
        let mut response = response.context(what.clone())?.into_body();
        for piece in ["one", "two", "three"] {
            pieces.send(Ok(Frame::data(Bytes::from(piece)))).await?;
            // The next piece is sent after this one has been received.
            ensure!(
                data(&mut response).await.context(what.clone())? == piece,
                "{what}"
            );
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("3"));
        pieces.send(Ok(Frame::trailers(trailers.clone()))).await?;
        drop(pieces);
        let last = frame(&mut response)
            .await?
            .with_context(|| format!("{what}: no trailers"))?;
        ensure!(last.into_trailers().ok() == Some(trailers), "{what}");
        ensure!(frame(&mut response).await?.is_none(), "{what}");
    }
    Ok(())
}

#[tokio::test]
async fn connections_are_shared_and_reused() -> Result<()> {
    // No request is served before all have arrived.
    let together = Arc::new(Barrier::new(20));
    let backend = Backend::serve(move |_| {
        let together = together.clone();
        async move {
            together.wait().await;
            Response::new(full("all here"))
        }
    })
    .await?;
    for (scheme, max) in [("http", 60), ("h2c", 1)] {
        let before = backend.connections();
        let host = Server::in_front_of(&backend.url(scheme), &[])?;
        for _ in 0..5 {
            let requests = (0..20).map(|_| host.get("/"));
            for response in futures_util::future::join_all(requests).await {
                ensure!(response? == (200, "all here".to_owned()));
            }
        }
        let opened = backend.connections() - before;
        ensure!(opened <= max, "{scheme}: {opened} connections");
    }
    Ok(())
}

#[tokio::test]
async fn a_client_disconnect_closes_the_upstream_request() -> Result<()> {
    let open = Arc::new(AtomicUsize::new(0));
    let count = open.clone();
    let backend = Backend::serve(move |_| {
        let count = count.clone();
        async move {
            count.fetch_add(1, Ordering::SeqCst);
            let (pieces, body) = pieces();
            let _ = pieces.send(Ok(Frame::data(Bytes::from("held")))).await;
            tokio::spawn(async move {
                pieces.closed().await;
                count.fetch_sub(1, Ordering::SeqCst);
            });
            Response::new(body)
        }
    })
    .await?;
    for scheme in ["http", "h2c"] {
        let host = Server::in_front_of(&backend.url(scheme), &[])?;
        let response = send(
            host.address,
            Request::get("/").header("host", "a").body(empty())?,
        )
        .await?;
        let mut body = response.into_body();
        ensure!(data(&mut body).await? == "held");
        ensure!(open.load(Ordering::SeqCst) == 1);
        drop(body);
        eventually("the upstream to notice", async || {
            (open.load(Ordering::SeqCst) == 0).then_some(())
        })
        .await
        .context(scheme)?;
    }
    Ok(())
}

/// The host replaces only the empty responses of its HTTP library.
#[tokio::test]
async fn empty_responses_to_pipelined_requests_keep_their_fields() -> Result<()> {
    for status in [400, 431] {
        let backend = Backend::serve(move |_| async move {
            let mut response = Response::new(empty());
            *response.status_mut() = StatusCode::from_u16(status).expect("a status");
            let own = HeaderValue::from_static("yes");
            response.headers_mut().insert("x-own", own);
            response
        })
        .await?;
        let host = Server::in_front_of(&backend.url("http"), &[])?;
        let mut stream = TcpStream::connect(host.address).await?;
        let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        stream.write_all(get.repeat(2).as_bytes()).await?;
        let mut received = String::new();
        while received.matches("\r\n\r\n").count() < 2 {
            let mut buffer = [0; 1000];
            let read = timeout(TIMEOUT, stream.read(&mut buffer)).await??;
            ensure!(read > 0, "{received}");
            received += std::str::from_utf8(&buffer[..read])?;
        }
        ensure!(received.matches("x-own: yes").count() == 2, "{received}");
        ensure!(!received.contains("malformed"), "{received}");
    }
    Ok(())
}
