//! WebSocket frames (RFC 6455, section 5), as a client that must be faster than the server needs
//! them.
//!
//! All frames are sent with the same mask: masking protects proxies from browsers and serves no
//! purpose here. Frames are parsed in the read buffer; only a frame that continues in the next
//! read is copied.

use anyhow::{Result, bail, ensure};

/// The maximum payload accepted from a server, in bytes.
const PAYLOAD_MAX: u64 = 1 << 20;
const MASK: [u8; 4] = [0x5a, 0xa5, 0x3c, 0xc3];
/// The bits of a frame's first byte that extensions define. permessage-deflate uses the first one.
const RESERVED: u8 = 0x70;
const COMPRESSED: u8 = 0x40;

/// The type of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// A text message.
    Text = 1,
    /// A binary message.
    Binary = 2,
    /// A close, with a code and a reason.
    Close = 8,
    /// A ping, which requires a pong with the same payload.
    Ping = 9,
    /// A pong.
    Pong = 10,
}

/// A frame from the server.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The type.
    pub opcode: Opcode,
    /// Whether the payload is compressed.
    pub compressed: bool,
    /// The payload.
    pub payload: &'a [u8],
}

/// Encodes a masked client frame.
pub fn encode(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + 14);
    frame.push(0x80 | opcode as u8);
    match payload.len() {
        length @ ..=125 => frame.push(0x80 | length as u8),
        length @ ..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    frame
}

/// Encodes a masked text frame with a compressed payload.
pub fn encode_compressed(payload: &[u8]) -> Vec<u8> {
    let mut frame = encode(Opcode::Text, payload);
    frame[0] |= COMPRESSED;
    frame
}

/// Parses the frames of one socket across read boundaries.
#[derive(Debug, Default)]
pub struct Reader {
    /// Whether frames may be compressed.
    deflate: bool,
    /// The start of an incomplete frame.
    partial: Vec<u8>,
    /// The first byte and the fragments received so far of an incomplete message.
    message: Option<(u8, Vec<u8>)>,
}

impl Reader {
    /// Creates a reader. With `deflate`, frames may be compressed.
    pub fn new(deflate: bool) -> Self {
        Self {
            deflate,
            ..Self::default()
        }
    }

    /// Calls `each` for each frame that is complete with `bytes`. The reader is unusable after
    /// an error.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(Frame) -> Result<()>,
    ) -> Result<()> {
        while !self.partial.is_empty() {
            match extent(&self.partial, self.deflate)? {
                Extent::Complete { header, end } => {
                    join(&mut self.message, &self.partial[..end], header, &mut each)?;
                    self.partial.clear();
                }
                Extent::Missing(_) if bytes.is_empty() => return Ok(()),
                Extent::Missing(missing) => {
                    let (head, rest) = bytes.split_at(missing.min(bytes.len()));
                    self.partial.extend_from_slice(head);
                    bytes = rest;
                }
            }
        }
        while let Extent::Complete { header, end } = extent(bytes, self.deflate)? {
            join(&mut self.message, &bytes[..end], header, &mut each)?;
            bytes = &bytes[end..];
        }
        self.partial.extend_from_slice(bytes);
        Ok(())
    }
}

/// How much of a frame has been received.
enum Extent {
    /// All of it. The payload starts at `header` and ends at `end`.
    Complete { header: usize, end: usize },
    /// Part of it. At least this many bytes are missing.
    Missing(usize),
}

fn extent(bytes: &[u8], deflate: bool) -> Result<Extent> {
    let [first, second, ..] = *bytes else {
        return Ok(Extent::Missing(2 - bytes.len()));
    };
    let is_first_of_message = matches!(first & 0x0f, 1 | 2);
    let allowed = if deflate && is_first_of_message {
        COMPRESSED
    } else {
        0
    };
    ensure!(
        first & RESERVED & !allowed == 0,
        "the server sent a frame with reserved bits {first:#04x} that were not negotiated"
    );
    ensure!(second & 0x80 == 0, "the server sent a masked frame");
    let (header, length) = match second {
        126 => match bytes.get(2..4) {
            Some(&[a, b]) => (4, u64::from(u16::from_be_bytes([a, b]))),
            _ => return Ok(Extent::Missing(4 - bytes.len())),
        },
        127 => match bytes.get(2..10).and_then(|length| length.try_into().ok()) {
            Some(length) => (10, u64::from_be_bytes(length)),
            None => return Ok(Extent::Missing(10 - bytes.len())),
        },
        short => (2, u64::from(short)),
    };
    ensure!(
        length <= PAYLOAD_MAX,
        "the server sent a frame of {length} bytes, the maximum is {PAYLOAD_MAX}"
    );
    let end = header + length as usize;
    Ok(if bytes.len() < end {
        Extent::Missing(end - bytes.len())
    } else {
        Extent::Complete { header, end }
    })
}

/// Calls `each` with an unfragmented frame, or with a message once its last fragment is here.
fn join(
    message: &mut Option<(u8, Vec<u8>)>,
    bytes: &[u8],
    header: usize,
    each: &mut impl FnMut(Frame) -> Result<()>,
) -> Result<()> {
    let (first, payload) = (bytes[0], &bytes[header..]);
    let last = first & 0x80 != 0;
    if first & 0x0f != 0 {
        let frame = frame(first, payload)?;
        if last {
            return each(frame);
        }
        ensure!(
            message.replace((first, payload.to_vec())).is_none(),
            "the server started a message within another"
        );
        return Ok(());
    }
    let Some((_, joined)) = message else {
        bail!("the server continued a message that it had not started");
    };
    joined.extend_from_slice(payload);
    ensure!(
        joined.len() as u64 <= PAYLOAD_MAX,
        "the server sent a message longer than {PAYLOAD_MAX} bytes"
    );
    match message.take_if(|_| last) {
        Some((first, joined)) => each(frame(first, &joined)?),
        None => Ok(()),
    }
}

