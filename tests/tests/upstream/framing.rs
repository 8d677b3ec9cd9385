//! How bodies are framed: transfer codings, lengths, trailers, and uploads that end early.

use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::Value;
use spin_runtime::backend::BodyError;
use tests::{Server, request};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::backend::{Backend, header, mirror, read_head, send_h2, text};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// Returns a server that sends these bytes to each request and then closes the connection.
async fn answering(bytes: &'static [u8]) -> Result<Backend> {
    Backend::script(move |_, mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(bytes).await;
    })
    .await
}

#[tokio::test]
async fn a_response_with_a_transfer_coding_has_no_length() -> Result<()> {
    let backend = answering(
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n\
          2\r\nok\r\n0\r\n\r\n",
    )
    .await?;
    let host = Server::in_front_of(&backend.url("http"), &[])?;
    let response = request(host.address, GET).await?;
    ensure!(
        response.body == "ok" && !response.head.contains("content-length"),
        "{response:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_response_with_another_transfer_coding_is_a_502() -> Result<()> {
    for coding in [
        "gzip, chunked",
        "chunked, chunked",
        "gzip\r\nTransfer-Encoding: chunked",
        "gzip",
    ] {
        let answer =
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: {coding}\r\n\r\n2\r\nok\r\n0\r\n\r\n");
        let backend = answering(answer.leak().as_bytes()).await?;
        let host = Server::in_front_of(&backend.url("http"), &[])?;
        let response = request(host.address, GET).await?;
        ensure!(response.status == 502, "{coding}: {response:?}");
        host.wait_for_log(&["upstream request failed", "unsupported Transfer-Encoding"])
            .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_request_with_another_transfer_coding_is_a_501_on_both_ports() -> Result<()> {
    let backend = Backend::serve(mirror).await?;
    let host = Server::in_front_of(&backend.url("http"), &[])?;
    for address in [host.address, host.control] {
        for coding in ["gzip, chunked", "chunked, chunked", "x, chunked"] {
            let bytes = format!(
                "POST /publish/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: {coding}\r\n\r\n\
                 2\r\nok\r\n0\r\n\r\n"
            );
            let response = request(address, &bytes).await?;
            ensure!(response.status == 501, "{coding}: {response:?}");
            ensure!(response.body.contains("expected chunked"), "{response:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_early_response_reaches_the_client_although_its_upload_was_cut() -> Result<()> {
    let backend = answering(
        b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 9\r\nConnection: close\r\n\r\ntoo large",
    )
    .await?;
    let host = Server::in_front_of(&backend.url("http"), &[])?;
    let length = 4 << 20;
    let with_length = format!("Content-Length: {length}\r\n\r\n");
    let chunked = format!("Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n");
    for framing in [with_length, chunked] {
        for _ in 0..20 {
            let mut stream = TcpStream::connect(host.address).await?;
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{framing}");
            stream.write_all(head.as_bytes()).await?;
            // The client reads the response only when it has sent all it can.
            let piece = vec![b'x'; 64 << 10];
            for _ in 0..length / piece.len() {
                if stream.write_all(&piece).await.is_err() {
                    break;
                }
            }
            let mut response = Vec::new();
            let read = stream.read_to_end(&mut response).await;
            let response = String::from_utf8_lossy(&response).into_owned();
            ensure!(
                response.starts_with("HTTP/1.1 413 ") && response.ends_with("too large"),
                "{response:?} {read:?}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_get_keeps_its_body() -> Result<()> {
    let backend = Backend::serve(mirror).await?;
    let host = Server::in_front_of(&backend.url("http"), &[])?;
    // The large body is passed on while it arrives, so its length is unknown.
    for size in [3, 200_000] {
        let body = "x".repeat(size);
        for method in ["GET", "POST", "DELETE"] {
            let bytes = format!(
                "{method} / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                 {size:x}\r\n{body}\r\n0\r\n\r\n"
            );
            let response = request(host.address, &bytes).await?;
            let seen: Value = serde_json::from_str(&response.body)?;
            ensure!(seen["body"] == body.as_str(), "{method} {size}: body lost");
        }
    }
    let seen: Value = serde_json::from_str(&request(host.address, GET).await?.body)?;
    ensure!(header(&seen, "transfer-encoding").is_empty(), "{seen}");
    Ok(())
}

#[tokio::test]
async fn a_malformed_body_is_a_400_and_no_fault_of_the_upstream() -> Result<()> {
    let backend = Backend::serve(mirror).await?;
    let host = Server::in_front_of(&backend.url("http"), &[])?;
    let large = format!("{:x}\r\n{}\r\n", 100_000, "x".repeat(100_000));
    for body in [
        "zz\r\nabc\r\n0\r\n\r\n".to_owned(),
        "3\r\nabcd\r\n0\r\n\r\n".to_owned(),
        format!("{large}zz\r\n"),
    ] {
        let bytes =
            format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        let response = request(host.address, &bytes).await?;
        ensure!(response.status == 400, "{response:?}");
        ensure!(response.body == "malformed request body\n", "{response:?}");
    }
    let log = host.log_text();
    ensure!(!log.contains("upstream request failed"), "{log}");
    Ok(())
}

#[tokio::test]
async fn trailers_cannot_pose_as_headers() -> Result<()> {
    let backend = Backend::serve(async |request: Request<hyper::body::Incoming>| {
        let trailers = request.into_body().collect().await.map(|body| {
            let trailers = body.trailers().cloned().unwrap_or_default();
            let names: Vec<_> = trailers.keys().map(ToString::to_string).collect();
            names.join(" ")
        });
        http::Response::new(spin_runtime::backend::full(trailers.unwrap_or_default()))
    })
    .await?;
    let names = [
        "grip-sig",
        "meta_user",
        "x-forwarded-for",
        "x_forwarded_for",
        "content-length",
        "connection-id",
        "x-sum",
    ];
    for scheme in ["http", "h2c"] {
        let host = Server::in_front_of(&backend.url(scheme), &[])?;
        let mut trailers = HeaderMap::new();
        for name in names {
            trailers.insert(name, HeaderValue::from_static("1"));
        }
        let frames = [
            Ok::<_, BodyError>(Frame::data(Bytes::from_static(b"hi"))),
            Ok(Frame::trailers(trailers)),
        ];
        let body = StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
        let request = Request::post(format!("http://{}/", host.address))
            .header("te", "trailers")
            .header("trailer", names.join(", "))
            .body(body)?;
        let seen = text(send_h2(host.address, request).await?.into_body()).await?;
        ensure!(seen == "x-sum", "{scheme}: {seen}");
    }
    Ok(())
}

#[tokio::test]
async fn a_client_that_stops_sending_gets_its_response() -> Result<()> {
    let backend = Backend::serve(async |request: Request<hyper::body::Incoming>| {
        // Responds before the body has arrived.
        tokio::time::sleep(Duration::from_millis(10)).await;
        drop(request);
        http::Response::new(spin_runtime::backend::full("done"))
    })
    .await?;
    let host = Server::in_front_of(&backend.url("http"), &[])?;
    let bytes = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    let response = request(host.address, bytes).await?;
    ensure!(response.body == "done", "{response:?}");
    Ok(())
}
