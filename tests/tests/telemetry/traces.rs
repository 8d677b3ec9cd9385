//! The trace context of requests.

use anyhow::{Result, ensure};
use tests::{Response, Server, request};

use crate::upstream::Upstream;

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

async fn get(host: &Server, path: &str, headers: &str) -> Result<Response> {
    let address = host.address;
    let bytes = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n");
    request(address, &bytes).await
}

#[tokio::test]
async fn contexts_are_passed_on_without_a_collector() -> Result<()> {
    let upstream = Upstream::start().await?;
    let host = Server::in_front_of(&format!("http://{}", upstream.address), &[])?;
    let headers = format!("traceparent: {TRACEPARENT}\r\ntracestate: vendor=1\r\n");
    get(&host, "/x", &headers).await?;
    ensure!(upstream.header("traceparent").as_deref() == Some(TRACEPARENT));
    ensure!(upstream.header("tracestate").as_deref() == Some("vendor=1"));
    let invalid = headers.replace("00-0af", "00-0AF");
    get(&host, "/x", &invalid).await?;
    ensure!(upstream.header("traceparent").is_none());
    ensure!(upstream.header("tracestate").is_none());
    Ok(())
}
