//! The same over HTTP/2 with prior knowledge (RFC 9113). `tls/pseudo_headers.rs` and `tls/hostile.rs`
//! have wrong pseudo-headers and floods.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use tests::{
    TIMEOUT,
    http2_frame::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PRIORITY,
        RST_STREAM, SETTINGS, WINDOW_UPDATE, frame, literals, read_frame, start,
    },
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::timeout};

use crate::fixture::Hosts;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A response with status 200.
    Served,
    /// A response with status 400.
    Refused,
    /// A response with status 404.
    NotFound,
    /// A response with another status.
    Other,
    /// The stream is reset.
    Reset,
    /// The connection is closed.
    Closed,
}
use Outcome::{Closed, NotFound, Other, Refused, Reset, Served};

/// Sends frames on a new connection, and waits for what becomes of stream 1.
pub async fn send(address: SocketAddr, frames: &[u8]) -> Result<Outcome> {
    let mut stream = TcpStream::connect(address).await?;
    start(&mut stream).await?;
    // The host may close the connection at the first of them.
    let _ = stream.write_all(frames).await;
    let outcome = async {
        loop {
            let Ok(frame) = read_frame(&mut stream).await else {
                return Closed;
            };
            match (frame.kind, frame.stream) {
                // `:status` in the static table (RFC 7541, appendix A).
                (HEADERS, 1) => {
                    return match frame.payload.first() {
                        Some(0x88) => Served,
                        Some(0x8c) => Refused,
                        Some(0x8d) => NotFound,
                        _ => Other,
                    };
                }
                (RST_STREAM, 1) => return Reset,
                (GOAWAY, _) => return Closed,
                _ => {}
            }
        }
    };
    timeout(TIMEOUT, outcome).await.context("nothing happens")
}

/// The pseudo-headers of a POST.
const POST: [(&str, &str); 4] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "a"),
];

/// Returns a HEADERS frame of a POST with more fields.
fn headers(flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    let fields = [&POST[..], fields].concat();
    frame(HEADERS, END_HEADERS | flags, 1, &literals(&fields))
}

/// Returns a POST without a body, one of whose pseudo-headers is replaced.
pub fn replaced(name: &str, value: &str) -> Vec<u8> {
    let replace = |(own, it)| if own == name { (own, value) } else { (own, it) };
    let fields = POST.map(replace);
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &literals(&fields))
}

/// Returns the frames of a POST with these fields and this body.
fn post(fields: &[(&str, &str)], body: &str) -> Vec<u8> {
    [
        headers(0, fields),
        frame(DATA, END_STREAM, 1, body.as_bytes()),
    ]
    .concat()
}

