//! Request targets in the forms that RFC 9112, section 3.2 has, and in others.

use anyhow::{Result, ensure};

use crate::fixture::{Hosts, NEXT, Outcome, case, exchange};
use Outcome::Refused;

/// Returns a GET of a target, for the host `a`.
fn get(target: impl AsRef<[u8]>) -> Vec<u8> {
    let end = b" HTTP/1.1\r\nHost: a\r\n\r\n";
    [b"GET ", target.as_ref(), end].concat()
}

#[tokio::test]
async fn targets_in_another_form_are_refused() -> Result<()> {
    let mut cases = Vec::new();
    for target in [
        &b"http://b/x"[..],
        b"http://a@a/x",
        b"http://u:p@a/x",
        b"http://a:99999/x",
        b"http:///x",
        b"ftp://a/x",
        b"file:///etc/passwd",
        b"javascript:x",
        b"a",
        b"a:80",
        b"a/b",
        b"?a",
        b"*",
        b"*x",
        b"\\x",
        b"/a#b",
        b"/a?b#c",
        b"http://a/#b",
        b"#",
        b"/a b",
        b" /a",
        b"/a ",
        b"/a\tb",
        b"/a\0b",
        b"/a\x01b",
        b"/a\x7fb",
        b"/a\xffb",
        b"/a\xc0\xafb",
        b"/a<b>",
        b"",
    ] {
        cases.push(case(get(target), Refused(400)));
    }
    let long = format!("/{}#b", "a".repeat(5000));
    cases.push(case(get(long), Refused(400)));
    cases.push(case(get(format!("/{}", "a".repeat(33_000))), Refused(431)));
    cases.push(case(get(format!("/{}", "a".repeat(70_000))), Refused(431)));
    for connect in ["CONNECT a:80", "CONNECT /x", "CONNECT http://a/"] {
        let request = format!("{connect} HTTP/1.1\r\nHost: a\r\n\r\n");
        cases.push(case(request, Refused(501)));
    }
    cases.push(case("GET http://a/ HTTP/1.1\r\n\r\n", Refused(400)));
    Hosts::start().await?.check(cases).await
}

#[tokio::test]
async fn an_upstream_gets_the_origin_form() -> Result<()> {
    let mut hosts = Hosts::start().await?;
    for (request, line) in [
        ("GET http://a/x?y HTTP/1.1", "GET /x?y HTTP/1.1"),
        ("GET HTTP://A:80/x HTTP/1.1", "GET /x HTTP/1.1"),
        ("GET https://a/x HTTP/1.1", "GET /x HTTP/1.1"),
        ("GET http://a HTTP/1.1", "GET / HTTP/1.1"),
        ("OPTIONS * HTTP/1.1", "OPTIONS * HTTP/1.1"),
        ("GET //b/x HTTP/1.1", "GET //b/x HTTP/1.1"),
        ("GET /http://b/x HTTP/1.1", "GET /http://b/x HTTP/1.1"),
        (
            "GET /a%20b%00%0d%0a HTTP/1.1",
            "GET /a%20b%00%0d%0a HTTP/1.1",
        ),
        ("GET /a%23b HTTP/1.1", "GET /a%23b HTTP/1.1"),
        ("GET /a\\b HTTP/1.1", "GET /a\\b HTTP/1.1"),
    ] {
        let bytes = format!("{request}\r\nHost: a\r\n\r\n{NEXT}");
        let responses = exchange(hosts.proxy.address, bytes.as_bytes()).await?;
        ensure!(responses.statuses == [200, 200], "{request}: {responses:?}");
        let received = hosts.upstream.take();
        ensure!(
            received.len() == 2 && received[0].line == line,
            "{request}: {received:?}"
        );
        let hosts = received[0]
            .fields
            .iter()
            .filter(|field| field.starts_with("host:"));
        ensure!(hosts.eq([&"host: a".to_owned()]), "{request}: {received:?}");
    }
    Ok(())
}
