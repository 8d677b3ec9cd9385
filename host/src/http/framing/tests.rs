//! Tests of the framing check, with requests that arrive at once and byte by byte.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
    time::timeout,
};

use super::*;

/// Returns the first problem in bytes that arrive in pieces, and the number of requests.
fn check<'b>(pieces: impl IntoIterator<Item = &'b [u8]>) -> (Option<Problem>, u64) {
    let mut framing = Framing::default();
    let problem = pieces
        .into_iter()
        .find_map(|piece| framing.check(piece).err());
    (problem.map(|(problem, _)| problem), framing.requests)
}

/// Checks bytes at once and one by one, which must not differ.
fn check_both(bytes: &[u8]) -> (Option<Problem>, u64) {
    let at_once = check([bytes]);
    assert_eq!(
        at_once,
        check(bytes.chunks(1)),
        "{:?}",
        bytes.escape_ascii()
    );
    at_once
}

/// Returns the number of a malformed request, whether its body is malformed, and what is wrong.
fn problem(bytes: &str) -> Option<(u64, bool, &'static str)> {
    let problem = check_both(bytes.as_bytes()).0?;
    Some((problem.request, problem.is_body, problem.text.0))
}

#[test]
fn valid_requests_are_counted() {
    let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (bytes, requests) in [
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 1),
        (
            "\r\n\r\nGET / HTTP/1.1\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n".to_owned(),
            2,
        ),
        ("GET / HTTP/1.1\r\nHost: a\r\n".to_owned(), 0),
        (
            "POST / HTTP/1.1\r\ncontent-length:\t5 \r\n\r\n\n\n\n\n\nGET / HTTP/1.1\r\n\r\n"
                .to_owned(),
            2,
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\n\r\n".to_owned(),
            2,
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: 18446744073709551613\r\n\r\n\n".to_owned(),
            1,
        ),
        (
            format!(
                "{chunked}5\r\n\nb#\n:\r\n00A;a=b\r\n0123456789\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n"
            ),
            2,
        ),
        (
            format!("{chunked}5 ;a\r\n\rello\r\n0\r\nA: b\r\nC: d\r\n\r\nGET / HTTP/1.1\r\n\r\n"),
            2,
        ),
        (
            format!(
                "GET /{} HTTP/1.1\r\nX: {}\r\n\r\n",
                "a".repeat(900),
                "#".repeat(900)
            ),
            1,
        ),
    ] {
        assert_eq!(check_both(bytes.as_bytes()), (None, requests), "{bytes:?}");
    }
}

#[test]
fn heads_that_servers_read_differently_are_malformed() {
    let padding = " ".repeat(2 * MAX_LINE_START);
    let long = "a".repeat(2 * MAX_LINE_START);
    for (head, text) in [
        ("GET / HTTP/1.1\nHost: a\r\n\r\n".to_owned(), BARE_LF),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n".to_owned(), BARE_LF),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n".to_owned(), BARE_LF),
        ("\nGET / HTTP/1.1\r\n\r\n".to_owned(), BARE_LF),
        (
            "GET /#a HTTP/1.1\r\n\r\n".to_owned(),
            "invalid request target: expected no fragment",
        ),
        (
            format!("GET /{long}#a HTTP/1.1\r\n\r\n"),
            "invalid request target: expected no fragment",
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
            "both Content-Length and Transfer-Encoding",
        ),
        (
            "POST / HTTP/1.1\r\nTRANSFER-ENCODING: chunked\r\nX: y\r\nCONTENT-LENGTH: 5\r\n\r\n"
                .to_owned(),
            "both Content-Length and Transfer-Encoding",
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n".to_owned(),
            "more than one Content-Length header",
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\n".to_owned(),
            INVALID_LENGTH,
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length:\r\n\r\n".to_owned(),
            INVALID_LENGTH,
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\n".to_owned(),
            INVALID_LENGTH,
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: 18446744073709551614\r\n\r\n".to_owned(),
            INVALID_LENGTH,
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n".to_owned(),
            INVALID_LENGTH,
        ),
        (
            format!("POST / HTTP/1.1\r\nContent-Length: {padding}5\r\n\r\n"),
            INVALID_LENGTH,
        ),
    ] {
        let first = "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(
            problem(&format!("{first}{head}")),
            Some((2, false, text)),
            "{head:?}"
        );
    }
}

#[test]
fn bodies_that_servers_read_differently_are_malformed() {
    for (body, text) in [
        ("5\nhello\r\n0\r\n\r\n", BARE_LF),
        ("5;a\nhello\r\n0\r\n\r\n", BARE_LF),
        ("5\r\nhello\n0\r\n\r\n", BARE_LF),
        ("5\r\nhello\r\n0\r\n\n", BARE_LF),
        ("5\r\nhello\r\n0\r\nX: y\n\r\n", BARE_LF),
        ("5\r\nhelloX\r\n0\r\n\r\n", INVALID_CHUNK),
        ("5\r\nhello\r\n\r\n0\r\n\r\n", INVALID_CHUNK),
        ("\r\nhello\r\n", INVALID_CHUNK),
        ("+5\r\nhello\r\n", INVALID_CHUNK),
        (" 5\r\nhello\r\n", INVALID_CHUNK),
        ("0x5\r\nhello\r\n", INVALID_CHUNK),
        ("10000000000000000\r\nhello\r\n", INVALID_CHUNK),
    ] {
        let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(
            problem(&format!("{head}{body}")),
            Some((1, true, text)),
            "{body:?}"
        );
    }
}

