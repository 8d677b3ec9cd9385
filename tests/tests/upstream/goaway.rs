//! An HTTP/2 upstream that sends GOAWAY while requests are being sent to it.

use anyhow::{Result, ensure};
use tests::{Server, request};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::backend::Backend;

// Frame types and flags (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// A connection of a minimal HTTP/2 server. Library servers cannot send GOAWAY at a given moment.
struct Frames(TcpStream);

impl Frames {
    async fn accept(mut stream: TcpStream) -> Result<Self> {
        stream.read_exact(&mut [0; 24]).await?;
        let mut frames = Self(stream);
        frames.write(SETTINGS, 0, 0, &[]).await?;
        Ok(frames)
    }

    /// Reads the next request and returns its stream.
    async fn request(&mut self) -> Result<u32> {
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await?;
            let [a, b, c, kind, flags, id @ ..] = head;
            let length = u32::from_be_bytes([0, a, b, c]);
            self.0.read_exact(&mut vec![0; length as usize]).await?;
            match kind {
                SETTINGS if flags & ACK == 0 => self.write(SETTINGS, ACK, 0, &[]).await?,
                HEADERS | DATA if flags & END_STREAM != 0 => return Ok(u32::from_be_bytes(id)),
                _ => {}
            }
        }
    }

    /// Responds to a request with 200.
    async fn respond(&mut self, stream: u32) -> Result<()> {
        // `:status: 200` in HPACK's static table.
        self.write(HEADERS, END_STREAM | END_HEADERS, stream, &[0x88])
            .await
    }

    /// Sends GOAWAY with NO_ERROR, after processing the streams up to `last`.
    async fn go_away(&mut self, last: u32) -> Result<()> {
        let mut payload = [0; 8];
        payload[..4].copy_from_slice(&last.to_be_bytes());
        self.write(GOAWAY, 0, 0, &payload).await
    }

    async fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<()> {
        let [_, a, b, c] = (payload.len() as u32).to_be_bytes();
        let mut frame = vec![a, b, c, kind, flags];
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(payload);
        Ok(self.0.write_all(&frame).await?)
    }
}

/// Starts a server that serves one request of its first connection and sends GOAWAY at the next,
/// which it has either processed or not.
async fn goaway_backend(processed: bool) -> Result<Backend> {
    Backend::script(move |number, stream| async move {
        let serving = async {
            let mut frames = Frames::accept(stream).await?;
            let mut served = 0;
            loop {
                let stream = frames.request().await?;
                if number == 1 && served == 1 {
                    frames.go_away(if processed { stream } else { 1 }).await?;
                    if processed {
                        return anyhow::Ok(());
                    }
                    // Stays open for other streams, as servers do.
                    loop {
                        frames.request().await?;
                    }
                }
                frames.respond(stream).await?;
                served += 1;
            }
        };
        let _ = serving.await;
    })
    .await
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";

#[tokio::test]
async fn unprocessed_requests_are_retried() -> Result<()> {
    for bytes in [
        GET,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    ] {
        let backend = goaway_backend(false).await?;
        let host = Server::in_front_of(&backend.url("h2c"), &[])?;
        for _ in 0..3 {
            let response = request(host.address, bytes).await?;
            ensure!(response.status == 200, "{bytes:?}: {response:?}");
        }
        ensure!(backend.connections() == 2, "{}", backend.connections());
    }
    Ok(())
}

#[tokio::test]
async fn unprocessed_requests_with_a_body_are_reported_as_not_sent() -> Result<()> {
    let backend = goaway_backend(false).await?;
    let host = Server::in_front_of(&backend.url("h2c"), &[])?;
    ensure!(request(host.address, POST).await?.status == 200);
    let response = request(host.address, POST).await?;
    ensure!(response.status == 502, "{response:?}");
    ensure!(response.body == "upstream unreachable\n", "{response:?}");
    ensure!(request(host.address, POST).await?.status == 200);
    Ok(())
}

#[tokio::test]
async fn processed_requests_are_not_retried() -> Result<()> {
    let backend = goaway_backend(true).await?;
    let host = Server::in_front_of(&backend.url("h2c"), &[])?;
    ensure!(request(host.address, POST).await?.status == 200);
    let response = request(host.address, POST).await?;
    ensure!(response.status == 502, "{response:?}");
    ensure!(response.body == "upstream failed\n", "{response:?}");
    Ok(())
}
