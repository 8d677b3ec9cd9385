//! Methods and versions.

use anyhow::{Result, ensure};

use crate::fixture::{Hosts, NEXT, Outcome, case, exchange};
use Outcome::{Last, Refused, Served};

#[tokio::test]
async fn unknown_methods_are_served_and_some_are_refused() -> Result<()> {
    let mut cases = Vec::new();
    for method in ["FOO", "get", "PRI", "TRACK", "A!#$%&'*+-.^_`|~1"] {
        let request = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
        cases.push(case(request, Served("")));
    }
    for method in ["HEAD", "OPTIONS", "DELETE", "FOO"] {
        let request = format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
        cases.push(case(request, Served("hello")));
    }
    for (method, status) in [
        // A response would contain the headers that the host adds.
        ("TRACE", 501),
        ("CONNECT", 501),
        ("G(T", 400),
        ("G\0T", 400),
        ("G\u{e9}T", 400),
        ("", 400),
        ("GET /", 400),
    ] {
        let request = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
        cases.push(case(request, Refused(status)));
    }
    let long = format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "A".repeat(70_000));
    cases.push(case(long, Refused(431)));
    let trace = "TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    cases.push(case(trace, Refused(501)));
    Hosts::start().await?.check(cases).await
}

#[tokio::test]
async fn only_http_1_0_and_1_1_are_served() -> Result<()> {
    let mut cases = Vec::new();
    for version in [
        "",
        " ",
        " HTTP/0.9",
        " HTTP/1.2",
        " HTTP/2.0",
        " HTTP/1.10",
        " HTTP/01.1",
        " HTTP/1",
        " http/1.1",
        " HTTP 1.1",
        " HTTP/1.1 ",
        "  HTTP/1.1",
        "\tHTTP/1.1",
        " HTCPCP/1.1",
    ] {
        let request = format!("GET /{version}\r\nHost: a\r\n\r\n");
        cases.push(case(request, Refused(400)));
    }
    cases.push(case("GET /\r\n", Refused(400)));
    cases.push(case(
        "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03\r\n\r\n",
        Refused(400),
    ));
    cases.push(case("GET / HTTP/1.0\r\n\r\n", Last("")));
    cases.push(case(
        "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
        Refused(400),
    ));
    let mut hosts = Hosts::start().await?;
    hosts.check(cases).await?;
    // A response whose length is known does not end the connection.
    let bytes = format!("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n{NEXT}");
    let responses = exchange(hosts.proxy.address, bytes.as_bytes()).await?;
    ensure!(responses.statuses == [200, 200], "{responses:?}");
    Ok(())
}

#[tokio::test]
async fn http2_does_not_begin_after_a_request() -> Result<()> {
    let hosts = Hosts::start().await?;
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for address in [hosts.embedded.address, hosts.proxy.address] {
        let bytes = format!("GET / HTTP/1.1\r\nHost: a\r\n\r\n{preface}{NEXT}");
        let responses = exchange(address, bytes.as_bytes()).await?;
        ensure!(responses.statuses == [200], "{responses:?}");
        // An offer of HTTP/2 is ignored.
        let upgrade = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
                       HTTP2-Settings: AAMAAABkAAQAAP__\r\n";
        let bytes = format!("GET / HTTP/1.1\r\nHost: a\r\n{upgrade}\r\n{NEXT}");
        let responses = exchange(address, bytes.as_bytes()).await?;
        ensure!(responses.statuses.len() == 2, "{responses:?}");
    }
    Ok(())
}
