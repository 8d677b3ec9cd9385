//! The body of a held HTTP response: lines in chunked encoding (RFC 9112, section 7.1).

use anyhow::{Result, bail, ensure};
use memchr::memchr;

/// The maximum line length accepted from a server, in bytes.
const LINE_MAX: usize = 1 << 20;
/// The maximum chunk size accepted from a server, in bytes.
const CHUNK_MAX: u64 = 1 << 40;

/// Parses the lines of one stream across chunk and read boundaries.
#[derive(Debug, Default)]
pub struct Reader {
    state: State,
    /// The start of an incomplete line.
    partial: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// In the line with a chunk's size; `in_digits` until the first byte that is no digit.
    Size { size: u64, in_digits: bool },
    /// In a chunk, with this many bytes left.
    Data(u64),
    /// In the CRLF after a chunk, with this many bytes left.
    End(u8),
}

impl Default for State {
    fn default() -> Self {
        Self::Size {
            size: 0,
            in_digits: true,
        }
    }
}

impl Reader {
    /// Calls `each` for each line that is complete with `bytes`, without its line feed. The end
    /// of the stream is an error: the server must keep it open. The reader is unusable after an
    /// error.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        while let [first, rest @ ..] = bytes {
            match self.state {
                State::Size { size, in_digits } => {
                    self.state = parse_size(size, in_digits, *first)?;
                    bytes = rest;
                }
                State::Data(left) => {
                    let length = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let (data, rest) = bytes.split_at(length);
                    self.split_lines(data, &mut each)?;
                    bytes = rest;
                    self.state = match left - length as u64 {
                        0 => State::End(2),
                        left => State::Data(left),
                    };
                }
                State::End(left) => {
                    bytes = rest;
                    self.state = match left {
                        1 => State::default(),
                        _ => State::End(left - 1),
                    };
                }
            }
        }
        Ok(())
    }

    fn split_lines(
        &mut self,
        mut data: &[u8],
        each: &mut impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        while let Some(end) = memchr(b'\n', data) {
            let (line, rest) = (&data[..end], &data[end + 1..]);
            if self.partial.is_empty() {
                each(line)?;
            } else {
                self.partial.extend_from_slice(line);
                each(&self.partial)?;
                self.partial.clear();
            }
            data = rest;
        }
        self.partial.extend_from_slice(data);
        ensure!(
            self.partial.len() <= LINE_MAX,
            "the server sent a line longer than {LINE_MAX} bytes"
        );
        Ok(())
    }
}

/// Returns the state after one more byte of the line with a chunk's size.
fn parse_size(size: u64, in_digits: bool, byte: u8) -> Result<State> {
    let digit = match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        b'A'..=b'F' => byte - b'A' + 10,
        b'\n' if size == 0 => bail!("the server ended the stream"),
        b'\n' => return Ok(State::Data(size)),
        _ => {
            return Ok(State::Size {
                size,
                in_digits: false,
            });
        }
    };
    if !in_digits {
        return Ok(State::Size { size, in_digits });
    }
    let size = size << 4 | u64::from(digit);
    ensure!(
        size <= CHUNK_MAX,
        "the server sent a chunk larger than {CHUNK_MAX} bytes"
    );
    Ok(State::Size { size, in_digits })
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
    fn lines_are_parsed_across_chunk_and_read_boundaries() {
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
    fn end_of_stream_and_oversized_chunks_are_errors() {
        assert!(lines(&mut Reader::default(), b"3\r\nab\n\r\n0\r\n\r\n").is_err());
        assert!(lines(&mut Reader::default(), b"fffffffffffffffff\r\n").is_err());
    }
}
