//! The port that redirects to TLS.

use anyhow::{Result, ensure};
use tests::request;

use crate::authority::serve;

#[tokio::test]
async fn plain_requests_are_redirected() -> Result<()> {
    let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let (host, _authority, _folder) = serve(&["--http-redirect", &free.to_string()])?;
    let get = async |head: &str| request(free, &format!("{head}\r\n\r\n")).await;
    let response = get("POST /a?b=c HTTP/1.1\r\nHost: localhost:80\r\nContent-Length: 0").await?;
    ensure!(response.status == 308, "{response:?}");
    let location = format!("location: https://localhost:{}/a?b=c", host.address.port());
    ensure!(response.head.contains(&location), "{response:?}");
    for refused in [
        "GET / HTTP/1.1",
        "GET / HTTP/1.1\r\nHost: a b",
        "GET / HTTP/1.0",
    ] {
        let response = get(refused).await?;
        ensure!(response.status == 400, "{refused}: {response:?}");
    }
    Ok(())
}