fn frame(first: u8, payload: &[u8]) -> Result<Frame<'_>> {
    let opcode = match first & 0x0f {
        1 => Opcode::Text,
        2 => Opcode::Binary,
        8 => Opcode::Close,
        9 => Opcode::Ping,
        10 => Opcode::Pong,
        other => bail!("the server sent a frame with opcode {other}"),
    };
    Ok(Frame {
        opcode,
        compressed: first & COMPRESSED != 0,
        payload,
    })
}

/// Formats a close frame's code and reason for an error message.
pub fn format_close(payload: &[u8]) -> String {
    match payload {
        [a, b] => u16::from_be_bytes([*a, *b]).to_string(),
        [a, b, reason @ ..] => {
            format!(
                "{} ({})",
                u16::from_be_bytes([*a, *b]),
                String::from_utf8_lossy(reason)
            )
        }
        _ => "no code".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Encodes an unmasked frame, as servers send them.
    fn server_frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0x80 | opcode as u8];
        match payload.len() {
            length @ ..=125 => frame.push(length as u8),
            length @ ..=0xffff => {
                frame.push(126);
                frame.extend((length as u16).to_be_bytes());
            }
            length => {
                frame.push(127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(payload);
        frame
    }

    #[test]
    fn frames_are_parsed_across_read_boundaries() {
        let messages: Vec<Vec<u8>> = [0, 1, 125, 126, 300, 0xffff, 0x10000]
            .map(|size| vec![b'x'; size])
            .into();
        let wire: Vec<u8> = messages
            .iter()
            .flat_map(|message| server_frame(Opcode::Text, message))
            .collect();
        for step in [1, 2, 3, 7, 128, 4096, wire.len()] {
            let mut reader = Reader::default();
            let mut found = Vec::new();
            for piece in wire.chunks(step) {
                reader
                    .feed(piece, |frame| {
                        assert_eq!(frame.opcode, Opcode::Text);
                        found.push(frame.payload.to_vec());
                        Ok(())
                    })
                    .unwrap();
            }
            assert!(found == messages, "reads of {step} bytes");
            assert!(reader.partial.is_empty());
        }
    }

    #[test]
    fn fragments_are_joined_around_control_frames() {
        let wire = [
            &[0x01, 2, b'o', b'n'][..],
            &[0x89, 0],
            &[0x00, 1, b'e'],
            &[0x80, 1, b'!'],
            &[0x82, 1, b'2'],
        ]
        .concat();
        for step in 1..=wire.len() {
            let mut found = Vec::new();
            let mut reader = Reader::default();
            for piece in wire.chunks(step) {
                reader
                    .feed(piece, |frame| {
                        found.push((frame.opcode, frame.payload.to_vec()));
                        Ok(())
                    })
                    .unwrap();
            }
            let expected = [
                (Opcode::Ping, &b""[..]),
                (Opcode::Text, b"one!"),
                (Opcode::Binary, b"2"),
            ]
            .map(|(opcode, payload)| (opcode, payload.to_vec()));
            assert_eq!(found, expected, "reads of {step} bytes");
        }
    }

    #[test]
    fn protocol_violations_are_errors() {
        for (wire, message) in [
            (&[0x80, 0x00][..], "had not started"),
            (&[0x01, 0x00, 0x01, 0x00], "within another"),
            (&[0xc1, 0x00], "reserved"),
            (&[0x81, 0x80], "masked"),
            (&[0x83, 0x00], "opcode 3"),
            (
                &[0x82, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
                "the maximum",
            ),
        ] {
            let error = Reader::default().feed(wire, |_| Ok(())).unwrap_err();
            assert!(error.to_string().contains(message), "{wire:x?}: {error}");
        }
    }

    #[test]
    fn frames_may_be_compressed_if_that_was_negotiated() {
        let wire = [&[0x41, 1, b'a'][..], &[0x80, 1, b'b'], &[0x81, 1, b'c']].concat();
        let mut found = Vec::new();
        let mut reader = Reader::new(true);
        reader
            .feed(&wire, |frame| {
                found.push((frame.compressed, frame.payload.to_vec()));
                Ok(())
            })
            .unwrap();
        assert_eq!(found, [(true, b"ab".to_vec()), (false, b"c".to_vec())]);
        for wire in [&[0xa1, 0][..], &[0xc0, 0], &[0xc9, 0]] {
            assert!(Reader::new(true).feed(wire, |_| Ok(())).is_err());
        }
        assert_eq!(encode_compressed(b"")[0], 0xc1);
    }

    #[test]
    fn client_frames_are_masked() {
        for size in [0, 16, 125, 126, 0xffff, 0x10000] {
            let payload: Vec<u8> = (0..size).map(|at| at as u8).collect();
            let wire = encode(Opcode::Binary, &payload);
            let start = wire.len() - size;
            assert_eq!(wire[1] & 0x80, 0x80);
            let mask = &wire[start - 4..start];
            let unmasked: Vec<u8> = wire[start..]
                .iter()
                .enumerate()
                .map(|(at, byte)| byte ^ mask[at % 4])
                .collect();
            assert_eq!(unmasked, payload);
        }
        assert_eq!(encode(Opcode::Ping, b"").len(), 6);
    }

    #[test]
    fn close_frames_are_formatted() {
        assert_eq!(
            format_close(&[0x03, 0xf5, b's', b'l', b'o', b'w']),
            "1013 (slow)"
        );
        assert_eq!(format_close(&[0x03, 0xe8]), "1000");
        assert_eq!(format_close(&[]), "no code");
    }
}
