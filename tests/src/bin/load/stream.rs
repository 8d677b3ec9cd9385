//! The body of a held HTTP response: its chunks (RFC 9112, section 7.1), and the lines in them.

use anyhow::{Result, bail, ensure};
use memchr::memchr;

/// The longest line taken from a server, in bytes.
const LINE_MAX: usize = 1 << 20;
/// The largest chunk that a server may announce, in bytes.
const CHUNK_MAX: u64 = 1 << 40;

/// Finds lines in what one stream brings, wherever chunks and reads cut it.
#[derive(Debug, Default)]
pub struct Reader {
    place: Place,
    /// The beginning of a line whose end has not come.
    held: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    /// In the line with a chunk's size; `bare` until something other than a digit comes.
    Size { so_far: u64, bare: bool },
    /// In a chunk, with so many bytes left.
    Data(u64),
    /// In the two bytes that end a chunk, with so many left.
    End(u8),
}

impl Default for Place {
    fn default() -> Self {
        Self::Size {
            so_far: 0,
            bare: true,
        }
    }
}

impl Reader {
    /// Hands each line that ends in `bytes`, without its end, to `each`. The end of
    /// the stream is an error, as the server was to keep it. After an error, ours or
    /// the caller's, the connection is to be dropped.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        while let [first, rest @ ..] = bytes {
            match self.place {
                Place::Size { so_far, bare } => {
                    self.place = size(so_far, bare, *first)?;
                    bytes = rest;
                }
                Place::Data(left) => {
                    let here = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let (data, rest) = bytes.split_at(here);
                    self.lines(data, &mut each)?;
                    bytes = rest;
                    self.place = match left - here as u64 {
                        0 => Place::End(2),
                        left => Place::Data(left),
                    };
                }
                Place::End(left) => {
                    bytes = rest;
                    self.place = match left {
                        1 => Place::default(),
                        _ => Place::End(left - 1),
                    };
                }
            }
        }
        Ok(())
    }

    fn lines(&mut self, mut data: &[u8], each: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        while let Some(end) = memchr(b'\n', data) {
            let (line, rest) = (&data[..end], &data[end + 1..]);
            if self.held.is_empty() {
                each(line)?;
            } else {
                self.held.extend_from_slice(line);
                each(&self.held)?;
                self.held.clear();
            }
            data = rest;
        }
        self.held.extend_from_slice(data);
        ensure!(
            self.held.len() <= LINE_MAX,
            "the server sent a line longer than {LINE_MAX} bytes"
        );
        Ok(())
    }
}

/// The place after one more byte of the line with a chunk's size.
fn size(so_far: u64, bare: bool, byte: u8) -> Result<Place> {
    let digit = match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        b'A'..=b'F' => byte - b'A' + 10,
        b'\n' if so_far == 0 => bail!("the server ended the stream"),
        b'\n' => return Ok(Place::Data(so_far)),
        _ => {
            return Ok(Place::Size {
                so_far,
                bare: false,
            });
        }
    };
    if !bare {
        return Ok(Place::Size { so_far, bare });
    }
    let so_far = so_far << 4 | u64::from(digit);
    ensure!(
        so_far <= CHUNK_MAX,
        "the server announced a chunk of more than {CHUNK_MAX} bytes"
    );
    Ok(Place::Size { so_far, bare })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(reader: &mut Reader, bytes: &[u8]) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        reader.feed(bytes, |line| {
            lines.push(String::from_utf8_lossy(line).into_owned());
            Ok(())
        })?;
        Ok(lines)
    }

    #[test]
    fn lines_are_found_wherever_they_are_cut() {
        let body = b"4\r\none\n\r\n9;x=1\r\ntwo\nthree\r\nB \r\n\nfour\nfive\n\r\n";
        for cut in 0..body.len() {
            let mut reader = Reader::default();
            let mut found = lines(&mut reader, &body[..cut]).unwrap();
            found.extend(lines(&mut reader, &body[cut..]).unwrap());
            assert_eq!(
                found,
                ["one", "two", "three", "four", "five"],
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn the_end_and_nonsense_are_errors() {
        assert!(lines(&mut Reader::default(), b"3\r\nab\n\r\n0\r\n\r\n").is_err());
        assert!(lines(&mut Reader::default(), b"fffffffffffffffff\r\n").is_err());
    }
}
