//! Lines, names and values of a head that servers read differently (RFC 9112, sections 2.2 and 5).

use anyhow::Result;

use crate::fixture::{Case, GET, Hosts, Outcome, case};
use Outcome::{Refused, Served};

#[tokio::test]
async fn lines_of_a_head_end_with_crlf() -> Result<()> {
    let refused = [
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "POST / HTTP/1.1\r\nHost: a\r\nX: 1\nContent-Length: 5\r\n\r\nhello",
        "GET / HTTP/1.1\rHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\rX: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\rX: 1\r\n\r\n",
        "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\rGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        " GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ]
    .map(|request| case(request, Refused(400)));
    // A server should ignore empty lines before a request.
    let served = ["\r\n", "\r\n\r\n"].map(|lines| case(format!("{lines}{GET}\r\n"), Served("")));
    let cases: Vec<Case> = refused.into_iter().chain(served).collect();
    Hosts::start().await?.check(cases).await
}

#[tokio::test]
async fn folded_lines_are_refused() -> Result<()> {
    let cases = [
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n\tb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n \r\n\r\n",
        "GET / HTTP/1.1\r\n Host: b\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\n \r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n 5\r\n\r\nhello",
    ];
    let cases = cases.map(|request| case(request, Refused(400)));
    Hosts::start().await?.check(cases).await
}

#[tokio::test]
async fn names_are_tokens_before_a_colon() -> Result<()> {
    let mut cases = Vec::new();
    for field in [
        &b"X : a"[..],
        b"X\t: a",
        b"Host : a",
        b"Content-Length : 5",
        b"Transfer-Encoding : chunked",
        b": a",
        b"X",
        b"X y: a",
        b"X(: a",
        b"X\"y\": a",
        b"X\0: a",
        b"X\x01: a",
        b"X\x7f: a",
        b"X\xc3\xa9: a",
        b"Content-Length\0: 5",
        b"Transfer-Encoding\x0b: chunked",
        b"\xef\xbb\xbfX: a",
    ] {
        cases.push(case(
            [GET.as_bytes(), field, b"\r\n\r\n"].concat(),
            Refused(400),
        ));
    }
    Hosts::start().await?.check(cases).await
}

#[tokio::test]
async fn values_have_no_control_characters() -> Result<()> {
    let mut cases = Vec::new();
    for byte in (0..=31)
        .chain([127])
        .filter(|byte| !b"\t\r\n".contains(byte))
    {
        let field = [b"X: a", &[byte][..], b"b\r\n\r\n"].concat();
        cases.push(case([GET.as_bytes(), &field].concat(), Refused(400)));
    }
    for value in [
        &b""[..],
        b" ",
        b"a\tb",
        b"a\xffb",
        b"\xc3\xa9",
        b"a:b",
        b"\"a",
    ] {
        let field = [b"X:", value, b"\r\n\r\n"].concat();
        cases.push(case([GET.as_bytes(), &field].concat(), Served("")));
    }
    Hosts::start().await?.check(cases).await
}
