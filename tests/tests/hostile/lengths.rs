//! Lengths and transfer codings that servers read differently (RFC 9112, sections 6.1 to 6.3).

use anyhow::{Result, ensure};

use crate::fixture::{Case, Hosts, NEXT, Outcome, POST, case, exchange};
use Outcome::{Refused, Served};

/// Returns a POST with these header fields, and a body.
fn post(fields: &str, body: &str) -> String {
    format!("{POST}{fields}\r\n\r\n{body}")
}

#[tokio::test]
async fn conflicting_and_repeated_lengths_are_refused() -> Result<()> {
    let chunked = "0\r\n\r\n";
    let hidden = format!("{:x}\r\n{NEXT}\r\n0\r\n\r\n", NEXT.len());
    let cases = [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", chunked),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", chunked),
        ("Content-Length: 0\r\nTransfer-Encoding: chunked", chunked),
        (
            "Content-Length: 0\r\nTransfer-Encoding: chunked",
            hidden.as_str(),
        ),
        (
            "content-length: 4\r\nX: y\r\ntransfer-encoding: chunked",
            chunked,
        ),
        ("Content-Length: 5\r\nTransfer-Encoding: identity", "hello"),
        ("Content-Length: 5\r\nTransfer-Encoding:", "hello"),
        ("Content-Length: 5\r\nContent-Length: 5", "hello"),
        ("Content-Length: 5\r\nContent-Length: 6", "hello"),
        ("Content-Length: 0\r\nContent-Length: 5", "hello"),
        ("Content-Length: 5, 5", "hello"),
        ("Content-Length: 5,", "hello"),
    ];
    let refused = cases.map(|(fields, body)| case(post(fields, body), Refused(400)));
    Hosts::start().await?.check(refused).await
}

#[tokio::test]
async fn only_a_decimal_number_is_a_length() -> Result<()> {
    let refused = [
        "+5",
        "-1",
        "-0",
        "0x5",
        "a",
        "5.0",
        "5e0",
        "5 5",
        "5_0",
        "",
        " ",
        "\"5\"",
        "5;a",
        "18446744073709551614",
        "18446744073709551615",
        "18446744073709551616",
        "99999999999999999999999999999999999999",
        "\u{ff15}",
        "\u{b}5",
        "5\u{b}",
        "5\u{a0}",
    ]
    .map(|length| {
        case(
            post(&format!("Content-Length: {length}"), "hello"),
            Refused(400),
        )
    });
    let served = ["5", " 5 ", "\t5\t", "005"].map(|length| {
        case(
            post(&format!("Content-Length:{length}"), "hello"),
            Served("hello"),
        )
    });
    let cases: Vec<Case> = refused.into_iter().chain(served).collect();
    Hosts::start().await?.check(cases).await
}

#[tokio::test]
async fn an_upstream_gets_lengths_without_leading_zeros() -> Result<()> {
    let mut hosts = Hosts::start().await?;
    let bytes = post("Content-Length: 010", "0123456789") + NEXT;
    let responses = exchange(hosts.proxy.address, bytes.as_bytes()).await?;
    ensure!(responses.statuses == [200, 200], "{responses:?}");
    let received = hosts.upstream.take();
    let has_length = |field: &String| field == "content-length: 10";
    ensure!(received[0].fields.iter().any(has_length), "{received:?}");
    ensure!(received[0].body == "0123456789", "{received:?}");
    Ok(())
}

#[tokio::test]
async fn other_transfer_codings_than_chunked_are_refused() -> Result<()> {
    let mut cases = Vec::new();
    for (coding, status) in [
        // Not the last coding, or none that exists.
        ("identity", 400),
        ("gzip", 400),
        ("chunked, gzip", 400),
        ("chunked, identity", 400),
        ("xchunked", 400),
        ("chunkedx", 400),
        ("\"chunked\"", 400),
        ("chunked;q=1", 400),
        (",chunked,", 400),
        ("", 400),
        ("\u{b}chunked", 400),
        ("chunked\u{b}", 400),
        ("chunked\u{ff}", 400),
        // Codings that the host does not implement.
        ("gzip, chunked", 501),
        ("chunked, chunked", 501),
        ("gzip\r\nTransfer-Encoding: chunked", 501),
        ("chunked\r\nTransfer-Encoding: chunked", 501),
    ] {
        let fields = format!("Transfer-Encoding: {coding}");
        cases.push(case(post(&fields, "0\r\n\r\n"), Refused(status)));
    }
    for coding in ["chunked", "CHUNKED", "\tchunked "] {
        let fields = format!("Transfer-Encoding:{coding}");
        cases.push(case(
            post(&fields, "5\r\nhello\r\n0\r\n\r\n"),
            Served("hello"),
        ));
    }
    // HTTP/1.0 has no transfer codings.
    for fields in ["", "Connection: keep-alive\r\n", "Content-Length: 5\r\n"] {
        let head = format!("POST / HTTP/1.0\r\nHost: a\r\n{fields}Transfer-Encoding: chunked\r\n");
        cases.push(case(format!("{head}\r\n0\r\n\r\n"), Refused(400)));
    }
    Hosts::start().await?.check(cases).await
}

#[tokio::test]
async fn the_framing_of_a_request_cannot_be_removed_from_it() -> Result<()> {
    let cases = [
        case(
            post("Connection: Content-Length\r\nContent-Length: 5", "hello"),
            Served("hello"),
        ),
        case(
            post(
                "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked",
                "5\r\nhello\r\n0\r\n\r\n",
            ),
            Served("hello"),
        ),
        // Servers that follow CGI conventions do not distinguish these.
        case(post("Content_Length: 5", ""), Served("")),
        case(post("Transfer_Encoding: chunked", ""), Served("")),
    ];
    let mut hosts = Hosts::start().await?;
    hosts.check(cases).await
}
