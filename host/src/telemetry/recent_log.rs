//! The last lines of the log, which the control port shows.

use std::collections::VecDeque;

use parking_lot::Mutex;
use serde::Serialize;

use crate::config::Limits;

/// The memory of the lines that are kept, in bytes.
const MAX_BYTES: usize = Limits::DEFAULT.recent_log_bytes;

/// The bytes of a line that are kept.
const MAX_LINE_BYTES: usize = MAX_BYTES / 16;

/// The last lines of this process.
static LINES: Mutex<Lines> = Mutex::new(Lines::new());

/// The last lines of a log, each with a number that rises by one.
struct Lines {
    lines: VecDeque<Box<str>>,
    bytes: usize,
    /// The number of the next line.
    next: u64,
}

/// Lines of the log.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct LogExcerpt {
    /// The lines, the oldest first.
    pub(crate) lines: Vec<Box<str>>,
    /// The number of the first of them.
    pub(crate) first: u64,
    /// The number of the next line that is logged.
    pub(crate) next: u64,
}

/// Keeps a line, which may contain colours and end with a line break.
pub(crate) fn record(line: &[u8]) {
    LINES.lock().push(plain(line));
}

/// Returns the lines from this number on, as far as they are kept.
pub(crate) fn since(number: u64) -> LogExcerpt {
    LINES.lock().since(number)
}

impl Lines {
    const fn new() -> Self {
        Self {
            lines: VecDeque::new(),
            bytes: 0,
            next: 0,
        }
    }

    fn push(&mut self, line: Box<str>) {
        self.bytes += cost(&line);
        self.lines.push_back(line);
        self.next += 1;
        while self.bytes > MAX_BYTES
            && let Some(oldest) = self.lines.pop_front()
        {
            self.bytes -= cost(&oldest);
        }
    }

    fn since(&self, number: u64) -> LogExcerpt {
        let oldest = self.next - self.lines.len() as u64;
        let first = number.clamp(oldest, self.next);
        // Less than the number of lines.
        let skipped = usize::try_from(first - oldest).unwrap_or(usize::MAX);
        LogExcerpt {
            lines: self.lines.iter().skip(skipped).cloned().collect(),
            first,
            next: self.next,
        }
    }
}

/// Returns the memory that a line occupies, in bytes.
fn cost(line: &str) -> usize {
    line.len() + size_of::<Box<str>>()
}

/// Returns a line as text without escape sequences (ECMA-48, 5.4) and line breaks.
fn plain(line: &[u8]) -> Box<str> {
    let line = String::from_utf8_lossy(&line[..line.len().min(MAX_LINE_BYTES)]);
    let mut text = String::with_capacity(line.len());
    let mut parts = line.trim_end().split("\x1b[");
    text.extend(parts.next());
    for part in parts {
        let end = part.find(|it: char| ('\x40'..='\x7e').contains(&it));
        text.extend(end.map(|end| &part[end + 1..]));
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_plain_text() {
        let line = b"\x1b[2m2026-01-31\x1b[0m \x1b[32m INFO\x1b[0m started \x1b[3mport\x1b[0m=80\n";
        assert_eq!(&*plain(line), "2026-01-31  INFO started port=80");
        assert_eq!(&*plain(b"a \xff b\r\n"), "a \u{fffd} b");
        assert_eq!(&*plain(b"cut\x1b["), "cut");
        let long = vec![b'x'; 2 * MAX_LINE_BYTES];
        assert_eq!(plain(&long).len(), MAX_LINE_BYTES);
    }

    #[test]
    fn the_last_lines_are_kept() {
        let mut lines = Lines::new();
        let excerpt = |first, next, lines: &[&str]| LogExcerpt {
            lines: lines.iter().copied().map(Box::from).collect(),
            first,
            next,
        };
        assert_eq!(lines.since(0), excerpt(0, 0, &[]));
        for line in ["a", "b", "c"] {
            lines.push(line.into());
        }
        assert_eq!(lines.since(1), excerpt(1, 3, &["b", "c"]));
        assert_eq!(lines.since(3), excerpt(3, 3, &[]));
        // The page was loaded before the host was restarted.
        assert_eq!(lines.since(99), excerpt(3, 3, &[]));
        for _ in 0..32 {
            lines.push("x".repeat(MAX_LINE_BYTES).into());
        }
        let kept = lines.since(0);
        assert!(kept.lines.len() < 16 && lines.bytes <= MAX_BYTES);
        assert_eq!(
            (kept.next, kept.next - kept.first),
            (35, kept.lines.len() as u64)
        );
    }
}
