//! Polls Spin's health endpoint until it responds.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};
use tracing::info;

/// The pause between two requests.
const POLL_INTERVAL: Duration = Duration::from_millis(25);
/// The time for one response. The first one may take longer than later ones.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Attempts before a log line.
const QUIET_ATTEMPTS: usize = 400;

/// Waits until Spin responds to a request for its health. There is no time limit, since Spin may
/// build, download or compile components first.
pub(super) async fn wait_until_ready(address: SocketAddr) {
    for attempt in 1_usize.. {
        let health = timeout(RESPONSE_TIMEOUT, is_healthy(address));
        if matches!(health.await, Ok(Ok(true))) {
            return;
        }
        if attempt == QUIET_ATTEMPTS {
            info!(%address, "waiting for spin up to serve");
        }
        sleep(POLL_INTERVAL).await;
    }
}

async fn is_healthy(address: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!(
        "GET /.well-known/spin/health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut status = [0; "HTTP/1.1 200".len()];
    stream.read_exact(&mut status).await?;
    Ok(&status == b"HTTP/1.1 200")
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn only_a_status_of_200_is_ready() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let ready = tokio::spawn(wait_until_ready(address));
        for response in [
            "",
            "HTTP/1.1 503 Service Unavailable\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
        ] {
            assert!(!ready.is_finished(), "{response:?}");
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 64];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            stream.write_all(response.as_bytes()).await.unwrap();
        }
        ready.await.unwrap();
    }
}
