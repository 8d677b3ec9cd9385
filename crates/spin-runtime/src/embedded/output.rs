//! The stdout and stderr of guests. A thread writes them line by line to log files and stderr.

mod log_file;
mod rotation;
pub(crate) mod source;
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

pub use self::rotation::LogRotation;
use self::{
    source::OutputSource,
    writer::{Message, Shared, Writer},
};
use super::simulation::World;
use crate::limits::Limits;

/// The thread that writes the output of all components.
pub(crate) struct Output {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Output {
    /// Starts the thread, which rotates the log files.
    ///
    /// # Errors
    /// Fails if the thread cannot be started.
    pub(crate) fn start(limits: &Limits, rotation: LogRotation) -> anyhow::Result<Self> {
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
                let writer = Writer::new(shared.clone(), rotation, limits.log_file_retry_interval);
                move || writer.run(&queue)
            })
            .context("cannot start the output thread")?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Creates a stream of a component.
    ///
    /// # Errors
    /// Fails if the log file cannot be opened for appending.
    pub(crate) fn stream(
        &self,
        component: Arc<str>,
        source: OutputSource,
        targets: Targets<'_>,
    ) -> anyhow::Result<OutputStream> {
        if let Some(file) = targets.file {
            let prepare = || {
                let file = log_file::open(file)?;
                if targets.truncate {
                    file.set_len(0)?;
                }
                Ok::<_, std::io::Error>(())
            };
            prepare().with_context(|| format!("cannot open the log file {}", file.display()))?;
        }
        Ok(OutputStream {
            shared: self.shared.clone(),
            component,
            source,
            file: targets.file.map(Arc::from),
            echo: targets.echo,
            world: targets.world,
        })
    }
}

/// Where a stream is written to.
pub(crate) struct Targets<'a> {
    /// The log file. It and its folder are created if needed.
    pub(crate) file: Option<&'a Path>,
    /// Empty the log file first. Otherwise it is appended to.
    pub(crate) truncate: bool,
    /// Also write to stderr.
    pub(crate) echo: bool,
    /// Receives the output instead, if it is set.
    pub(crate) world: Option<Arc<World>>,
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
    source: OutputSource,
    file: Option<Arc<Path>>,
    echo: bool,
    world: Option<Arc<World>>,
}

impl OutputStream {
    pub(crate) fn pipe(&self) -> Pipe {
        Pipe(Arc::new(Line {
            stream: self.clone(),
            text: Mutex::new(Vec::new()),
        }))
    }

    fn send(&self, text: Vec<u8>) {
        if let Some(world) = &self.world {
            return world.write(&self.component, self.source, &text);
        }
        let queued = Message::queued_bytes(&text);
        let shared = &self.shared;
        // A blocked terminal must not block the guests.
        if shared.pending_bytes.fetch_add(queued, Relaxed) + queued > shared.max_pending_bytes {
            shared.pending_bytes.fetch_sub(queued, Relaxed);
            shared.dropped_bytes.fetch_add(text.len(), Relaxed);
            return;
        }
        // Fails only at exit, when the thread has stopped.
        let _ = shared.lines.send(Message::Lines {
            component: self.component.clone(),
            file: self.file.clone(),
            echo: self.echo,
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
    use std::fs;

    use super::*;

    /// Returns the targets of a stream that only appends to a file.
    fn append(file: &Path) -> Targets<'_> {
        Targets {
            file: Some(file),
            truncate: false,
            echo: false,
            world: None,
        }
    }

    #[test]
    fn lines_of_instances_do_not_mix() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("logs/a_stdout.txt");
        let output = Output::start(&Limits::DEFAULT, LogRotation::DEFAULT).unwrap();
        let stream = output
            .stream("a".into(), OutputSource::Stdout, append(&file))
            .unwrap();
        let (one, two) = (stream.pipe(), stream.pipe());
        one.0.write(b"on");
        two.0.write(b"two\ntw");
        one.0.write(b"e\n");
        drop(two);
        drop(one);
        drop(output);
        assert_eq!(fs::read_to_string(file).unwrap(), "two\none\ntw\n");
    }

    #[test]
    fn output_is_appended_or_replaces_the_previous() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.txt");
        fs::write(&file, "before\n").unwrap();
        let write = |targets: Targets<'_>, text: &str| {
            let output = Output::start(&Limits::DEFAULT, LogRotation::DEFAULT).unwrap();
            let stream = output
                .stream("a".into(), OutputSource::Stdout, targets)
                .unwrap();
            stream.pipe().0.write(text.as_bytes());
            drop(output);
            fs::read_to_string(&file).unwrap()
        };
        assert_eq!(write(append(&file), "after\n"), "before\nafter\n");
        let truncate = Targets {
            truncate: true,
            ..append(&file)
        };
        assert_eq!(write(truncate, "new\n"), "new\n");
        let no_file = Targets {
            file: None,
            ..append(&file)
        };
        assert_eq!(write(no_file, "lost\n"), "new\n");
    }

    #[test]
    fn the_memory_of_empty_lines_is_limited() {
        let (lines, queue) = mpsc::channel();
        let shared = Arc::new(Shared {
            lines,
            pending_bytes: AtomicUsize::new(0),
            dropped_bytes: AtomicUsize::new(0),
            max_pending_bytes: 10 * Message::queued_bytes(b"\n"),
            max_line_bytes: Limits::DEFAULT.output_line_bytes,
        });
        let stream = OutputStream {
            shared: shared.clone(),
            component: "a".into(),
            source: OutputSource::Stdout,
            file: None,
            echo: false,
            world: None,
        };
        let pipe = stream.pipe();
        for _ in 0..30 {
            pipe.0.write(b"\n");
        }
        assert_eq!(queue.try_iter().count(), 10);
        assert_eq!(shared.dropped_bytes.load(Relaxed), 20);
    }

    #[test]
    fn errors_name_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("logs"), "").unwrap();
        let output = Output::start(&Limits::DEFAULT, LogRotation::DEFAULT).unwrap();
        let file = folder.path().join("logs/a.txt");
        let error = output
            .stream("a".into(), OutputSource::Stdout, append(&file))
            .err()
            .unwrap();
        assert!(format!("{error:#}").contains("logs"), "{error:#}");
    }
}
