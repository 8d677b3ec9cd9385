//! The framing of the requests on an HTTP/1.1 connection, checked on the bytes that arrive.
//!
//! hyper accepts some requests that other servers read differently, and hides how they were sent: it
//! removes a `Content-Length` beside `Transfer-Encoding`, joins repeated lengths, drops fragments, and
//! accepts lines that end without CR. A server in front of this host could see other requests in the
//! same bytes (RFC 9112, section 11.2).

use memchr::memchr;

/// The part of a line that is kept until the line is complete. The fields that matter are shorter.
const MAX_LINE_START: usize = 256;

/// The largest length of a body that hyper accepts.
const MAX_LENGTH: u64 = u64::MAX - 2;

/// The first line of the preface of HTTP/2 (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0";

const BARE_LF: &str = "malformed request: expected lines that end with CRLF";
const INVALID_LENGTH: &str = "invalid Content-Length: expected a number";
const INVALID_CHUNK: &str = "malformed request body: invalid chunk size";

/// What is wrong with a request, as an extension of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// The first malformed request on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The number of the request, from 1.
    pub(crate) request: u64,
    /// Whether its body is malformed, rather than its head.
    pub(crate) is_body: bool,
    pub(crate) text: Malformed,
}

/// Follows the requests on a connection until one is malformed, or until HTTP/2 begins.
#[derive(Default)]
pub(crate) struct Framing {
    state: State,
    line: PartialLine,
    /// The request that is being received, or the next one.
    head: Head,
    /// The requests whose head is complete.
    requests: u64,
    /// Empty lines have arrived since the last request.
    has_empty_lines: bool,
}

/// What comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// A request line, after any number of empty lines.
    #[default]
    RequestLine,
    HeaderField,
    /// This many bytes of a body.
    Body(u64),
    ChunkSize,
    /// This many bytes of a chunk.
    Chunk(u64),
    ChunkEnd,
    TrailerField,
    /// HTTP/2, which is not checked.
    Http2,
    /// A request was malformed. What follows is not served.
    Ended,
}

/// The fields of a head that determine the length of the body.
#[derive(Default)]
struct Head {
    length: Option<u64>,
    has_transfer_coding: bool,
}

/// The part of a line that has arrived.
#[derive(Default)]
struct PartialLine {
    start: Vec<u8>,
    /// The bytes after the start.
    omitted: usize,
    /// Whether there is a `#` among the omitted bytes.
    omits_hash: bool,
    ends_with_cr: bool,
}

/// A complete line without its end.
struct Line<'l> {
    start: &'l [u8],
    is_truncated: bool,
    omits_hash: bool,
    ends_with_crlf: bool,
}

impl Framing {
    /// Returns whether bytes must still be checked.
    pub(crate) fn is_checking(&self) -> bool {
        !matches!(self.state, State::Http2 | State::Ended)
    }

    /// Returns whether a request after the first `received` ones has begun, or the last of these is
    /// not complete.
    pub(crate) fn has_more_than(&self, received: u64) -> bool {
        match self.state {
            State::Http2 => false,
            State::RequestLine => {
                self.requests > received || !self.line.is_empty() || self.has_empty_lines
            }
            _ => true,
        }
    }

    /// Checks the next bytes. Stops at the first problem.
    ///
    /// # Errors
    /// Returns the problem, and the number of bytes before the end of the malformed line.
    pub(crate) fn check(&mut self, bytes: &[u8]) -> Result<(), (Problem, usize)> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match &mut self.state {
                State::Http2 | State::Ended => return Ok(()),
                State::Body(left) | State::Chunk(left) => {
                    let skipped = usize::try_from(*left).map_or(rest.len(), |n| n.min(rest.len()));
                    rest = &rest[skipped..];
                    *left -= skipped as u64;
                }
                _ => {
                    let end = memchr(b'\n', rest);
                    let piece = &rest[..end.unwrap_or(rest.len())];
                    let Some(end) = end else {
                        self.line.push(piece);
                        return Ok(());
                    };
                    let partial = std::mem::take(&mut self.line);
                    if let Err(text) = partial.complete(piece, |line| self.end_line(&line)) {
                        let problem = self.problem(text);
                        self.state = State::Ended;
                        return Err((problem, bytes.len() - rest.len() + end));
                    }
                    rest = &rest[end + 1..];
                }
            }
            match self.state {
                State::Body(0) => self.state = State::RequestLine,
                State::Chunk(0) => self.state = State::ChunkEnd,
                _ => {}
            }
        }
        Ok(())
    }

    fn problem(&self, text: &'static str) -> Problem {
        let is_head = matches!(self.state, State::RequestLine | State::HeaderField);
        Problem {
            request: self.requests + u64::from(is_head),
            is_body: !is_head,
            text: Malformed(text),
        }
    }

    /// Handles a complete line.
    fn end_line(&mut self, line: &Line<'_>) -> Result<(), &'static str> {
        if !line.ends_with_crlf {
            return Err(BARE_LF);
        }
        match self.state {
            State::RequestLine if line.start.is_empty() => self.has_empty_lines = true,
            State::RequestLine if line.start == HTTP2_PREFACE => self.state = State::Http2,
            State::RequestLine => {
                let target = memchr(b' ', line.start).map_or(&[][..], |end| &line.start[end..]);
                if line.omits_hash || memchr(b'#', target).is_some() {
                    return Err("invalid request target: expected no fragment");
                }
                self.has_empty_lines = false;
                self.head = Head::default();
                self.state = State::HeaderField;
            }
            State::HeaderField if line.start.is_empty() => {
                self.requests += 1;
                self.state = if self.head.has_transfer_coding {
                    State::ChunkSize
                } else {
                    State::Body(self.head.length.unwrap_or(0))
                };
            }
            State::HeaderField => self.head.add(line)?,
            State::ChunkSize => {
                self.state = match chunk_size(line).ok_or(INVALID_CHUNK)? {
                    0 => State::TrailerField,
                    size => State::Chunk(size),
                }
            }
            State::ChunkEnd if line.start.is_empty() => self.state = State::ChunkSize,
            State::ChunkEnd => return Err(INVALID_CHUNK),
            State::TrailerField if line.start.is_empty() => self.state = State::RequestLine,
            // Other states have no lines.
            _ => {}
        }
        Ok(())
    }
}

