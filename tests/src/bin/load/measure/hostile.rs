//! `hostile`: the server's memory per connection of clients that occupy as much of it as they can.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use crate::process::resident;
use crate::report::Figure;
use crate::target::Target;

/// A little less than the largest head of a request.
const HEAD_BYTES: usize = 30_000;
/// A little less than what the server receives of a body before it passes the request on.
const BODY_BYTES: usize = 60_000;
/// A little less than the largest message.
const FRAME_BYTES: u16 = 65_000;
/// The requests whose responses are not read.
const PIPELINED: usize = 200;

/// Options of `hostile`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// What the clients do
    #[arg(long)]
    pub kind: Kind,
    /// Connections
    #[arg(long, default_value_t = 20_000, value_parser = crate::count)]
    pub connections: usize,
    /// Seconds to wait before each memory reading
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(0..=600))]
    pub settle: u64,
}

/// What a hostile client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Sends nothing
    Silent,
    /// Sends most of a large head
    Head,
    /// Sends a part of a large body
    Body,
    /// Requests much, and reads nothing
    Unread,
    /// Opens an HTTP/2 connection, and sends nothing
    Http2,
    /// Begins a TLS handshake; for a server with TLS
    Tls,
    /// Opens a WebSocket, and sends most of a large message
    Frame,
    /// Opens a WebSocket, and does not answer a close
    Unclosed,
}

/// Measures the resident memory of process `pid` and its children per connection.
pub fn run(target: &Target, pid: u32, options: &Options) -> Result<Vec<Figure>> {
    let settle = Duration::from_secs(options.settle);
    sleep(settle);
    let before = resident(pid)?;
    let mut clients = Vec::with_capacity(options.connections);
    for number in 0..options.connections {
        let client = connect(target, options.kind);
        clients.push(client.with_context(|| format!("connection {number}"))?);
    }
    sleep(settle);
    let after = resident(pid)?;
    let open = clients.iter().filter(|client| is_open(client)).count();

    let each = (after as f64 - before as f64) / options.connections as f64;
    Ok(vec![
        Figure::new("hostile, memory a connection", "KiB", each / 1024.0),
        Figure::new("hostile, connections open afterwards", "", open as f64),
    ])
}

/// Opens a connection and does what this kind of client does.
fn connect(target: &Target, kind: Kind) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(target.address)?;
    let line = |method: &str, path: &str| format!("{method} {path} HTTP/1.1\r\nHost: a\r\n");
    let request = match kind {
        Kind::Silent => return Ok(stream),
        Kind::Head => {
            let line = line("GET", &target.get_path);
            format!("{line}X-Large: {}", "x".repeat(HEAD_BYTES)).into_bytes()
        }
        Kind::Body => {
            let line = line("POST", &target.get_path);
            let body = "x".repeat(BODY_BYTES);
            format!("{line}Content-Length: 1000000\r\n\r\n{body}").into_bytes()
        }
        Kind::Unread => format!("{}\r\n", line("GET", &target.get_path))
            .repeat(PIPELINED)
            .into_bytes(),
        // The preface and an empty SETTINGS frame (RFC 9113, section 3.4).
        Kind::Http2 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(),
        // The head of a record with a ClientHello, and a part of it (RFC 8446, section 5.1).
        Kind::Tls => [&b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc"[..], &[0; 16_000]].concat(),
        Kind::Frame | Kind::Unclosed => {
            upgrade(&mut stream, &target.path)?;
            if kind == Kind::Frame {
                // A binary frame with a mask of zeros (RFC 6455, section 5.2).
                let length = FRAME_BYTES.to_be_bytes();
                let mut frame = vec![0x82, 0x80 | 126, length[0], length[1], 0, 0, 0, 0];
                frame.resize(frame.len() + usize::from(FRAME_BYTES) - 1, 0);
                frame
            } else {
                // The server closes the socket for a frame without a mask.
                vec![0x82, 0]
            }
        }
    };
    stream.set_nonblocking(true)?;
    // What does not fit the buffers is left out.
    let _ = stream.write(&request);
    Ok(stream)
}

/// Opens a WebSocket.
fn upgrade(stream: &mut TcpStream, path: &str) -> Result<()> {
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )?;
    let mut response = [0; 12];
    stream.read_exact(&mut response)?;
    ensure!(
        &response == b"HTTP/1.1 101",
        "the WebSocket is refused: {}",
        String::from_utf8_lossy(&response)
    );
    Ok(())
}

/// Returns whether the server has not closed a connection.
fn is_open(mut stream: &TcpStream) -> bool {
    let mut buffer = vec![0; 64 << 10];
    if stream.set_nonblocking(true).is_err() {
        return false;
    }
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
        }
    }
}
