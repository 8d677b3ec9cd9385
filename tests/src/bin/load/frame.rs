//! WebSocket frames (RFC 6455, section 5) as a client that counts needs them.
//!
//! One mask for everything sent: masking protects proxies from browsers, not
//! servers from us. What arrives is looked at where the read left it; only a
//! frame cut by the end of a read is copied.

use anyhow::{Result, bail, ensure};

/// The longest payload taken from a server, in bytes.
const PAYLOAD_MAX: u64 = 1 << 20;
const MASK: [u8; 4] = [0x5a, 0xa5, 0x3c, 0xc3];

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// A whole text message.
    Text = 1,
    /// A whole binary message.
    Binary = 2,
    /// The end, with a code and a reason.
    Close = 8,
    /// To be answered with the same payload.
    Ping = 9,
    /// An answer.
    Pong = 10,
}

/// A frame from the server.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is.
    pub opcode: Opcode,
    /// What it carries.
    pub payload: &'a [u8],
}

/// A client's frame, masked, ready for the wire.
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

/// Finds frames in what one socket sends, wherever the reads cut it.
#[derive(Debug, Default)]
pub struct Reader {
    /// The beginning of a frame whose end has not come.
    held: Vec<u8>,
    /// The beginning of a message that the server sends in fragments.
    message: Option<(Opcode, Vec<u8>)>,
}

impl Reader {
    /// Hands each frame that ends in `bytes` to `each`. An error, ours or the
    /// caller's, leaves the reader unusable: the socket is to be dropped.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(Frame) -> Result<()>,
    ) -> Result<()> {
        while !self.held.is_empty() {
            match measure(&self.held)? {
                Extent::Whole { header, end } => {
                    join(&mut self.message, &self.held[..end], header, &mut each)?;
                    self.held.clear();
                }
                Extent::Missing(_) if bytes.is_empty() => return Ok(()),
                Extent::Missing(missing) => {
                    let (taken, rest) = bytes.split_at(missing.min(bytes.len()));
                    self.held.extend_from_slice(taken);
                    bytes = rest;
                }
            }
        }
        while let Extent::Whole { header, end } = measure(bytes)? {
            join(&mut self.message, &bytes[..end], header, &mut each)?;
            bytes = &bytes[end..];
        }
        self.held.extend_from_slice(bytes);
        Ok(())
    }
}

/// How much of a frame is there.
enum Extent {
    /// All: the payload starts at `header` and ends at `end`.
    Whole { header: usize, end: usize },
    /// Not all: at least so many more bytes belong to it.
    Missing(usize),
}

fn measure(bytes: &[u8]) -> Result<Extent> {
    let [first, second, ..] = *bytes else {
        return Ok(Extent::Missing(2 - bytes.len()));
    };
    ensure!(
        first & 0x70 == 0,
        "the server sent a frame with reserved bits {first:#04x}, though no extension was agreed"
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
        "the server sent a frame of {length} bytes; at most {PAYLOAD_MAX} are read"
    );
    let end = header + length as usize;
    Ok(if bytes.len() < end {
        Extent::Missing(end - bytes.len())
    } else {
        Extent::Whole { header, end }
    })
}

/// Hands a frame to `each`, or with the last fragment of a message all of it.
fn join(
    message: &mut Option<(Opcode, Vec<u8>)>,
    bytes: &[u8],
    header: usize,
    each: &mut impl FnMut(Frame) -> Result<()>,
) -> Result<()> {
    let (first, payload) = (bytes[0], &bytes[header..]);
    let last = first & 0x80 != 0;
    if first & 0x0f != 0 {
        let opcode = opcode(first)?;
        if last {
            return each(Frame { opcode, payload });
        }
        ensure!(
            message.replace((opcode, payload.to_vec())).is_none(),
            "the server began a message within another"
        );
        return Ok(());
    }
    let Some((_, joined)) = message else {
        bail!("the server went on with a message that it had not begun");
    };
    joined.extend_from_slice(payload);
    ensure!(
        joined.len() as u64 <= PAYLOAD_MAX,
        "the server sent a message of more than {PAYLOAD_MAX} bytes"
    );
    match message.take_if(|_| last) {
        Some((opcode, joined)) => each(Frame {
            opcode,
            payload: &joined,
        }),
        None => Ok(()),
    }
}

fn opcode(first: u8) -> Result<Opcode> {
    Ok(match first & 0x0f {
        1 => Opcode::Text,
        2 => Opcode::Binary,
        8 => Opcode::Close,
        9 => Opcode::Ping,
        10 => Opcode::Pong,
        other => bail!("the server sent a frame with opcode {other}"),
    })
}

/// A close frame's code and reason, for an error message.
pub fn closing(payload: &[u8]) -> String {
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

    /// As a server sends it: not masked.
    fn server(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
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
    fn frames_are_found_wherever_reads_cut_them() {
        let messages: Vec<Vec<u8>> = [0, 1, 125, 126, 300, 0xffff, 0x10000]
            .map(|size| vec![b'x'; size])
            .into();
        let wire: Vec<u8> = messages
            .iter()
            .flat_map(|message| server(Opcode::Text, message))
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
            assert!(reader.held.is_empty());
        }
    }

    #[test]
    fn fragments_are_joined_whatever_comes_between_them() {
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
            let wanted = [
                (Opcode::Ping, &b""[..]),
                (Opcode::Text, b"one!"),
                (Opcode::Binary, b"2"),
            ]
            .map(|(opcode, payload)| (opcode, payload.to_vec()));
            assert_eq!(found, wanted, "reads of {step} bytes");
        }
    }

    #[test]
    fn a_server_that_breaks_the_protocol_is_an_error() {
        for (wire, says) in [
            (&[0x80, 0x00][..], "had not begun"),
            (&[0x01, 0x00, 0x01, 0x00], "within another"),
            (&[0xc1, 0x00], "reserved"),
            (&[0x81, 0x80], "masked"),
            (&[0x83, 0x00], "opcode 3"),
            (
                &[0x82, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
                "at most",
            ),
        ] {
            let error = Reader::default().feed(wire, |_| Ok(())).unwrap_err();
            assert!(error.to_string().contains(says), "{wire:x?}: {error}");
        }
    }

    #[test]
    fn a_client_frame_is_masked_and_keeps_its_payload() {
        for size in [0, 16, 125, 126, 0xffff, 0x10000] {
            let payload: Vec<u8> = (0..size).map(|at| at as u8).collect();
            let wire = encode(Opcode::Binary, &payload);
            let start = wire.len() - size;
            assert_eq!(wire[1] & 0x80, 0x80);
            let mask = &wire[start - 4..start];
            let seen: Vec<u8> = wire[start..]
                .iter()
                .enumerate()
                .map(|(at, byte)| byte ^ mask[at % 4])
                .collect();
            assert_eq!(seen, payload);
        }
        assert_eq!(encode(Opcode::Ping, b"").len(), 6);
    }

    #[test]
    fn a_close_frame_is_told_in_words() {
        assert_eq!(
            closing(&[0x03, 0xf5, b's', b'l', b'o', b'w']),
            "1013 (slow)"
        );
        assert_eq!(closing(&[0x03, 0xe8]), "1000");
        assert_eq!(closing(&[]), "no code");
    }
}
