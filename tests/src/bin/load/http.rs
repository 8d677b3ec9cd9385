//! HTTP/1.1 as this program needs it: a connection that is kept, one request
//! at a time on it, and of the answer its status and where it ends.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use mio::net::TcpStream;

/// The longest answer read, head and body, in bytes.
const ANSWER_MAX: usize = 16 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection for a mio poll.
pub struct Connection {
    /// Registered by whoever polls it.
    pub stream: TcpStream,
    /// The server said with its last answer that it closes this connection.
    pub closes: bool,
    unsent: Vec<u8>,
    held: Vec<u8>,
}

impl Connection {
    /// Connects, blocking: on loopback that is at once or never.
    pub fn open(address: SocketAddr) -> Result<Self> {
        let stream = std::net::TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)
            .with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream: TcpStream::from_std(stream),
            closes: false,
            unsent: Vec::new(),
            held: Vec::new(),
        })
    }

    /// Sends a request; what the socket does not take at once goes with `receive`.
    pub fn send(&mut self, request: &[u8]) -> Result<()> {
        let sent = match self.stream.write(request) {
            Ok(sent) => sent,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error).context("sending a request"),
        };
        self.unsent.extend_from_slice(&request[sent..]);
        Ok(())
    }

    /// To be called when the poll names this connection: the status of the
    /// answer, when it has come whole.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<u16>> {
        if !self.unsent.is_empty() {
            let rest = std::mem::take(&mut self.unsent);
            self.send(&rest)?;
        }
        let mut status = None;
        loop {
            let read = match self.stream.read(buffer) {
                Ok(0) if self.closes => return Ok(status),
                Ok(0) => bail!("the server closed a connection it was to keep"),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(status),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("reading an answer"),
            };
            ensure!(status.is_none(), "the server answered twice");
            let answer = if self.held.is_empty() {
                answer(&buffer[..read])?
            } else {
                self.held.extend_from_slice(&buffer[..read]);
                answer(&self.held)?
            };
            match answer {
                Some((found, end)) => {
                    let all = if self.held.is_empty() {
                        read
                    } else {
                        self.held.len()
                    };
                    self.closes = match self.held.is_empty() {
                        true => closes(&buffer[..read]),
                        false => closes(&self.held),
                    };
                    ensure!(
                        end == all,
                        "the server sent {} bytes after its answer",
                        all - end
                    );
                    self.held.clear();
                    status = Some(found);
                }
                None if self.held.is_empty() => self.held.extend_from_slice(&buffer[..read]),
                None => ensure!(
                    self.held.len() <= ANSWER_MAX,
                    "the answer is longer than {ANSWER_MAX} bytes"
                ),
            }
            // A short read emptied the socket; the next bytes are the next event.
            if read < buffer.len() && status.is_some() {
                return Ok(status);
            }
        }
    }
}

/// A request without a body.
pub fn get(address: SocketAddr, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").into_bytes()
}

/// Whether an answer says that its connection is closed behind it.
fn closes(bytes: &[u8]) -> bool {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut headers);
    head.parse(bytes).is_ok()
        && head.headers.iter().any(|header| {
            header.name.eq_ignore_ascii_case("connection")
                && header.value.eq_ignore_ascii_case(b"close")
        })
}

/// Where the head of an answer with a body in chunks ends, once it is whole and says 200.
pub fn held(bytes: &[u8]) -> Result<Option<usize>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(start) =
        head.parse(bytes).context("the answer is not HTTP/1.1")?
    else {
        return Ok(None);
    };
    let status = head.code.unwrap_or_default();
    ensure!(
        status == 200,
        "the stream was answered with {status}, not 200"
    );
    let chunked = head.headers.iter().any(|header| {
        header.name.eq_ignore_ascii_case("transfer-encoding")
            && header.value.eq_ignore_ascii_case(b"chunked")
    });
    ensure!(
        chunked,
        "the answer is no stream: its body does not come in chunks"
    );
    Ok(Some(start))
}

/// The status of the first answer in `bytes` and where it ends, once it is whole.
pub fn answer(bytes: &[u8]) -> Result<Option<(u16, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut headers);
    let start = match head.parse(bytes).context("the answer is not HTTP/1.1")? {
        httparse::Status::Complete(start) => start,
        httparse::Status::Partial => return Ok(None),
    };
    let status = head
        .code
        .ok_or_else(|| anyhow!("the answer has no status"))?;
    if matches!(status, 100 | 102 | 103) {
        return Ok(answer(&bytes[start..])?.map(|(status, end)| (status, start + end)));
    }
    if matches!(status, 101 | 204 | 304) {
        return Ok(Some((status, start)));
    }
    let header = |name: &str| {
        head.headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))
            .map(|header| header.value)
    };
    if header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case(b"chunked")) {
        return Ok(chunked(&bytes[start..])?.map(|end| (status, start + end)));
    }
    let length = header("content-length").with_context(|| {
        format!("the answer ({status}) has neither a length nor chunks, so its connection cannot be kept")
    })?;
    let length: usize = std::str::from_utf8(length)
        .ok()
        .and_then(|length| length.parse().ok())
        .filter(|length| *length <= ANSWER_MAX)
        .with_context(|| format!("Content-Length {:?}", String::from_utf8_lossy(length)))?;
    Ok((start + length <= bytes.len()).then_some((status, start + length)))
}

/// Where a chunked body ends, once it is whole. Trailers are skipped.
fn chunked(body: &[u8]) -> Result<Option<usize>> {
    let mut at = 0;
    loop {
        let size = httparse::parse_chunk_size(&body[at..])
            .map_err(|_| anyhow!("a chunk's size is malformed"))?;
        let httparse::Status::Complete((start, size)) = size else {
            return Ok(None);
        };
        at += start;
        if size == 0 {
            while let Some(line) = body[at..].windows(2).position(|pair| pair == b"\r\n") {
                at += line + 2;
                if line == 0 {
                    return Ok(Some(at));
                }
            }
            return Ok(None);
        }
        ensure!(
            size <= ANSWER_MAX as u64,
            "a chunk of {size} bytes; at most {ANSWER_MAX} are read"
        );
        at += size as usize + 2;
        if at > body.len() {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_where_its_head_says() {
        for (whole, status) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200),
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200),
            ("HTTP/1.1 304 Not Modified\r\n\r\n", 304),
            (
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
                101,
            ),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
                204,
            ),
            (
                "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwhat\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
                404,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nExpires: never\r\n\r\n",
                200,
            ),
        ] {
            for end in 0..whole.len() {
                assert_eq!(
                    answer(&whole.as_bytes()[..end]).unwrap(),
                    None,
                    "{end} bytes of {whole:?}"
                );
            }
            let more = format!("{whole}HTTP/1.1 200 OK\r\n");
            assert_eq!(
                answer(more.as_bytes()).unwrap(),
                Some((status, whole.len())),
                "{whole:?}"
            );
        }
    }

    #[test]
    fn an_answer_that_cannot_be_measured_is_an_error() {
        for bad in [
            "nonsense\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        ] {
            assert!(answer(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