/// Sends each case to both hosts. Only requests that are served may reach the upstream, with `hello`
/// as their body, if they have one.
async fn check(cases: Vec<(&str, Vec<u8>, Outcome)>) -> Result<()> {
    let mut hosts = Hosts::start().await?;
    let mut failures = Vec::new();
    for (what, frames, expected) in cases {
        for address in [hosts.embedded.address, hosts.proxy.address] {
            let outcome = send(address, &frames).await.context(what.to_owned())?;
            if outcome != expected {
                failures.push(format!("{what}: {outcome:?}, not {expected:?}"));
            }
        }
        let received = hosts.upstream.take();
        let is_expected = match expected {
            Served => received.len() == 1 && matches!(&*received[0].body, "" | "hello"),
            _ => received.is_empty(),
        };
        if !is_expected {
            failures.push(format!("{what}: received {received:?}"));
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

#[tokio::test]
async fn lengths_match_the_data() -> Result<()> {
    let length = |length| [("content-length", length)];
    check(vec![
        (
            "the length of the body",
            post(&length("5"), "hello"),
            Served,
        ),
        ("no length", post(&[], "hello"), Served),
        (
            "a body that is too short",
            post(&length("6"), "hello"),
            Reset,
        ),
        (
            "a body that is too long",
            post(&length("4"), "hello"),
            Reset,
        ),
        ("a body beyond zero", post(&length("0"), "hello"), Reset),
        ("no body", headers(END_STREAM, &length("5")), Reset),
        ("a sign", post(&length("+5"), "hello"), Reset),
        ("a list", post(&length("5, 5"), "hello"), Reset),
        ("no number", post(&length("x"), "hello"), Reset),
        ("an empty length", post(&length(""), "hello"), Reset),
        (
            "more than 64 bits",
            post(&length("18446744073709551621"), "hello"),
            Reset,
        ),
        (
            "the same length twice",
            post(&[("content-length", "5"), ("content-length", "5")], "hello"),
            Refused,
        ),
        (
            "two lengths",
            post(&[("content-length", "5"), ("content-length", "6")], "hello"),
            Reset,
        ),
    ])
    .await
}

#[tokio::test]
async fn headers_about_the_connection_are_refused() -> Result<()> {
    let mut cases = Vec::new();
    for field in [
        ("connection", "close"),
        ("connection", "content-length"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", "identity"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
    ] {
        cases.push((field.0, post(&[field], "hello"), Reset));
    }
    cases.push(("te", post(&[("te", "trailers")], "hello"), Served));
    cases.push((
        "an underscore",
        post(&[("transfer_encoding", "chunked")], "hello"),
        Served,
    ));
    check(cases).await
}

#[tokio::test]
async fn fields_of_http_1_cannot_be_smuggled() -> Result<()> {
    let field = |name, value| post(&[(name, value)], "hello");
    check(vec![
        ("a name in capitals", field("X-Y", "a"), Closed),
        ("an empty name", field("", "a"), Closed),
        ("a space in a name", field("x y", "a"), Closed),
        ("a colon in a name", field("x: y", "a"), Closed),
        ("a line in a name", field("x: y\r\nz", "a"), Closed),
        ("a line in a value", field("x", "a\r\ny: z"), Closed),
        (
            "a head in a value",
            field("x", "a\r\n\r\nGET / HTTP/1.1"),
            Closed,
        ),
        ("a CR in a value", field("x", "a\rb"), Closed),
        ("an LF in a value", field("x", "a\nb"), Closed),
        ("a NUL in a value", field("x", "a\0b"), Closed),
        (
            "a method with a target",
            replaced(":method", "GET /x HTTP/1.1\r\n"),
            Closed,
        ),
        (
            "a method with a space",
            replaced(":method", "GET /x"),
            Closed,
        ),
        ("an empty method", replaced(":method", ""), Closed),
        (
            "a path with a line",
            replaced(":path", "/ HTTP/1.1\r\nX: y"),
            Reset,
        ),
        (
            "a path with a space",
            replaced(":path", "/ HTTP/1.1"),
            Reset,
        ),
        ("a path with NUL", replaced(":path", "/\0"), Reset),
        (
            "an authority with a path",
            replaced(":authority", "a/x"),
            Reset,
        ),
        (
            "an authority with a line",
            replaced(":authority", "a\r\nX: y"),
            Reset,
        ),
        ("an absolute path", replaced(":path", "http://a/"), Reset),
        ("another host", post(&[("host", "b")], "hello"), Refused),
        (
            "two hosts",
            post(&[("host", "a"), ("host", "a")], "hello"),
            Refused,
        ),
        ("* for a POST", replaced(":path", "*"), Refused),
        ("TRACE", replaced(":method", "TRACE"), Other),
        ("CONNECT", replaced(":method", "CONNECT"), Reset),
        ("a fragment", replaced(":path", "/#x"), Served),
    ])
    .await
}

#[tokio::test]
async fn a_fragment_is_not_forwarded() -> Result<()> {
    let mut hosts = Hosts::start().await?;
    send(hosts.proxy.address, &replaced(":path", "/x?y#z")).await?;
    let received = hosts.upstream.take();
    ensure!(
        received.len() == 1 && received[0].line == "POST /x?y HTTP/1.1",
        "{received:?}"
    );
    Ok(())
}

#[tokio::test]
async fn trailers_cannot_pose_as_requests() -> Result<()> {
    let with_trailers = |fields: &[(&str, &str)]| {
        [
            headers(0, &[]),
            frame(DATA, 0, 1, b"hello"),
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &literals(fields)),
        ]
        .concat()
    };
    // The HTTP library drops pseudo-headers in trailers.
    check(vec![
        ("a trailer", with_trailers(&[("x", "y")]), Served),
        (
            "a length",
            with_trailers(&[("content-length", "50")]),
            Served,
        ),
        ("a pseudo-header", with_trailers(&[(":path", "/x")]), Served),
        (
            "a connection",
            with_trailers(&[("connection", "close")]),
            Reset,
        ),
        ("a line", with_trailers(&[("x", "y\r\nz: a")]), Closed),
    ])
    .await
}

#[tokio::test]
async fn wrong_frames_end_the_stream_or_the_connection() -> Result<()> {
    let request = || post(&[], "hello");
    let after = |frame: Vec<u8>| [headers(0, &[]), frame].concat();
    let before = |frame: Vec<u8>| [frame, request()].concat();
    let block = literals(&POST);
    check(vec![
        (
            "data before headers",
            frame(DATA, END_STREAM, 1, b"hello"),
            Closed,
        ),
        (
            "an even stream",
            before(frame(HEADERS, END_HEADERS, 2, &block)),
            Closed,
        ),
        (
            "headers on stream 0",
            before(frame(HEADERS, END_HEADERS, 0, &block)),
            Closed,
        ),
        (
            "CONTINUATION alone",
            before(frame(CONTINUATION, END_HEADERS, 1, &block)),
            Closed,
        ),
        (
            "data within headers",
            [
                frame(HEADERS, 0, 1, &block),
                frame(DATA, END_STREAM, 1, b"x"),
            ]
            .concat(),
            Closed,
        ),
        (
            "invalid compression",
            before(frame(HEADERS, END_HEADERS, 1, &[0xff; 9])),
            Closed,
        ),
        (
            "padding beyond the frame",
            after(frame(DATA, PADDED | END_STREAM, 1, &[9, 0])),
            Closed,
        ),
        (
            "a frame of 2 MiB",
            after(frame(DATA, END_STREAM, 1, &vec![0; 2 << 20])),
            Closed,
        ),
        (
            "SETTINGS of 5 bytes",
            before(frame(SETTINGS, 0, 0, &[0; 5])),
            Closed,
        ),
        (
            "a window of 2^31",
            before(frame(SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0])),
            Closed,
        ),
        (
            "PING of 7 bytes",
            before(frame(PING, 0, 0, &[0; 7])),
            Closed,
        ),
        (
            "a window of 0 more",
            before(frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
            Closed,
        ),
        (
            "a window that overflows",
            before(frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes())),
            Closed,
        ),
        (
            "a window of 0 more for a stream",
            after(frame(WINDOW_UPDATE, 0, 1, &[0; 4])),
            Closed,
        ),
        (
            "a reset of an idle stream",
            before(frame(RST_STREAM, 0, 5, &[0; 4])),
            Closed,
        ),
        ("an unknown frame", before(frame(99, 0, 0, b"x")), Served),
        (
            "a priority",
            before(frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1])),
            Served,
        ),
        (
            "HTTP/1.1",
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            Closed,
        ),
    ])
    .await
}
