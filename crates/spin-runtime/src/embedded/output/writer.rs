//! The thread that writes the output of components.

use std::{
    collections::HashMap,
    io::Write as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    time::{Duration, Instant},
};

use super::{log_file::LogFile, rotation::LogRotation};

/// The pause between two log lines about dropped output.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// What the thread shares with the streams.
pub(super) struct Shared {
    pub(super) lines: Sender<Message>,
    /// The memory of the lines in the queue, as counted by [`Message::queued_bytes`].
    pub(super) pending_bytes: AtomicUsize,
    /// The text that was dropped since the last report.
    pub(super) dropped_bytes: AtomicUsize,
    pub(super) max_pending_bytes: usize,
    pub(super) max_line_bytes: usize,
}

/// What the thread does next.
pub(super) enum Message {
    /// Writes complete lines of a component.
    Lines {
        component: Arc<str>,
        /// The log file to append to.
        file: Option<Arc<Path>>,
        /// Whether to write to stderr.
        echo: bool,
        text: Vec<u8>,
    },
    Stop,
}

impl Message {
    /// Returns the memory that lines take in the queue.
    pub(super) fn queued_bytes(text: &[u8]) -> usize {
        size_of::<Self>() + text.len()
    }
}

/// The state of the thread.
pub(super) struct Writer {
    shared: Arc<Shared>,
    rotation: LogRotation,
    retry_interval: Duration,
    files: HashMap<Arc<Path>, LogFile>,
    /// When dropped output was last logged.
    reported: Option<Instant>,
}

impl Writer {
    /// Creates a writer.
    pub(super) fn new(
        shared: Arc<Shared>,
        rotation: LogRotation,
        retry_interval: Duration,
    ) -> Self {
        Self {
            shared,
            rotation,
            retry_interval,
            files: HashMap::new(),
            reported: None,
        }
    }

    /// Writes what is in the queue, until [`Message::Stop`].
    pub(super) fn run(mut self, queue: &Receiver<Message>) {
        loop {
            match self.next(queue) {
                Ok(Message::Lines {
                    component,
                    file,
                    echo,
                    text,
                }) => {
                    let queued = Message::queued_bytes(&text);
                    self.shared.pending_bytes.fetch_sub(queued, Relaxed);
                    if echo {
                        // The file has the output even if stderr is closed.
                        let lines = prefix(&component, &text);
                        let _ = std::io::stderr().lock().write_all(&lines);
                    }
                    if let Some(file) = file {
                        self.append(file, &text);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => break,
            }
            if self
                .reported
                .is_none_or(|reported| reported.elapsed() >= REPORT_INTERVAL)
            {
                self.report_dropped();
            }
        }
        self.report_dropped();
    }

    fn next(&self, queue: &Receiver<Message>) -> Result<Message, RecvTimeoutError> {
        if self.shared.dropped_bytes.load(Relaxed) > 0 {
            queue.recv_timeout(REPORT_INTERVAL)
        } else {
            queue.recv().map_err(|_| RecvTimeoutError::Disconnected)
        }
    }

    fn append(&mut self, path: Arc<Path>, text: &[u8]) {
        let (rotation, retry_interval) = (self.rotation, self.retry_interval);
        self.files
            .entry(path)
            .or_insert_with_key(|path| LogFile::new(path.clone(), rotation, retry_interval))
            .write(text);
    }

    fn report_dropped(&mut self) {
        let bytes = self.shared.dropped_bytes.swap(0, Relaxed);
        if bytes > 0 {
            tracing::warn!(bytes, "dropped output of components");
            self.reported = Some(Instant::now());
        }
    }
}

/// Puts the id of the component in front of each line, and completes the last line.
fn prefix(component: &str, text: &[u8]) -> Vec<u8> {
    let mut prefixed = Vec::with_capacity(text.len() + component.len() + 4);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        prefixed.push(b'[');
        prefixed.extend_from_slice(component.as_bytes());
        prefixed.extend_from_slice(b"] ");
        prefixed.extend_from_slice(line);
    }
    if !prefixed.ends_with(b"\n") {
        prefixed.push(b'\n');
    }
    prefixed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_on_the_terminal_names_its_component() {
        for (text, expected) in [
            ("one\n", "[orders] one\n"),
            ("one\ntwo\n", "[orders] one\n[orders] two\n"),
            ("one\n\ntwo\n", "[orders] one\n[orders] \n[orders] two\n"),
            ("part of a long line", "[orders] part of a long line\n"),
        ] {
            let prefixed = prefix("orders", text.as_bytes());
            assert_eq!(String::from_utf8_lossy(&prefixed), expected);
        }
    }
}
