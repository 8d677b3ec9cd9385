//! Requests over TLS that servers read differently. `hostile/` has all of them without TLS.

use anyhow::{Context as _, Result, ensure};
use tests::TIMEOUT;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use crate::{authority::serve, client::connect};

#[tokio::test]
async fn ambiguous_requests_are_refused() -> Result<()> {
    let (host, authority, _folder) = serve(&[])?;
    let post = "POST / HTTP/1.1\r\nHost: localhost\r\n";
    let next = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    for (request, status) in [
        (
            "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
            400,
        ),
        ("Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400),
        ("Content-Length: +5\r\n\r\nhello", 400),
        ("Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (
            "Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
            400,
        ),
        ("X: y\nContent-Length: 5\r\n\r\nhello", 400),
        ("X : y\r\n\r\n", 400),
        ("X: y\r\n folded\r\n\r\n", 400),
        ("X: \0\r\n\r\n", 400),
    ] {
        let mut stream = connect(host.address, "localhost", &authority.root(), &[]).await?;
        let bytes = format!("{post}{request}{next}");
        stream.write_all(bytes.as_bytes()).await?;
        let mut received = Vec::new();
        let read = timeout(TIMEOUT, stream.read_to_end(&mut received)).await;
        read.with_context(|| format!("{request:?}: not closed"))??;
        let text = String::from_utf8_lossy(&received);
        ensure!(
            text.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request:?}: {text}"
        );
        ensure!(
            text.matches("HTTP/1.1 ").count() == 1,
            "{request:?}: {text}"
        );
    }
    Ok(())
}
