//! Chunked bodies and trailers that servers read differently (RFC 9112, section 7.1).

use anyhow::{Result, ensure};

use crate::fixture::{Case, Hosts, NEXT, Outcome, POST, case, exchange};
use Outcome::{Refused, Served};

/// Returns a POST with a chunked body.
fn chunked(body: &str) -> String {
    format!("{POST}Transfer-Encoding: chunked\r\n\r\n{body}")
}

fn refused(bodies: &[&str]) -> Vec<Case> {
    let refused = |body: &&str| case(chunked(body), Refused(400));
    bodies.iter().map(refused).collect()
}

fn served(bodies: &[&str]) -> Vec<Case> {
    let served = |body: &&str| case(chunked(body), Served("hello"));
    bodies.iter().map(served).collect()
}

#[tokio::test]
async fn chunk_sizes_are_hexadecimal_numbers() -> Result<()> {
    let mut hosts = Hosts::start().await?;
    hosts
        .check(refused(&[
            "+5\r\nhello\r\n0\r\n\r\n",
            "-5\r\nhello\r\n0\r\n\r\n",
            "0x5\r\nhello\r\n0\r\n\r\n",
            " 5\r\nhello\r\n0\r\n\r\n",
            "5 5\r\nhello\r\n0\r\n\r\n",
            "5_0\r\nhello\r\n0\r\n\r\n",
            "5,5\r\nhello\r\n0\r\n\r\n",
            "g\r\nhello\r\n0\r\n\r\n",
            "\r\nhello\r\n0\r\n\r\n",
            ";a\r\nhello\r\n0\r\n\r\n",
            // These overflow to 5 and to 0.
            "10000000000000005\r\nhello\r\n0\r\n\r\n",
            "10000000000000000\r\n\r\n",
            "ffffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        ]))
        .await?;
    let zeros = format!("{}5\r\nhello\r\n0\r\n\r\n", "0".repeat(30));
    hosts
        .check(served(&[
            "5\r\nhello\r\n0\r\n\r\n",
            "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
            "005\r\nhello\r\n000\r\n\r\n",
            &zeros,
        ]))
        .await
}

#[tokio::test]
async fn lines_of_chunked_bodies_end_with_crlf() -> Result<()> {
    let bodies = [
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\rX0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "5\r\nhelloXX\r\n0\r\n\r\n",
        "5\r\nhello\r\n\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\n\n",
        "5\r\nhello\r\n0\r\n\n",
        "5\r\nhello\r\n0\n\r\n",
        "5\r\nhello\r\n0\r\nX",
        "6\r\nhello\r\n0\r\n\r\n",
        "4\r\nhello\r\n0\r\n\r\n",
    ];
    Hosts::start().await?.check(refused(&bodies)).await
}

#[tokio::test]
async fn chunk_extensions_are_ignored_and_bounded() -> Result<()> {
    let mut hosts = Hosts::start().await?;
    hosts
        .check(served(&[
            "5;a=b;c=\"d\"\r\nhello\r\n0;x\r\n\r\n",
            "5 ;a\r\nhello\r\n0\t\r\n\r\n",
        ]))
        .await?;
    let long = "a".repeat(20_000);
    let endless = "a".repeat(500_000);
    let many = "1;aaaaaaaaaaaaaaaaaaaa\r\nx\r\n".repeat(2000);
    hosts
        .check(refused(&[
            "5;a\nhello\r\n0\r\n\r\n",
            "5;a\rb\r\nhello\r\n0\r\n\r\n",
            "5;a=\"\n\"\r\nhello\r\n0\r\n\r\n",
            &format!("5;{long}\r\nhello\r\n0\r\n\r\n"),
            &format!("5;{endless}"),
            &format!("{many}0\r\n\r\n"),
        ]))
        .await
}

#[tokio::test]
async fn trailers_are_fields() -> Result<()> {
    let mut hosts = Hosts::start().await?;
    let large = format!("5\r\nhello\r\n0\r\nX: {}\r\n\r\n", "a".repeat(40_000));
    let many = format!("5\r\nhello\r\n0\r\n{}\r\n", "X: a\r\n".repeat(2000));
    hosts
        .check(refused(&[
            "5\r\nhello\r\n0\r\nX: 1\n\r\n",
            "5\r\nhello\r\n0\r\nX: 1\r\n\n",
            "5\r\nhello\r\n0\r\nno colon\r\n\r\n",
            "5\r\nhello\r\n0\r\nX: 1\r\n folded\r\n\r\n",
            "5\r\nhello\r\n0\r\nX : 1\r\n\r\n",
            "5\r\nhello\r\n0\r\nX: \0\r\n\r\n",
            "5\r\nhello\r\n0\r\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\n",
            &large,
            &many,
        ]))
        .await?;
    // Those that describe the framing are removed.
    let trailers = [
        "X: 1",
        "Content-Length: 50",
        "Transfer-Encoding: chunked",
        "Host: b",
    ];
    for trailer in trailers {
        let body = format!("5\r\nhello\r\n0\r\n{trailer}\r\n\r\n");
        hosts.check(served(&[&body])).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_body_that_becomes_malformed_never_is_a_complete_request() -> Result<()> {
    let mut hosts = Hosts::start().await?;
    let large = format!("{:x}\r\n{}\r\n", 200_000, "x".repeat(200_000));
    for end in [
        "zz\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "0\r\n\n",
        "0\r\nX: 1\n\r\n",
    ] {
        let bytes = chunked(&format!("{large}{end}{NEXT}"));
        let responses = exchange(hosts.proxy.address, bytes.as_bytes()).await?;
        ensure!(responses.statuses == [400], "{end:?}: {responses:?}");
        let received = hosts.upstream.take();
        ensure!(received.is_empty(), "{end:?}: {} requests", received.len());
    }
    Ok(())
}