impl Head {
    /// Adds a header field, unless it contradicts the others.
    fn add(&mut self, line: &Line<'_>) -> Result<(), &'static str> {
        // Most lines need no further look.
        if !matches!(line.start, [b'c' | b'C' | b't' | b'T', ..]) {
            return Ok(());
        }
        let colon = memchr(b':', line.start).unwrap_or(line.start.len());
        let (name, value) = line.start.split_at(colon);
        if name.eq_ignore_ascii_case(b"content-length") {
            let value = value.get(1..).unwrap_or_default().trim_ascii();
            let length = digits(value, 10).filter(|length| *length <= MAX_LENGTH);
            let length = length.filter(|_| !line.is_truncated);
            if self.length.is_some() {
                return Err("more than one Content-Length header");
            }
            self.length = Some(length.ok_or(INVALID_LENGTH)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.has_transfer_coding = true;
        }
        if self.has_transfer_coding && self.length.is_some() {
            return Err("both Content-Length and Transfer-Encoding");
        }
        Ok(())
    }
}

/// Returns the size of a chunk (RFC 9112, section 7.1).
fn chunk_size(line: &Line<'_>) -> Option<u64> {
    let end = line.start.iter().position(|byte| b"; \t".contains(byte));
    if end.is_none() && line.is_truncated {
        return None;
    }
    digits(&line.start[..end.unwrap_or(line.start.len())], 16)
}

/// Parses digits without a sign.
fn digits(text: &[u8], radix: u32) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    let is_number = text.bytes().all(|byte| char::from(byte).is_digit(radix));
    is_number.then(|| u64::from_str_radix(text, radix).ok())?
}

impl PartialLine {
    fn is_empty(&self) -> bool {
        self.start.is_empty() && !self.ends_with_cr
    }

    /// Appends a part that does not contain the end of the line.
    fn push(&mut self, piece: &[u8]) {
        let Some((last, _)) = piece.split_last() else {
            return;
        };
        if self.ends_with_cr {
            // It did not end the line.
            self.append(b"\r");
        }
        self.ends_with_cr = *last == b'\r';
        self.append(piece.strip_suffix(b"\r").unwrap_or(piece));
    }

    fn append(&mut self, piece: &[u8]) {
        let kept = piece.len().min(MAX_LINE_START - self.start.len());
        let (kept, omitted) = piece.split_at(kept);
        self.start.extend_from_slice(kept);
        self.omitted += omitted.len();
        self.omits_hash |= memchr(b'#', omitted).is_some();
    }

    /// Handles the line that ends with `piece`, which does not contain the LF.
    fn complete<T>(mut self, piece: &[u8], handle: impl FnOnce(Line<'_>) -> T) -> T {
        if self.is_empty() {
            let line = piece.strip_suffix(b"\r");
            let start = line.unwrap_or(piece);
            return handle(Line {
                start,
                is_truncated: start.len() > MAX_LINE_START,
                omits_hash: false,
                ends_with_crlf: line.is_some(),
            });
        }
        self.push(piece);
        handle(Line {
            start: &self.start,
            is_truncated: self.omitted > 0,
            omits_hash: self.omits_hash,
            ends_with_crlf: self.ends_with_cr,
        })
    }
}

#[cfg(test)]
mod tests;
