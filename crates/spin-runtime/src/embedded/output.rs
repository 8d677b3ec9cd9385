//! The stdout and stderr of guests. A thread writes them line by line to log files and stderr.

mod log_file;
mod writer;

use std::{
    path::Path,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    task::{Context, Poll},
    thread::JoinHandle,
};

use anyhow::Context as _;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use wasmtime_wasi::{
    cli::{IsTerminal, StdoutStream},
    p2::{self, Pollable, StreamResult},
};

use self::writer::{Message, Shared, Writer};
use crate::limits::Limits;

/// The thread that writes the output of all components.
pub(crate) struct Output {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Output {
    /// Starts the thread. With `echo`, it also writes to stderr.
    ///
    /// # Errors
    /// Fails if the thread cannot be started.
    pub(crate) fn start(echo: bool, limits: &Limits) -> anyhow::Result<Self> {
        let (lines, queue) = mpsc::channel();
        let shared = Arc::new(Shared {
            lines,
            pending_bytes: AtomicUsize::new(0),
            dropped_bytes: AtomicUsize::new(0),
            max_pending_bytes: limits.pending_output_bytes,
            max_line_bytes: limits.output_line_bytes,
        });
        let thread = std::thread::Builder::new()
            .name("guest-output".into())
            .spawn({
                let writer = Writer::new(shared.clone(), echo, limits.log_file_retry_interval);
                move || writer.run(&queue)
            })
            .context("cannot start the output thread")?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Creates a stream of a component that appends to `file`. The file and its folder are created
    /// if needed.
    ///
    /// # Errors
    /// Fails if the file cannot be opened for appending.
    pub(crate) fn stream(&self, component: Arc<str>, file: &Path) -> anyhow::Result<OutputStream> {
        log_file::open(file)
            .with_context(|| format!("cannot open the log file {}", file.display()))?;
        Ok(OutputStream {
            shared: self.shared.clone(),
            component,
            file: file.into(),
        })
    }
}

impl Drop for Output {
    /// Waits until all pending lines are written.
    fn drop(&mut self) {
        let stopped = self.shared.lines.send(Message::Stop);
        if let (Ok(()), Some(thread)) = (stopped, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

/// The stdout or stderr of a component. Each instance writes to a [`Pipe`] of its own.
#[derive(Clone)]
pub(crate) struct OutputStream {
    shared: Arc<Shared>,
    component: Arc<str>,
    file: Arc<Path>,
}

impl OutputStream {
    pub(crate) fn pipe(&self) -> Pipe {
        Pipe(Arc::new(Line {
            stream: self.clone(),
            text: Mutex::new(Vec::new()),
        }))
    }

    fn send(&self, text: Vec<u8>) {
        let length = text.len();
        let shared = &self.shared;
        // A blocked terminal must not block the guests.
        if shared.pending_bytes.fetch_add(length, Relaxed) + length > shared.max_pending_bytes {
            shared.pending_bytes.fetch_sub(length, Relaxed);
            shared.dropped_bytes.fetch_add(length, Relaxed);
            return;
        }
        // Fails only at exit, when the thread has stopped.
        let _ = shared.lines.send(Message::Lines {
            component: self.component.clone(),
            file: self.file.clone(),
            text,
        });
    }
}

/// The output of an instance. Clones write to the same line.
#[derive(Clone)]
pub(crate) struct Pipe(Arc<Line>);

/// The incomplete line of an instance. It is buffered so that lines of instances do not mix.
struct Line {
    stream: OutputStream,
    text: Mutex<Vec<u8>>,
}

impl Line {
    fn write(&self, bytes: &[u8]) {
        let mut text = self.text.lock();
        text.extend_from_slice(bytes);
        let complete = match text.iter().rposition(|&byte| byte == b'\n') {
            Some(end) => end + 1,
            None if text.len() >= self.stream.shared.max_line_bytes => text.len(),
            None => return,
        };
        let rest = text.split_off(complete);
        let complete = std::mem::replace(&mut *text, rest);
        drop(text);
        self.stream.send(complete);
    }
}

impl Drop for Line {
    /// Completes the last line of an instance.
    fn drop(&mut self) {
        let mut text = std::mem::take(self.text.get_mut());
        if !text.is_empty() {
            text.push(b'\n');
            self.stream.send(text);
        }
    }
}

impl IsTerminal for Pipe {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Pipe {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn p2::OutputStream> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.0.write(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl p2::OutputStream for Pipe {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.0.write(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(self.0.stream.shared.max_line_bytes)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Pipe {
    async fn ready(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_instances_do_not_mix() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("logs/a_stdout.txt");
        let output = Output::start(false, &Limits::DEFAULT).unwrap();
        let stream = output.stream("a".into(), &file).unwrap();
        let (one, two) = (stream.pipe(), stream.pipe());
        one.0.write(b"on");
        two.0.write(b"two\ntw");
        one.0.write(b"e\n");
        drop(two);
        drop(one);
        drop(output);
        assert_eq!(std::fs::read_to_string(file).unwrap(), "two\none\ntw\n");
    }

    #[test]
    fn output_is_appended() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.txt");
        std::fs::write(&file, "before\n").unwrap();
        let output = Output::start(false, &Limits::DEFAULT).unwrap();
        output
            .stream("a".into(), &file)
            .unwrap()
            .pipe()
            .0
            .write(b"after\n");
        drop(output);
        assert_eq!(std::fs::read_to_string(file).unwrap(), "before\nafter\n");
    }

    #[test]
    fn errors_name_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("logs"), "").unwrap();
        let output = Output::start(false, &Limits::DEFAULT).unwrap();
        let error = output
            .stream("a".into(), &folder.path().join("logs/a.txt"))
            .err()
            .unwrap();
        assert!(format!("{error:#}").contains("logs"), "{error:#}");
    }
}
