//! Minimal HTTP/1.1 client for requests that no client library would send.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::TIMEOUT;

/// A complete response.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The head, as received.
    pub head: String,
    /// The body, with chunked encoding removed.
    pub body: String,
}

/// Sends exactly these bytes and reads one response.
pub async fn request(address: SocketAddr, bytes: &str) -> Result<Response> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(bytes.as_bytes()).await?;
    tokio::time::timeout(
        TIMEOUT,
        read_response(&mut stream, !bytes.starts_with("HEAD")),
    )
    .await
    .context("no response")?
}

/// Reads one response. `has_body` is false for the response to a HEAD request.
pub async fn read_response(
    stream: &mut (impl AsyncRead + Unpin),
    has_body: bool,
) -> Result<Response> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        ensure!(
            stream.read_buf(&mut bytes).await? > 0,
            "connection closed within the head: {:?}",
            lossy(&bytes)
        );
    };
    let head = lossy(&bytes[..head_end]);
    let mut body = bytes.split_off(head_end);
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .context("no status in the response")?;
    let lower = head.to_ascii_lowercase();
    let length = lower
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .map(|value| value.trim().parse());
    let has_body = has_body && status != 304 && status != 204 && status >= 200;
    if !has_body {
    } else if let Some(length) = length.transpose()? {
        while body.len() < length {
            ensure!(
                stream.read_buf(&mut body).await? > 0,
                "connection closed within the body"
            );
        }
    } else if lower.contains("transfer-encoding: chunked") {
        while !body.ends_with(b"0\r\n\r\n") {
            ensure!(
                stream.read_buf(&mut body).await? > 0,
                "connection closed within the body: {:?}",
                lossy(&body)
            );
        }
        body = decode_chunks(&body)?;
    } else {
        stream.read_to_end(&mut body).await?;
    }
    Ok(Response {
        status,
        head,
        body: lossy(&body),
    })
}

fn decode_chunks(mut chunks: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = chunks
            .windows(2)
            .position(|window| window == b"\r\n")
            .context("missing chunk size")?;
        let length = usize::from_str_radix(&lossy(&chunks[..line]), 16)?;
        let rest = &chunks[line + 2..];
        if length == 0 {
            return Ok(body);
        }
        body.extend_from_slice(rest.get(..length).context("incomplete chunk")?);
        chunks = rest.get(length + 2..).context("missing end of chunk")?;
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
