//! Guests' stdout and stderr: whole lines, to log files and the terminal, by a thread of their own.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    task::{Context, Poll},
    thread::JoinHandle,
};

use anyhow::Context as _;
use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::{
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamResult},
};

/// Bytes that may wait for the thread. What a guest prints beyond that is dropped and counted: a
/// terminal that stands still must not stop the guests.
const WAITING: usize = 4 << 20;
/// A line longer than this is passed on in pieces.
const LINE: usize = 64 << 10;

/// The thread that writes, and where it writes.
pub struct Output {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    lines: mpsc::Sender<Message>,
    waiting: AtomicUsize,
    dropped: AtomicUsize,
}

enum Message {
    Lines { to: Arc<Path>, text: Vec<u8> },
    Stop,
}

impl Output {
    /// Starts the thread. `echo`: lines also go to stderr.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(echo: bool) -> anyhow::Result<Self> {
        let (lines, queue) = mpsc::channel();
        let shared = Arc::new(Shared {
            lines,
            waiting: AtomicUsize::new(0),
            dropped: AtomicUsize::new(0),
        });
        let thread = std::thread::Builder::new()
            .name("guest-output".into())
            .spawn({
                let shared = shared.clone();
                move || {
                    Writer {
                        shared,
                        echo,
                        files: HashMap::new(),
                    }
                    .run(&queue)
                }
            })
            .context("cannot start the thread for the components' output")?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// A stream that ends in `file`, which is created, with its folder, and appended to.
    ///
    /// # Errors
    /// When the file cannot be opened for appending.
    pub fn stream(&self, file: &Path) -> anyhow::Result<Stream> {
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot create the folder {}", folder.display()))?;
        }
        append(file).with_context(|| format!("cannot open the log file {}", file.display()))?;
        Ok(Stream {
            shared: self.shared.clone(),
            to: file.into(),
        })
    }
}

/// Lines that are on their way are still written.
impl Drop for Output {
    fn drop(&mut self) {
        let stopped = self.shared.lines.send(Message::Stop);
        if let (Ok(()), Some(thread)) = (stopped, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

fn append(file: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).open(file)
}

/// What the thread holds.
struct Writer {
    shared: Arc<Shared>,
    echo: bool,
    /// Opened once; `None` after an error, which is logged.
    files: HashMap<PathBuf, Option<File>>,
}

impl Writer {
    fn run(mut self, queue: &mpsc::Receiver<Message>) {
        while let Ok(Message::Lines { to, text }) = queue.recv() {
            self.shared.waiting.fetch_sub(text.len(), Relaxed);
            self.write(&to, &text);
            match self.shared.dropped.swap(0, Relaxed) {
                0 => {}
                dropped => tracing::warn!(
                    bytes = dropped,
                    "components print faster than their output is written; some of it is lost"
                ),
            }
        }
    }

    fn write(&mut self, to: &Path, text: &[u8]) {
        if self.echo {
            // A closed stderr is no reason to stop: the file has it all.
            let _ = std::io::stderr().lock().write_all(text);
        }
        let file = self.files.entry(to.to_path_buf()).or_insert_with(|| {
            append(to)
                .inspect_err(|error| tracing::error!(%error, file = %to.display(), "cannot log"))
                .ok()
        });
        if let Some(open) = file
            && let Err(error) = open.write_all(text)
        {
            tracing::error!(%error, file = %to.display(), "cannot log; its lines are lost from here");
            *file = None;
        }
    }
}

/// Stdout or stderr of a component. Each instance has a [`Pipe`] of its own into it.
#[derive(Clone)]
pub struct Stream {
    shared: Arc<Shared>,
    to: Arc<Path>,
}

impl Stream {
    /// An instance's end.
    pub fn pipe(&self) -> Pipe {
        Pipe(Arc::new(Line {
            stream: self.clone(),
            text: Mutex::new(Vec::new()),
        }))
    }

    fn send(&self, text: Vec<u8>) {
        let length = text.len();
        if self.shared.waiting.fetch_add(length, Relaxed) + length > WAITING {
            self.shared.waiting.fetch_sub(length, Relaxed);
            self.shared.dropped.fetch_add(length, Relaxed);
            return;
        }
        // Without the thread, at the end of the process, there is nobody to tell.
        let _ = self.shared.lines.send(Message::Lines {
            to: self.to.clone(),
            text,
        });
    }
}

/// Where an instance writes: clones of it make up the same lines.
#[derive(Clone)]
pub struct Pipe(Arc<Line>);

/// The line that is not complete yet, so that the lines of different instances stay whole.
struct Line {
    stream: Stream,
    text: Mutex<Vec<u8>>,
}

impl Line {
    fn text(&self) -> MutexGuard<'_, Vec<u8>> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, bytes: &[u8]) {
        let mut text = self.text();
        text.extend_from_slice(bytes);
        let whole = match text.iter().rposition(|&byte| byte == b'\n') {
            Some(end) => end + 1,
            None if text.len() >= LINE => text.len(),
            None => return,
        };
        let rest = text.split_off(whole);
        let whole = std::mem::replace(&mut *text, rest);
        drop(text);
        self.stream.send(whole);
    }
}

/// An instance that ends within a line has ended the line.
impl Drop for Line {
    fn drop(&mut self) {
        let mut text = std::mem::take(&mut *self.text());
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

    fn p2_stream(&self) -> Box<dyn OutputStream> {
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

impl OutputStream for Pipe {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.0.write(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(LINE)
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
    fn lines_of_two_instances_stay_whole_and_the_last_one_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("logs/a_stdout.txt");
        let output = Output::start(false).unwrap();
        let stream = output.stream(&file).unwrap();
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
    fn a_file_is_appended_to() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.txt");
        std::fs::write(&file, "before\n").unwrap();
        let output = Output::start(false).unwrap();
        output.stream(&file).unwrap().pipe().0.write(b"after\n");
        drop(output);
        assert_eq!(std::fs::read_to_string(file).unwrap(), "before\nafter\n");
    }

    #[test]
    fn a_folder_that_is_a_file_is_an_error_naming_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("logs"), "").unwrap();
        let output = Output::start(false).unwrap();
        let error = output
            .stream(&folder.path().join("logs/a.txt"))
            .err()
            .unwrap();
        assert!(format!("{error:#}").contains("logs"), "{error:#}");
    }
}