#[test]
fn the_end_of_a_malformed_line_is_not_delivered() {
    let bytes = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\nrest";
    let (_, delivered) = Framing::default().check(bytes).unwrap_err();
    assert!(bytes[..delivered].ends_with(b"hello\r\nzz\r"));
}

#[test]
fn http2_is_not_checked() {
    let mut framing = Framing::default();
    assert!(
        framing
            .check(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\n\n")
            .is_ok()
    );
    assert!(!framing.is_checking() && !framing.has_more_than(0));
}

#[test]
fn requests_that_were_not_received_are_more() {
    let mut framing = Framing::default();
    let mut more_after = |bytes: &[u8], received| {
        framing.check(bytes).expect("valid");
        framing.has_more_than(received)
    };
    assert!(!more_after(b"", 0));
    assert!(more_after(b"G", 0));
    assert!(more_after(b"ET / HTTP/1.1\r\nContent-Length: 1\r\n\r\n", 1));
    assert!(!more_after(b"x", 1));
    assert!(more_after(b"\r\n", 1));
    assert!(more_after(b"GET / HTTP/1.1\r\n\r\n", 1));
}

proptest! {
    #[test]
    fn pieces_do_not_matter(
        bytes in "(GET / HTTP/1\\.1|Content-Length: |Transfer-Encoding: chunked|[0-9a-f;#: ]|\r\n|\r|\n){0,40}",
        piece in 1..20_usize,
    ) {
        let bytes = bytes.as_bytes();
        prop_assert_eq!(check([bytes]), check(bytes.chunks(piece)));
    }
}

/// Parts of bodies that look like other parts of requests.
const CONTENT: [&str; 6] = [
    "hello",
    "\n",
    "\r\n",
    "0\r\n\r\n",
    "5\r\n",
    "GET / HTTP/1.1\r\n\r\n",
];

/// What rarely makes sense between requests.
const NOISE: [&str; 10] = [
    "POST / HTTP/1.1\r\n",
    "POST / HTTP/1.1\r\nContent-Length: 18\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Content-Length: 5\r\n",
    "Content-Length : 5\r\n",
    "\r\n",
    "\n",
    "\r",
    "0\r\n",
];

/// Generates requests, and a few other parts.
fn requests() -> impl Strategy<Value = String> {
    let content = || {
        let parts = prop::collection::vec(prop::sample::select(CONTENT.to_vec()), 1..4);
        parts.prop_map(|parts| parts.concat())
    };
    let with_length = |content: String| {
        let length = content.len();
        format!("POST / HTTP/1.1\r\ncontent-length:\t0{length} \r\nX: y\r\n\r\n{content}")
    };
    let chunked = |chunks: Vec<String>| {
        let chunks = chunks
            .iter()
            .map(|chunk| format!("{:X};a=b\r\n{chunk}\r\n", chunk.len()));
        format!(
            "POST / HTTP/1.1\r\nTRANSFER-encoding: Chunked\r\n\r\n{}0\r\nX: y\r\n\r\n",
            chunks.collect::<String>()
        )
    };
    let request = prop_oneof![
        4 => Just("GET / HTTP/1.1\r\nX: y\r\n\r\n".to_owned()),
        4 => content().prop_map(with_length),
        4 => prop::collection::vec(content(), 0..3).prop_map(chunked),
        1 => prop::sample::select(NOISE.to_vec()).prop_map(str::to_owned),
    ];
    prop::collection::vec(request, 0..8).prop_map(|requests| requests.concat())
}

/// Returns how many requests hyper receives in bytes, and whether it refuses what follows.
async fn received_by_hyper(bytes: &[u8]) -> (u64, bool) {
    const IDLE: Duration = Duration::from_secs(1);
    let (mut client, server) = duplex(bytes.len() + 64 * 1024);
    client.write_all(bytes).await.expect("room");
    let received = AtomicU64::new(0);
    let service = service_fn(|request: Request<Incoming>| {
        received.fetch_add(1, Relaxed);
        async {
            let body = timeout(IDLE, request.into_body().collect()).await;
            let mut response = Response::new(Empty::<Bytes>::new());
            if !matches!(body, Ok(Ok(_))) {
                *response.status_mut() = StatusCode::BAD_REQUEST;
            }
            Ok::<_, Infallible>(response)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(TokioIo::new(server), service);
    // It ends with a timeout if nothing is wrong.
    let _ = served.await;
    let mut responses = String::new();
    client
        .read_to_string(&mut responses)
        .await
        .expect("responses");
    (received.load(Relaxed), responses.contains(" 400 "))
}

proptest! {
    #[test]
    fn the_check_finds_the_requests_that_hyper_receives(bytes in requests()) {
        let (problem, requests) = check([bytes.as_bytes()]);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let (received, is_refused) = runtime.block_on(received_by_hyper(bytes.as_bytes()));
        match problem {
            // hyper may refuse more.
            None => prop_assert!(received == requests || is_refused && received < requests),
            // Up to the problem, both read the same.
            Some(problem) => {
                let before = problem.request - u64::from(!problem.is_body);
                prop_assert!(received >= before || is_refused, "{:?}", problem);
            }
        }
    }
}
