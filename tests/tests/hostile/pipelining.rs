//! Several requests on one connection: after one that is refused, none is served.

use anyhow::{Context as _, Result, ensure};
use tests::{TIMEOUT, request};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::fixture::{GET, Hosts, NEXT, Outcome, case, exchange};
use Outcome::Refused;

/// Requests that are refused in different places: by the HTTP library, by the check of the framing, and
/// by the host.
const BAD: [(&str, u16); 6] = [
    ("GET / HTTP/1.1\r\nHost: a\r\nX : a\r\n\r\n", 400),
    ("GET / HTTP/1.1\nHost: a\n\n", 400),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        501,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        400,
    ),
];

#[tokio::test]
async fn nothing_after_a_bad_request_is_served() -> Result<()> {
    let mut hosts = Hosts::start().await?;
    for (bad, status) in BAD {
        let bytes = format!("{GET}\r\n{GET}\r\n{bad}{GET}\r\n{NEXT}");
        for address in [hosts.embedded.address, hosts.proxy.address] {
            let responses = exchange(address, bytes.as_bytes()).await?;
            ensure!(
                responses.statuses == [200, 200, status],
                "{bad:?}: {responses:?}"
            );
        }
        let received = hosts.upstream.take();
        ensure!(received.len() == 2, "{bad:?}: {received:?}");
    }
    Ok(())
}

#[tokio::test]
async fn the_body_of_a_refused_request_is_not_served() -> Result<()> {
    let length = NEXT.len();
    let cases = [
        case(
            format!("POST / HTTP/1.1\r\nHost: u@a\r\nContent-Length: {length}\r\n\r\n{NEXT}"),
            Refused(400),
        ),
        case(
            format!("TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{NEXT}"),
            Refused(501),
        ),
        case(
            format!("CONNECT a:80 HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{NEXT}"),
            Refused(501),
        ),
    ];
    Hosts::start().await?.check(cases).await
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_sends_on() -> Result<()> {
    let hosts = Hosts::start().await?;
    let more = "x".repeat(4 << 20);
    let host = &hosts.proxy;
    for (bad, status) in BAD {
        for length in ["", "Content-Length: 4194304\r\n"] {
            // Only some have a place for a length.
            let bad = bad.replacen("u@a\r\n", &format!("u@a\r\n{length}"), 1);
            let mut stream = TcpStream::connect(host.address).await?;
            stream.write_all(bad.as_bytes()).await?;
            // The response is read only when everything is sent that can be.
            let sent = timeout(TIMEOUT, stream.write_all(more.as_bytes())).await;
            let _ = sent.context("sending stalls")?;
            let mut response = Vec::new();
            let read = timeout(TIMEOUT, stream.read_to_end(&mut response)).await;
            let response = String::from_utf8_lossy(&response).into_owned();
            ensure!(
                response.starts_with(&format!("HTTP/1.1 {status} ")) && response.ends_with('\n'),
                "{bad:?}: {response:?} {read:?}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn requests_in_a_row_are_served_in_order() -> Result<()> {
    let mut hosts = Hosts::start().await?;
    let requests: String = (0..100)
        .map(|number| match number % 3 {
            0 => format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n"),
            1 => format!("POST /{number} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n\n\n"),
            _ => format!(
                "POST /{number} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                 2;x\r\n\r\n\r\n0\r\n\r\n"
            ),
        })
        .collect();
    let bytes = format!("{requests}{NEXT}");
    let responses = exchange(hosts.proxy.address, bytes.as_bytes()).await?;
    ensure!(responses.statuses == [200; 101], "{responses:?}");
    let received = hosts.upstream.take();
    for (number, received) in received.iter().take(100).enumerate() {
        let target = received.line.split(' ').nth(1);
        ensure!(
            target == Some(&*format!("/{number}")),
            "{number}: {received:?}"
        );
        let body = ["", "\n\n", "\r\n"][number % 3];
        ensure!(received.body == body, "{number}: {received:?}");
    }
    Ok(())
}

#[tokio::test]
async fn requests_may_arrive_byte_by_byte() -> Result<()> {
    let mut hosts = Hosts::start().await?;
    for (bad, status) in BAD {
        let mut stream = TcpStream::connect(hosts.proxy.address).await?;
        stream.set_nodelay(true)?;
        let (mut reader, mut writer) = stream.split();
        let writing = async {
            for byte in format!("{GET}\r\n{bad}{NEXT}").bytes() {
                if writer.write_all(&[byte]).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        };
        let mut received = Vec::new();
        let reading = timeout(TIMEOUT, reader.read_to_end(&mut received));
        let (_, read) = tokio::join!(writing, reading);
        read.context("not closed")??;
        let text = String::from_utf8_lossy(&received);
        ensure!(
            text.contains(&format!("HTTP/1.1 {status} ")),
            "{bad:?}: {text}"
        );
        ensure!(text.matches("HTTP/1.1 ").count() == 2, "{bad:?}: {text}");
        ensure!(hosts.upstream.take().len() == 1, "{bad:?}");
    }
    // The control port does the same.
    let response = request(hosts.proxy.control, BAD[2].0).await?;
    ensure!(response.status == 400, "{response:?}");
    Ok(())
}
