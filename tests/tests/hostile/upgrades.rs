//! Requests for WebSockets that have a body.

use anyhow::{Result, ensure};
use tests::{Server, app_with_manifest, wasm};

use crate::fixture::{Hosts, NEXT, Outcome, Upstream, case, exchange};
use Outcome::{Refused, Served};

const UPGRADE: &str = "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Returns a request that offers a protocol and has a body.
fn offer(method: &str, path: &str, protocol: &str, body: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: a\r\n{UPGRADE}Upgrade: {protocol}\r\n{body}")
}

/// A body in both framings. It contains a message of a WebSocket.
const BODIES: [&str; 3] = [
    "Content-Length: 8\r\n\r\n\u{1}\u{2}\0\0\0\0hi",
    "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
];

#[tokio::test]
async fn a_request_for_a_websocket_with_a_body_is_refused() -> Result<()> {
    let mut cases = Vec::new();
    for body in BODIES {
        for (method, protocol) in [
            ("GET", "websocket"),
            ("GET", "WebSocket"),
            ("GET", "h2c, websocket"),
            ("POST", "websocket"),
        ] {
            let request = offer(method, "/websocket-echo", protocol, body);
            cases.push(case(request, Refused(400)));
        }
    }
    // Other protocols are ignored.
    let body = "Content-Length: 5\r\n\r\nhello";
    cases.push(case(offer("POST", "/", "foo", body), Served("hello")));
    cases.push(case(offer("POST", "/", "h2c", body), Served("hello")));
    Hosts::start().await?.check(cases).await
}

#[tokio::test]
async fn a_tunnel_does_not_begin_with_a_body() -> Result<()> {
    let mut upstream = Upstream::start().await?;
    let folder = app_with_manifest(&format!(
        "spin_manifest_version = 2\napplication.name = \"tunnel\"\n\
         [[trigger.http]]\nroute = \"/...\"\ncomponent = \"probe\"\n\
         [component.probe]\nsource = {:?}\n\
         [[application.tool.socket-host.passthrough]]\nroute = \"/dev/...\"\n\
         upstream = \"http://{}\"\n",
        wasm("probe"),
        upstream.address
    ));
    let host = Server::start(folder.path(), &[])?;
    for body in BODIES {
        let request = offer("GET", "/dev/x", "websocket", body) + NEXT;
        let responses = exchange(host.address, request.as_bytes()).await?;
        ensure!(responses.statuses == [400], "{responses:?}");
        ensure!(upstream.take().is_empty(), "{body:?}");
    }
    Ok(())
}
