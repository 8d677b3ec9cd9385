//! A server that records the heads of its requests.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use anyhow::{Context as _, Result};
use tests::eventually;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// A running server, which responds to every request with `ok`.
pub struct Upstream {
    pub address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Upstream {
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let heads = Arc::new(Mutex::new(Vec::new()));
        let recorded = heads.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, recorded.clone()));
            }
        });
        Ok(Self { address, heads })
    }

    /// Returns a header of the last request, in lower case.
    pub fn header(&self, name: &str) -> Option<String> {
        let heads = self.heads.lock().ok()?;
        let prefix = format!("{name}: ");
        let mut lines = heads.last()?.lines();
        let line = lines.find_map(|line| line.strip_prefix(&prefix))?;
        Some(line.to_owned())
    }

    /// Waits for a request and returns the ids in its `traceparent`.
    pub async fn traceparent(&self) -> Result<(Vec<u8>, Vec<u8>)> {
        let value = eventually("traceparent", async || self.header("traceparent")).await?;
        ids(&value)
    }
}

/// Returns the ids of the trace and of the span in a `traceparent`.
pub fn ids(traceparent: &str) -> Result<(Vec<u8>, Vec<u8>)> {
    let mut fields = traceparent.split('-').skip(1);
    let mut id = || -> Result<Vec<u8>> {
        let digits = fields.next().context("an id")?.as_bytes();
        let pairs = digits.chunks(2).map(|pair| {
            let pair = std::str::from_utf8(pair)?;
            Ok(u8::from_str_radix(pair, 16)?)
        });
        pairs.collect()
    };
    Ok((id()?, id()?))
}

async fn serve(mut stream: TcpStream, heads: Arc<Mutex<Vec<String>>>) -> Result<()> {
    let mut bytes = Vec::new();
    while stream.read_buf(&mut bytes).await? > 0 {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            bytes.drain(..end + 4);
            if let Ok(mut heads) = heads.lock() {
                heads.push(head);
            }
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .await?;
        }
    }
    Ok(())
}
