//! An HTTP/2 upstream that goes away while requests are on their way to it.

use anyhow::{Result, ensure};
use tests::{Server, request};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::backend::Backend;

// Types and flags of frames (RFC 9113, 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// HTTP/2 by hand: no server of a library can be made to go away at a certain moment.
struct Frames(TcpStream);

impl Frames {
    async fn accept(mut stream: TcpStream) -> Result<Self> {
        stream.read_exact(&mut [0; 24]).await?;
        let mut frames = Self(stream);
        frames.write(SETTINGS, 0, 0, &[]).await?;
        Ok(frames)
    }

    /// The stream of the next request, once all of that has come.
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

    /// Answers the request of a stream with 200.
    async fn answer(&mut self, stream: u32) -> Result<()> {
        // `:status: 200` of HPACK's static table.
        self.write(HEADERS, END_STREAM | END_HEADERS, stream, &[0x88])
            .await
    }

    /// Goes away, having looked at the streams up to `last`, with NO_ERROR.
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

/// A server that answers one request of its first connection, and goes away at the next: it has
/// looked at that only if it says so.
async fn going_away(has_looked: bool) -> Result<Backend> {
    Backend::script(move |number, stream| async move {
        let serving = async {
            let mut frames = Frames::accept(stream).await?;
            let mut answered = 0;
            loop {
                let stream = frames.request().await?;
                if number == 1 && answered == 1 {
                    frames.go_away(if has_looked { stream } else { 1 }).await?;
                    if has_looked {
                        return anyhow::Ok(());
                    }
                    // Other streams could end now: the connection stays for these.
                    loop {
                        frames.request().await?;
                    }
                }
                frames.answer(stream).await?;
                answered += 1;
            }
        };
        let _ = serving.await;
    })
    .await
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";

#[tokio::test]
async fn what_it_has_not_looked_at_is_sent_again() -> Result<()> {
    for asked in [
        GET,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    ] {
        let backend = going_away(false).await?;
        let host = Server::in_front_of(&backend.url("h2c"), &[])?;
        for _ in 0..3 {
            let answer = request(host.address, asked).await?;
            ensure!(answer.status == 200, "{asked:?}: {answer:?}");
        }
        ensure!(backend.connections() == 2, "{}", backend.connections());
    }
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_sent_again_is_told_as_not_sent() -> Result<()> {
    let backend = going_away(false).await?;
    let host = Server::in_front_of(&backend.url("h2c"), &[])?;
    ensure!(request(host.address, POST).await?.status == 200);
    let answer = request(host.address, POST).await?;
    ensure!(answer.status == 502, "{answer:?}");
    ensure!(answer.body == "upstream unreachable\n", "{answer:?}");
    ensure!(request(host.address, POST).await?.status == 200);
    Ok(())
}

#[tokio::test]
async fn what_it_may_have_acted_on_is_not() -> Result<()> {
    let backend = going_away(true).await?;
    let host = Server::in_front_of(&backend.url("h2c"), &[])?;
    ensure!(request(host.address, POST).await?.status == 200);
    let answer = request(host.address, POST).await?;
    ensure!(answer.status == 502, "{answer:?}");
    ensure!(answer.body == "upstream failed\n", "{answer:?}");
    Ok(())
}
