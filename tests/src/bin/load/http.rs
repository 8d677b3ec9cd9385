//! HTTP/1.1 on a mio poll: the head of a response, and a connection that sends one request at a
//! time.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mio::net::TcpStream;

/// The maximum length of a response, in bytes.
const RESPONSE_MAX: usize = 64 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Formats a GET request.
pub fn get(address: SocketAddr, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").into_bytes()
}

/// Connects to a server. Blocks, but not for long on loopback.
pub fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = std::net::TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)
        .with_context(|| format!("connecting to {address}"))?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(TcpStream::from_std(stream))
}

/// The head of a response, as far as this program needs it.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    /// The status code.
    pub status: u16,
    /// The length of the head in bytes.
    pub length: usize,
    /// The value of `Content-Length`.
    pub content_length: Option<usize>,
    /// Whether the body has chunked encoding.
    pub chunked: bool,
    /// Whether the server closes the connection after the response.
    pub close: bool,
}

impl Head {
    /// Parses the head at the start of `bytes`. Returns `None` if it is incomplete.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(length) = response
            .parse(bytes)
            .context("the response is not HTTP/1.1")?
        else {
            ensure!(
                bytes.len() <= RESPONSE_MAX,
                "the head of the response is longer than {RESPONSE_MAX} bytes"
            );
            return Ok(None);
        };
        let header = |name: &str| {
            let mut headers = response.headers.iter();
            headers
                .find(|header| header.name.eq_ignore_ascii_case(name))
                .map(|header| header.value)
        };
        let is = |name: &str, value: &[u8]| {
            header(name).is_some_and(|actual| actual.eq_ignore_ascii_case(value))
        };
        let content_length = header("content-length")
            .map(|value| {
                let number = std::str::from_utf8(value).ok()?.parse().ok();
                number.filter(|length| *length <= RESPONSE_MAX)
            })
            .map(|number| number.context("invalid Content-Length in the response"))
            .transpose()?;
        Ok(Some(Self {
            status: response.code.context("no status in the response")?,
            length,
            content_length,
            chunked: is("transfer-encoding", b"chunked"),
            close: is("connection", b"close"),
        }))
    }
}

/// A connection with one request at a time.
pub struct Connection {
    /// The stream, for registration with a poll.
    pub stream: TcpStream,
    /// Whether the server closes the connection after the last response.
    pub close: bool,
    unsent: Vec<u8>,
    received: Vec<u8>,
}

impl Connection {
    /// Connects, as `connect` does.
    pub fn open(address: SocketAddr) -> Result<Self> {
        Ok(Self {
            stream: connect(address)?,
            close: false,
            unsent: Vec::new(),
            received: Vec::new(),
        })
    }

    /// Sends a request. What the socket does not take now is sent by `receive`.
    pub fn send(&mut self, request: &[u8]) -> Result<()> {
        let sent = match self.stream.write(request) {
            Ok(sent) => sent,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error).context("sending a request"),
        };
        self.unsent.extend_from_slice(&request[sent..]);
        Ok(())
    }

    /// Reads what has arrived and returns the status of the response once it is complete. Call
    /// it when the poll reports the connection.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<u16>> {
        if !self.unsent.is_empty() {
            let rest = std::mem::take(&mut self.unsent);
            self.send(&rest)?;
        }
        let mut status = None;
        loop {
            match self.stream.read(buffer) {
                Ok(0) if self.close => return Ok(status),
                Ok(0) => bail!("the server closed the connection"),
                Ok(read) => self.received.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(status),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("reading a response"),
            }
            let Some(head) = Head::parse(&self.received)? else {
                continue;
            };
            let length = head
                .content_length
                .context("no Content-Length in the response")?;
            let missing = (head.length + length).checked_sub(self.received.len());
            match missing.context("the server sent more than one response")? {
                0 => {
                    self.received.clear();
                    self.close = head.close;
                    status = Some(head.status);
                }
                _ => continue,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_parsed_once_complete() {
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nConnection: Close\r\n\r\n";
        for end in 0..head.len() {
            assert_eq!(Head::parse(&head.as_bytes()[..end]).unwrap(), None);
        }
        let expected = Head {
            status: 200,
            length: head.len(),
            content_length: Some(5),
            chunked: false,
            close: true,
        };
        let response = format!("{head}hello");
        assert_eq!(Head::parse(response.as_bytes()).unwrap(), Some(expected));
        let chunked = b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n";
        let head = Head::parse(chunked).unwrap().unwrap();
        assert!(head.status == 404 && head.chunked && head.content_length.is_none());
    }

    #[test]
    fn invalid_heads_are_errors() {
        for invalid in [
            "nonsense\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        ] {
            assert!(Head::parse(invalid.as_bytes()).is_err(), "{invalid:?}");
        }
    }

    #[test]
    fn responses_are_read_across_packets() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut connection = Connection::open(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let mut receive = || {
            std::thread::sleep(Duration::from_millis(20));
            connection.receive(&mut [0; 16]).unwrap()
        };
        server
            .write_all(b"HTTP/1.1 204 No Content\r\nContent-Le")
            .unwrap();
        assert_eq!(receive(), None);
        server.write_all(b"ngth: 2\r\n\r\no").unwrap();
        assert_eq!(receive(), None);
        server.write_all(b"k").unwrap();
        assert_eq!(receive(), Some(204));
        server
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n!")
            .unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert!(connection.receive(&mut [0; 64]).is_err());
    }
}
