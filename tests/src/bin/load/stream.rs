//! A TCP stream on a mio poll, with or without TLS.
//!
//! TLS uses the same poll, and one read of the socket for as much as the buffer holds.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use mio::net::TcpStream;
use rustls::{ClientConfig, ClientConnection, pki_types::ServerName};

/// A stream.
pub struct Stream {
    /// The TCP stream.
    pub tcp: TcpStream,
    tls: Option<Box<ClientConnection>>,
    /// The bytes received, with those of TLS.
    pub received: u64,
}

/// The result of one read.
pub enum Received<'b> {
    /// Bytes, or none if they were TLS's own.
    Bytes {
        /// The bytes.
        bytes: &'b [u8],
        /// Whether the socket may hold more: the read has filled the buffer.
        filled: bool,
    },
    /// The socket is empty.
    Nothing,
    /// The end of the stream.
    End,
}

impl Stream {
    /// Wraps a stream to `address`. It may still be connecting.
    pub fn new(
        tcp: TcpStream,
        address: SocketAddr,
        tls: Option<&Arc<ClientConfig>>,
    ) -> Result<Self> {
        let name = ServerName::IpAddress(address.ip().into());
        let connect = |config: &Arc<ClientConfig>| ClientConnection::new(config.clone(), name);
        Ok(Self {
            tcp,
            tls: tls.map(connect).transpose()?.map(Box::new),
            received: 0,
        })
    }

    /// Sends a few bytes, with TLS once its handshake is complete. They fit the socket's buffer
    /// unless the server does not read.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.writer().write_all(bytes).context("sending")?;
            return self.flush();
        }
        let sent = self.tcp.write(bytes).context("sending")?;
        ensure!(
            sent == bytes.len(),
            "the server does not read: its socket took {sent} of {} bytes",
            bytes.len()
        );
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() {
                tls.write_tls(&mut self.tcp).context("sending")?;
            }
        }
        Ok(())
    }

    /// Reads once, into `buffer`.
    pub fn read<'b>(&mut self, buffer: &'b mut [u8]) -> Result<Received<'b>> {
        // Decrypted bytes go into the larger part: with the rest of an earlier record, they may be
        // 16 KiB more than what is read now.
        let encrypted = if self.tls.is_some() {
            buffer.len() / 3
        } else {
            buffer.len()
        };
        let (buffer, decrypted) = buffer.split_at_mut(encrypted);
        let read = loop {
            match self.tcp.read(buffer) {
                Ok(0) => return Ok(Received::End),
                Ok(read) => break read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Ok(Received::Nothing);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("reading"),
            }
        };
        self.received += read as u64;
        let filled = read == buffer.len();
        let mut bytes = &buffer[..read];
        if let Some(tls) = &mut self.tls {
            let length = decrypt(tls, bytes, decrypted)?;
            bytes = &decrypted[..length];
            self.flush()?;
        }
        Ok(Received::Bytes { bytes, filled })
    }
}

/// Decrypts `encrypted` into `decrypted` and returns the length.
fn decrypt(
    tls: &mut ClientConnection,
    mut encrypted: &[u8],
    decrypted: &mut [u8],
) -> Result<usize> {
    let mut length = 0;
    while !encrypted.is_empty() {
        // Zero after the server has closed TLS: what follows is not part of it.
        if tls.read_tls(&mut encrypted).context("TLS")? == 0 {
            break;
        }
        tls.process_new_packets().context("TLS")?;
        match tls.reader().read(&mut decrypted[length..]) {
            Ok(read) => length += read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("TLS"),
        }
    }
    Ok(length)
}
