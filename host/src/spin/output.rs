//! Copies Spin's output to stderr.

use std::{
    collections::VecDeque,
    io::{self, BufRead as _, BufReader, PipeReader, PipeWriter, Read as _, Write as _},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::mpsc, time::timeout};

/// Precedes what Spin itself prints, so that its address is not mistaken for that of the host.
const PREFIX: &[u8] = b"[spin] ";
/// A line of Spin that is longer is split.
const MAX_LINE_BYTES: u64 = 64 << 10;
/// Bytes that are kept of the output, for the error of a start that fails.
const MAX_TAIL_BYTES: usize = 4 << 10;
/// How long output is read after Spin has exited. Its background processes may keep the pipes open.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);

/// The output of Spin.
///
/// Spin's stdout has its own messages, and its stderr has the output of the components and the
/// errors. Both are copied by threads, since a terminal that does not read blocks them. Spin then
/// waits as well, as it would if it printed to the terminal itself.
pub(super) struct Output {
    tail: Arc<Mutex<Tail>>,
    /// Closed when both streams have ended.
    ended: mpsc::Receiver<()>,
}

impl Output {
    /// Starts to copy, and returns the writing ends for stdout and stderr.
    pub(super) fn start() -> io::Result<(Self, [PipeWriter; 2])> {
        let tail = Arc::<Mutex<Tail>>::default();
        let (copying, ended) = mpsc::channel(1);
        let (stdout, stdout_writer) = io::pipe()?;
        let (stderr, stderr_writer) = io::pipe()?;
        for (name, reader, is_own) in [
            ("spin-stdout", stdout, true),
            ("spin-stderr", stderr, false),
        ] {
            let (tail, copying) = (tail.clone(), copying.clone());
            let thread = std::thread::Builder::new().name(name.into());
            thread.spawn(move || {
                let _copying = copying;
                // Reading fails at the end only.
                let _ = if is_own {
                    copy_lines(reader, &tail)
                } else {
                    copy_bytes(reader, &tail)
                };
            })?;
        }
        Ok((Self { tail, ended }, [stdout_writer, stderr_writer]))
    }

    /// Stops keeping the end of the output.
    pub(super) fn forget(&self) {
        *self.tail.lock() = Tail {
            bytes: None,
            is_cut: false,
        };
    }

    /// Returns the end of the output of a Spin that has exited.
    pub(super) async fn into_tail(mut self) -> String {
        let _ = timeout(OUTPUT_GRACE, self.ended.recv()).await;
        self.tail.lock().text()
    }
}

/// The last bytes of an output. `None` if they are not kept any more.
struct Tail {
    bytes: Option<VecDeque<u8>>,
    is_cut: bool,
}

impl Default for Tail {
    fn default() -> Self {
        Self {
            bytes: Some(VecDeque::new()),
            is_cut: false,
        }
    }
}

impl Tail {
    fn push(&mut self, output: &[u8]) {
        if let Some(bytes) = &mut self.bytes {
            bytes.extend(output);
            let surplus = bytes.len().saturating_sub(MAX_TAIL_BYTES);
            self.is_cut |= surplus > 0;
            bytes.drain(..surplus);
        }
    }

    /// Returns the lines. The first one is left out if it is incomplete.
    fn text(&self) -> String {
        let bytes = self.bytes.iter().flatten().copied();
        let text = String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned();
        let text = match text.split_once('\n') {
            Some((_, lines)) if self.is_cut => lines,
            _ => &text,
        };
        text.trim().to_owned()
    }
}

/// Copies Spin's own messages by lines, with a prefix.
fn copy_lines(reader: PipeReader, tail: &Mutex<Tail>) -> io::Result<()> {
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while reader
        .by_ref()
        .take(MAX_LINE_BYTES)
        .read_until(b'\n', &mut line)?
        > 0
    {
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        tail.lock().push(&line);
        if line != b"\n" {
            // A closed terminal does not end Spin.
            let _ = io::stderr().lock().write_all(&[PREFIX, &line].concat());
        }
        line.clear();
    }
    Ok(())
}

/// Copies what components print, as it comes.
fn copy_bytes(mut reader: PipeReader, tail: &Mutex<Tail>) -> io::Result<()> {
    let mut buffer = vec![0; 8 << 10];
    loop {
        let length = reader.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        tail.lock().push(&buffer[..length]);
        let _ = io::stderr().lock().write_all(&buffer[..length]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_starts_with_a_whole_line() {
        let mut tail = Tail::default();
        tail.push(b"error: one\n  caused by: two\n\n");
        assert_eq!(tail.text(), "error: one\n  caused by: two");
        tail.push("ü".repeat(MAX_TAIL_BYTES / 2).as_bytes());
        tail.push(b"\nlast\n");
        assert_eq!(tail.text(), "last");
        let mut forgotten = Tail {
            bytes: None,
            is_cut: false,
        };
        forgotten.push(b"x");
        assert_eq!(forgotten.text(), "");
    }

    #[tokio::test]
    async fn both_streams_are_kept() {
        let (output, [mut stdout, mut stderr]) = Output::start().unwrap();
        write!(stdout, "to stdout").unwrap();
        drop(stdout);
        write!(stderr, "to stderr").unwrap();
        drop(stderr);
        let tail = output.into_tail().await;
        assert!(
            tail.contains("to stdout\n") || tail.ends_with("to stdout"),
            "{tail}"
        );
        assert!(tail.contains("to stderr"), "{tail}");
    }
}
