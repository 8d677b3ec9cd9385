//! Frames of HTTP/2 (RFC 9113) and header fields (RFC 7541) as bytes, for what clients must not send.

use anyhow::{Result, ensure};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The type of DATA frames (RFC 9113, section 6).
pub const DATA: u8 = 0;
/// The type of HEADERS frames.
pub const HEADERS: u8 = 1;
/// The type of PRIORITY frames.
pub const PRIORITY: u8 = 2;
/// The type of RST_STREAM frames.
pub const RST_STREAM: u8 = 3;
/// The type of SETTINGS frames.
pub const SETTINGS: u8 = 4;
/// The type of PING frames.
pub const PING: u8 = 6;
/// The type of GOAWAY frames.
pub const GOAWAY: u8 = 7;
/// The type of WINDOW_UPDATE frames.
pub const WINDOW_UPDATE: u8 = 8;
/// The type of CONTINUATION frames.
pub const CONTINUATION: u8 = 9;

/// The flag of the last frame of a message.
pub const END_STREAM: u8 = 1;
/// The flag of the last frame of a block of header fields.
pub const END_HEADERS: u8 = 4;
/// The flag of a frame with padding.
pub const PADDED: u8 = 8;

/// `:method: GET`, `:scheme: https`, `:path: /`, and `:authority: a`, compressed.
pub const GET: &[u8] = &[0x82, 0x87, 0x84, 0x41, 0x01, b'a'];

/// A frame that was received.
pub struct Frame {
    /// The type.
    pub kind: u8,
    /// The number of its stream.
    pub stream: u32,
    /// The content.
    pub payload: Vec<u8>,
}

/// Encodes a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Encodes header fields whose names and values are shorter than 127 bytes: each as a literal that is
/// not indexed (RFC 7541, section 6.2.2).
pub fn literals(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap_or(0));
            block.extend(text.as_bytes());
        }
    }
    block
}

/// Sends the preface of a connection.
pub async fn start(stream: &mut (impl AsyncWrite + Unpin)) -> Result<()> {
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    Ok(stream.write_all(&bytes).await?)
}

/// Reads the next frame.
pub async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Result<Frame> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await?;
    let [a, b, c, kind, _, s, t, u, v] = head;
    let length = u32::from_be_bytes([0, a, b, c]);
    ensure!(length <= 16_384, "a frame of {length} bytes");
    let mut payload = vec![0; usize::try_from(length)?];
    stream.read_exact(&mut payload).await?;
    Ok(Frame {
        kind,
        stream: u32::from_be_bytes([s, t, u, v]),
        payload,
    })
}
